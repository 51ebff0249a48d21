"""The model as a list of pipeline layers, with the names of their weights in a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from pretrain.config import ModelConfig
from pretrain.model.adapter import add_adapters
from pretrain.model.block import Block, EmbeddedPositions, Embedding, FinalNorm, Head, HeadFactors
from pretrain.model.linear import TensorParallel
from pretrain.model.plain import soft_capped
from pretrain.model.recomputation import recompute
from pretrain.tuning import AdapterConfig


@dataclass(frozen=True)
class PipelineLayer:
    """One indivisible layer.

    Attributes:
        prefix: prefix that makes the module's parameter names global.
        build: creates the module on the rank that owns it.
        flops: forward floating-point operations per token, by which layers are assigned to stages. By parameters an
            embedding would count as much as the head, though it does next to no work.
        tied: layers with the same key are one module, whose weights all of them train; None: not tied.
        tied_weights: names of the tied module's parameters.
        recompute: the backward pass runs the layer again instead of saving its activations.
        is_head: the layer runs the module's `head_factors` instead of its `forward`.
    """

    prefix: str
    build: Callable[[], nn.Module]
    flops: int
    tied: str | None = None
    tied_weights: tuple[str, ...] = ("embedding.weight",)
    is_head: bool = False
    recompute: bool = False

    def run(self, module: nn.Module, x: Any) -> Any:
        """Apply the layer to the tensors that stages pass on: the activations alone, or a tuple with the layout [B, S,
        C] where samples have one and their keys [B] where dropout is on."""
        activations, *beside = x if isinstance(x, tuple) else (x,)
        if self.is_head:
            return module.head_factors(activations)  # type: ignore[operator]
        layout_BSC = next((tensor for tensor in beside if tensor.ndim == 3), None)
        keys_B = next((tensor for tensor in beside if tensor.ndim == 1), None)
        inputs = activations, layout_BSC, keys_B
        y = recompute(module, *inputs) if self.recompute and torch.is_grad_enabled() else module(*inputs)
        return (y, *beside) if beside else y


def pipeline_layers(
    config: ModelConfig,
    sequence_length: int,
    tensor_parallel: TensorParallel,
    recomputation: Literal["none", "selective", "full"] = "none",
    adapter: AdapterConfig | None = None,
) -> list[PipelineLayer]:
    """Embedding, blocks, head."""

    def block(index: int) -> nn.Module:
        built = Block(config, tensor_parallel, index, recompute_scores=recomputation == "selective")
        return built if adapter is None else add_adapters(built, index, adapter, tensor_parallel)

    hidden, head_size = config.hidden_size, config.head_size
    qkv = hidden * head_size * (config.attention_heads + 2 * config.key_value_heads)
    mlp = (3 if config.is_gated else 2) * hidden * config.feed_forward_size
    weights = qkv + hidden * head_size * config.attention_heads + mlp
    # Two products of the scores' shape; half of each is masked.
    attention = 2 * head_size * config.attention_heads * config.attended_length(sequence_length) // 2
    block_flops = 2 * (weights + attention)
    head_flops = 2 * hidden * config.padded_vocabulary_size(tensor_parallel.degree)
    tied = "embedding" if config.tied_embedding else None
    layers = [PipelineLayer("", partial(Embedding, config, tensor_parallel), hidden, tied)]
    if config.positions.startswith("learned") or config.embedding_norm or config.hidden_dropout:
        layers.append(PipelineLayer("", partial(EmbeddedPositions, config, tensor_parallel), hidden))
    layers += [
        PipelineLayer(
            f"layers.{index}.",
            partial(block, index),
            block_flops,
            recompute=recomputation == "full",
        )
        for index in range(config.layers)
    ]
    if tied:
        # The head's cost is assigned to the norm before it, so that no stage begins between the two: DeepSpeed's ZeRO
        # sums the gradient norm once for each group of weights, and a stage with a matrix alone would wait for ever.
        layers.append(PipelineLayer("", partial(FinalNorm, config, tensor_parallel), head_flops))
        layers.append(PipelineLayer("", layers[0].build, 0, tied, is_head=True))
    else:
        layers.append(PipelineLayer("", partial(Head, config, tensor_parallel), head_flops, is_head=True))
    return layers


class WholeModel(nn.Module):
    """All layers in one process, for comparison and inspection, not for training."""

    def __init__(
        self, config: ModelConfig, tensor_parallel: TensorParallel, adapter: AdapterConfig | None = None
    ) -> None:
        super().__init__()
        self.logit_soft_cap = config.logit_soft_cap
        self.planned = pipeline_layers(config, config.maximum_positions, tensor_parallel, adapter=adapter)
        shared: dict[str, nn.Module] = {}
        self.layers = nn.ModuleList()
        for layer in self.planned:
            module = shared[layer.tied] if layer.tied in shared else layer.build()
            if layer.tied:
                shared[layer.tied] = module
            self.layers.append(module)

    def forward(self, tokens_BS: torch.Tensor, layout_BSC: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [S, B, V], padding rows included."""
        factors = self.head_factors(tokens_BS if layout_BSC is None else (tokens_BS, layout_BSC))
        return soft_capped(F.linear(factors.x_SBD, factors.weight_VD), self.logit_soft_cap)

    def head_factors(self, inputs: Any) -> HeadFactors:
        """Factors of the logits, for the inputs of a batch, see `objective.Batch`."""
        x = inputs
        for planned, layer in zip(self.planned, self.layers, strict=True):
            x = planned.run(layer, x)
        assert isinstance(x, HeadFactors)
        return x

    def named_global_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(global name, parameter), each once, in the model's order."""
        seen = set()
        for planned, layer in zip(self.planned, self.layers, strict=True):
            for name, parameter in layer.named_parameters():
                if planned.prefix + name not in seen:
                    seen.add(planned.prefix + name)
                    yield planned.prefix + name, parameter
