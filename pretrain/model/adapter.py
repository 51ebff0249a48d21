"""Low-rank adapters beside the tensor-parallel linear layers of a block, whose own weights stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pretrain.model.dropout import adapter_site, drop_hidden
from pretrain.model.linear import TensorParallel, summed_output, whole_input
from pretrain.model.partition import mark_sharded, partition_of
from pretrain.tuning import PARTS, AdapterConfig


class LowRank(nn.Module):
    """s · B A dropout(x), which is added to the output of a linear layer.

    The rows of B are those of the layer's weight: split with the outputs of a column-parallel layer. A is split with
    the inputs of a row-parallel one, and A x is summed before it is multiplied by B. The other factor is replicated.
    A fused layer has one A for each adapted block of rows, one below the other, and zeros for the other blocks.

    Args:
        layer: the column- or row-parallel linear layer.
        parts: indices of its adapted blocks of rows.
        site: dropout site, see `dropout.py`.

    Source: Hu et al. 2021, LoRA, arXiv:2106.09685, section 4.1.
    """

    def __init__(
        self,
        layer: Any,
        parts: tuple[int, ...],
        adapter: AdapterConfig,
        tensor_parallel: TensorParallel,
        site: int,
    ) -> None:
        super().__init__()
        partition = partition_of(layer.weight)
        assert partition is not None
        self.rank, self.scale, self.dropout = adapter.rank, adapter.scale, adapter.dropout
        self.parts, self.tensor_parallel = parts, tensor_parallel
        self.dropout_site = torch.tensor(site)  # a tensor, so that one compiled graph serves all layers
        outputs, inputs = layer.weight.shape
        self.is_column = partition.dim == 0
        sizes = partition.sizes(tensor_parallel.rank, tensor_parallel.degree)
        self.output_sizes = sizes if self.is_column else [outputs]
        self.first_input = 0 if self.is_column else tensor_parallel.rank * inputs
        self.inputs = inputs if self.is_column else sum(partition.blocks)
        rows = sum(self.output_sizes[part] for part in parts)
        self.a = nn.Parameter(torch.empty(len(parts) * adapter.rank, inputs, dtype=layer.weight.dtype))
        self.b = nn.Parameter(torch.empty(rows, adapter.rank, dtype=layer.weight.dtype))
        if self.is_column:
            mark_sharded(self.b, 0, tuple(partition.blocks[part] for part in parts))
        else:
            mark_sharded(self.a, 1, partition.blocks)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> LowRank:
        super()._apply(fn, recurse)
        self.dropout_site = self.dropout_site.to(self.a.device)
        return self

    def forward(self, x: torch.Tensor, keys_B: torch.Tensor | None = None) -> torch.Tensor:
        """Addition to the layer's output, for the layer's input: [S, B, inputs] to [S, B, outputs], with the positions
        and the shares of a rank that the layer takes and yields."""
        if keys_B is not None and self.dropout and self.training:
            axes = self.tensor_parallel
            places_S = axes.places(x) if self.is_column else axes.context.places(len(x), x.device)
            x = drop_hidden(x, self.dropout, keys_B, self.dropout_site, places_S, self.first_input, self.inputs)
        low = self._shared(F.linear(x, self.a)) * self.scale
        products = self._products(low)
        return products[0] if len(products) == 1 else torch.cat(products, -1)

    def _shared(self, low: torch.Tensor) -> torch.Tensor:
        """A x at the positions of the layer's output, the same on every rank of the group."""
        share = whole_input if self.is_column else summed_output
        return share(low, self.tensor_parallel.group, self.tensor_parallel.sequence)

    def _products(self, low: torch.Tensor) -> list[torch.Tensor]:
        """B A x of each block of rows of the layer; zeros for those without an adapter."""
        factors = self.b.split([self.output_sizes[part] for part in self.parts])
        pairs = dict(zip(self.parts, zip(low.split(self.rank, -1), factors, strict=True), strict=True))
        return [
            F.linear(*pairs[part]) if part in pairs else low.new_zeros(*low.shape[:-1], size)
            for part, size in enumerate(self.output_sizes)
        ]


def add_adapters(
    block: nn.Module, layer_index: int, adapter: AdapterConfig, tensor_parallel: TensorParallel
) -> nn.Module:
    """Give the linear layers of a block their adapters, as their module `lora`. Returns the block."""
    places = list(PARTS)
    for name, layer in list(block.named_modules()):
        short = name.rpartition(".")[2]
        parts = adapter.adapted_parts(short)
        if parts:
            site = adapter_site(layer_index, places.index(short), len(places))
            layer.lora = LowRank(layer, parts, adapter, tensor_parallel, site)
    return block
