"""Names, shapes and layouts of a model's weights in megatron-core's checkpoints.

Source: `sharded_state_dict` of `GPTModel` and its layers in megatron-core 0.16.1, with both specs (local, Transformer
Engine).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pretrain.config import ModelConfig
from pretrain.families.mapping import weight_shapes

WHOLE = {
    "embedding": "embedding.word_embeddings.",
    "positions": "embedding.position_embeddings.",
    "final_norm": "decoder.final_layernorm.",
    "head": "output_layer.",
}
"""Beginnings of their names, by our name of the layer; `weight` or `bias` follows."""

LAYERS = "decoder.layers."
"""Beginning of the names of the blocks' weights."""

BLOCK = {
    "attention_norm": "self_attention.linear_qkv.layer_norm_",
    "attention.query_key_value": "self_attention.linear_qkv.",
    "attention.query_norm": "self_attention.q_layernorm.",
    "attention.key_norm": "self_attention.k_layernorm.",
    "attention.output": "self_attention.linear_proj.",
    "mlp_norm": "mlp.linear_fc1.layer_norm_",
    "mlp.up": "mlp.linear_fc1.",
    "mlp.gate_up": "mlp.linear_fc1.",
    "mlp.down": "mlp.linear_fc2.",
}
"""The same within a block. Both specs store a block's norms as parts of the layers behind them."""

OTHER_NAMES = {"attention_norm": "input_layernorm.", "mlp_norm": "pre_mlp_layernorm."}
"""Names of a block's norms where a spec does not rename them."""

WITH_EXTRA_STATE = (
    "self_attention.core_attention",
    "self_attention.linear_qkv",
    "self_attention.q_layernorm",
    "self_attention.k_layernorm",
    "self_attention.linear_proj",
    "mlp.linear_fc1",
    "mlp.linear_fc2",
)
"""Modules of a block for which their loader needs an `_extra_state`, with the local layers or with those of Transformer
Engine, whose norms have one too. It is empty without 8-bit training. Keys beyond those of a model are passed over."""


def extra_states(layers: int) -> list[str]:
    """Keys of every `_extra_state`, of the blocks and of the last norm."""
    blocks = [f"{LAYERS}{module}._extra_state/shard_{i}_{layers}" for i in range(layers) for module in WITH_EXTRA_STATE]
    return [*blocks, "decoder.final_layernorm._extra_state/shard_0_1"]


@dataclass(frozen=True)
class Place:
    """A weight of ours in a checkpoint of theirs.

    Attributes:
        layer: index of its block; None: it is outside of the blocks.
        names: its name, within its block if it has one; several where versions differ, the usual one first.
        shape: its shape, without an axis of layers.
    """

    layer: int | None
    names: tuple[str, ...]
    shape: tuple[int, ...]

    def candidates(self) -> list[tuple[str, int | None]]:
        """Keys that it may have, each with its index along a first axis of all layers; None: there is no such axis."""
        if self.layer is None:
            return [(name, None) for name in self.names]
        stacked: list[tuple[str, int | None]] = [(LAYERS + name, self.layer) for name in self.names]
        return stacked + [(f"{LAYERS}{self.layer}.{name}", None) for name in self.names]


def places(model: ModelConfig) -> dict[str, Place]:
    """Where each weight of a model is, by our name and in the model's order."""
    found = {}
    for name, (shape, _) in weight_shapes(model).items():
        module, part = name.rsplit(".", 1)
        if module in WHOLE:
            found[name] = Place(None, (WHOLE[module] + part,), shape)
            continue
        _, index, inner = module.split(".", 2)
        names = (BLOCK[inner], *([OTHER_NAMES[inner]] if inner in OTHER_NAMES else []))
        found[name] = Place(int(index), tuple(beginning + part for beginning in names), shape)
    return found


def is_grouped(name: str) -> bool:
    """Whether their rows of a weight, by our name, are ordered by group of heads."""
    return name.rpartition(".")[0].endswith("attention.query_key_value")


def by_part(model: ModelConfig, rows: torch.Tensor) -> torch.Tensor:
    """All queries, all keys, all values, from the rows of one group of heads after the other: its queries, its key, its
    value."""
    each = model.attention_heads // model.key_value_heads
    grouped = rows.unflatten(0, (model.key_value_heads, each + 2, model.head_size))
    return torch.cat([part.flatten(0, 2) for part in grouped.split([each, 1, 1], dim=1)])


def by_group(model: ModelConfig, rows: torch.Tensor) -> torch.Tensor:
    """The inverse of `by_part`."""
    groups, size = model.key_value_heads, model.head_size
    sizes = [model.attention_heads * size, groups * size, groups * size]
    parts = [part.unflatten(0, (groups, -1, size)) for part in rows.split(sizes)]
    return torch.cat(parts, dim=1).flatten(0, 2)


def check_computed(model: ModelConfig, computed: Mapping[str, tuple[Any, ...]], program: str) -> None:
    """Refuse a model that another program does not compute.

    Args:
        computed: values by setting that it computes.

    Raises:
        ValueError: names the setting, its value and the values that it computes.
    """
    for setting, allowed in computed.items():
        if getattr(model, setting) not in allowed:
            wanted = " or ".join(map(str, allowed))
            raise ValueError(f"model.{setting}: {getattr(model, setting)} is not in {program}, only {wanted}")
