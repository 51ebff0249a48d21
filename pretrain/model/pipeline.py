"""The model as a list of pipeline layers, with the name that each one's weights carry in a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from pretrain.config import ModelConfig
from pretrain.model.block import Block, Embedding, Head
from pretrain.model.linear import TensorParallel


@dataclass(frozen=True)
class PipelineLayer:
    """One indivisible layer.

    Attributes:
        prefix: put before the module's parameter names to give their global names.
        build: makes the module on the rank that owns it.
        flops: forward floating-point operations of one token, by which layers are dealt to stages. By parameters an
            embedding would count for as much as the head, though it does next to no work.
    """

    prefix: str
    build: Callable[[], nn.Module]
    flops: int


def pipeline_layers(config: ModelConfig, sequence_length: int, tensor_parallel: TensorParallel) -> list[PipelineLayer]:
    """Embedding, blocks, head."""
    hidden, head_size = config.hidden_size, config.head_size
    qkv = hidden * head_size * (config.attention_heads + 2 * config.key_value_heads)
    weights = qkv + hidden * head_size * config.attention_heads + 3 * hidden * config.feed_forward_size
    # Two products of the scores' shape, half of each in the future of its row.
    attention = 2 * head_size * config.attention_heads * sequence_length // 2
    block_flops = 2 * (weights + attention)
    return [
        PipelineLayer("", partial(Embedding, config, tensor_parallel), hidden),
        *(
            PipelineLayer(f"layers.{index}.", partial(Block, config, tensor_parallel), block_flops)
            for index in range(config.layers)
        ),
        PipelineLayer("", partial(Head, config, tensor_parallel), 2 * hidden * config.padded_vocabulary_size),
    ]
