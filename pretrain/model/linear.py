"""megatron-core's tensor-parallel layers, with our initialisation and our record of how each weight is cut."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from pretrain.quick_import import quick_import

with quick_import():
    from megatron.core.model_parallel_config import ModelParallelConfig
    from megatron.core.tensor_parallel import (
        ColumnParallelLinear,
        RowParallelLinear,
        VocabParallelEmbedding,
        copy_to_tensor_model_parallel_region,
        gather_from_sequence_parallel_region,
        reduce_from_tensor_model_parallel_region,
        reduce_scatter_to_sequence_parallel_region,
    )

from pretrain.device import prepare_sequence_parallel
from pretrain.model.collectives import GatherPositions, Sum, SumAndSplitPositions, SumGradients
from pretrain.model.context import ContextParallel
from pretrain.model.partition import Partition, mark_sharded, partition_of


def _initialised_elsewhere(weight: torch.Tensor) -> None:
    """Do nothing: megatron-core needs an initialiser; ours runs once over the whole model, see
    `pretrain/model/init.py`."""


def product(
    layer: ColumnParallelLinear | RowParallelLinear, x: torch.Tensor, keys_B: torch.Tensor | None = None
) -> torch.Tensor:
    """Output of a tensor-parallel layer, with its adapter where it has one, see `adapter.py`.

    Args:
        keys_B: keys of the samples for the adapter's dropout; None: nothing is dropped.
    """
    y = _own_product(layer, x)
    adapter = getattr(layer, "lora", None)
    return y if adapter is None else y + adapter(x, keys_B)


def _own_product(layer: ColumnParallelLinear | RowParallelLinear, x: torch.Tensor) -> torch.Tensor:
    """Output of the layer's own weight. Compiled code uses the layer's weights only: megatron-core's own function
    starts a collective beside a product, which torch's compiler cannot follow; it can move the ones used here. So does
    a frozen weight with a trained bias, to which megatron-core 0.16.1 gives no gradient."""
    has_own_bias = layer.bias is not None and layer.bias.requires_grad and not layer.weight.requires_grad
    if not torch.compiler.is_compiling() and not has_own_bias:
        y, _ = layer(x)
        return y
    if isinstance(layer, ColumnParallelLinear):
        return F.linear(whole_input(x, layer.tp_group, layer.sequence_parallel), layer.weight, layer.bias)
    y = summed_output(F.linear(x, layer.weight), layer.tp_group, layer.sequence_parallel)
    return y if layer.bias is None else y + layer.bias


def whole_input(x: torch.Tensor, group: torch.distributed.ProcessGroup, sequence: bool) -> torch.Tensor:
    """Input of a product whose outputs are split over the group: all positions; the gradient is summed."""
    if group.size() == 1:
        return x
    if torch.compiler.is_compiling():
        whole: torch.Tensor = (GatherPositions if sequence else SumGradients).apply(x, group)
        return whole
    if sequence:
        return gather_from_sequence_parallel_region(x, group=group)
    return copy_to_tensor_model_parallel_region(x, group)


def summed_output(y: torch.Tensor, group: torch.distributed.ProcessGroup, sequence: bool) -> torch.Tensor:
    """Output of a product whose inputs are split over the group: the sum; under sequence parallelism, of which a rank
    keeps its share of the positions."""
    if group.size() == 1:
        return y
    if torch.compiler.is_compiling():
        total: torch.Tensor = (SumAndSplitPositions if sequence else Sum).apply(y, group)
        return total
    if sequence:
        return reduce_scatter_to_sequence_parallel_region(y, group=group)
    return reduce_from_tensor_model_parallel_region(y, group)


def is_row_parallel(module: torch.nn.Module) -> bool:
    """Whether the module's output is a sum over the tensor ranks."""
    return isinstance(module, RowParallelLinear)


class TensorParallel:
    """Makes the layers of one tensor-parallel group.

    Args:
        group: the process group of the tensor axis.
        dtype: dtype of the weights.
        sequence: sequence parallelism: between the layers, a rank has its share of the positions instead of all.
        deterministic: the embedding's gradient is summed in a fixed order on a GPU too.
        context: this rank's share of a sample's tokens; None: all of them.
    """

    def __init__(
        self,
        group: torch.distributed.ProcessGroup,
        dtype: torch.dtype,
        sequence: bool = False,
        *,
        deterministic: bool = False,
        context: ContextParallel | None = None,
    ) -> None:
        self.context = context or ContextParallel()
        self.group = group
        self.degree = group.size()
        self.rank = group.rank()
        self.dtype = dtype
        self.sequence = sequence
        if sequence:
            prepare_sequence_parallel()
        # Weights are created on the CPU and moved by DeepSpeed: otherwise megatron-core needs a CUDA device.
        self._config = ModelParallelConfig(
            tensor_model_parallel_size=self.degree,
            params_dtype=dtype,
            sequence_parallel=sequence,
            deterministic_mode=deterministic and torch.cuda.is_available(),
            use_cpu_initialization=True,
            perform_initialization=False,
        )

    def column(self, input_size: int, output_blocks: tuple[int, ...], bias: bool = False) -> ColumnParallelLinear:
        """A linear layer whose outputs, block by block, are split over the group, see `Partition`."""
        own = sum(Partition(0, output_blocks).sizes(self.rank, self.degree))
        layer = ColumnParallelLinear(
            input_size,
            own * self.degree,  # megatron-core divides it by the degree, and uses it for nothing else
            config=self._config,
            init_method=_initialised_elsewhere,
            bias=bias,
            tp_group=self.group,
        )
        mark_sharded(layer.weight, 0, output_blocks)
        if bias:
            mark_sharded(layer.bias, 0, output_blocks)
        return layer

    def row(self, input_size: int, output_size: int, bias: bool = False) -> RowParallelLinear:
        """A linear layer whose inputs are split over the group; the outputs are summed over it before the bias is
        added."""
        Partition(1, (input_size,)).check("row-parallel layer", self.degree)
        layer = RowParallelLinear(
            input_size,
            output_size,
            config=self._config,
            init_method=_initialised_elsewhere,
            bias=bias,
            input_is_parallel=True,
            skip_bias_add=False,
            tp_group=self.group,
        )
        mark_sharded(layer.weight, 1, (input_size,))
        return layer

    def embedding(self, vocabulary_size: int, hidden_size: int) -> VocabParallelEmbedding:
        """An embedding whose rows are split over the group."""
        Partition(0, (vocabulary_size,)).check("embedding", self.degree)
        layer = VocabParallelEmbedding(
            vocabulary_size,
            hidden_size,
            config=self._config,
            init_method=_initialised_elsewhere,
            reduce_scatter_embeddings=self.sequence,
            tp_group=self.group,
        )
        mark_sharded(layer.weight, 0, (vocabulary_size,))
        return layer

    def own_positions(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """This rank's share of the positions along `dim`; all of them without sequence parallelism."""
        return x.chunk(self.degree, dim)[self.rank] if self.sequence else x

    def places(self, x_SBD: torch.Tensor) -> torch.Tensor:
        """Place in the sample of each position of `x`, this rank's share, int64 [S]."""
        length = len(x_SBD) * (self.degree if self.sequence else 1)
        return self.own_positions(self.context.places(length, x_SBD.device), 0)

    def whole(self, x: torch.Tensor) -> torch.Tensor:
        """Input of a column-parallel product, at all positions; the gradient is summed over the group."""
        return whole_input(x, self.group, self.sequence)

    def has_partial_gradient(self, parameter: torch.nn.Parameter) -> bool:
        """Whether each rank of the group has a part of this replicated weight's gradient.

        Under sequence parallelism a rank processes only some of the positions, so that its gradients of norms, of
        biases after a sum and of positions are partial sums; those of norms of single heads always are.
        """
        is_partial = self.sequence or getattr(parameter, "has_partial_gradient", False)
        return is_partial and self.degree > 1 and partition_of(parameter) is None

    def sum_partial_gradients(self, gradients: Sequence[torch.Tensor]) -> None:
        """Sum partial gradients over the group, in place, in one collective. Without this sum the loss and the gradient
        norm hardly differ, but these weights are trained wrongly.

        Args:
            gradients: fp32, of a whole step, so that each crosses the network once.
        """
        if not gradients:
            return
        total = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(total, group=self.group)
        for gradient, part in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
