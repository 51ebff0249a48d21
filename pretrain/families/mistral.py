"""Mistral 7B in Hugging Face's format: LLaMA's block with a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pretrain.families import llama
from pretrain.families.format import ANY, known
from pretrain.families.rotary import rotary_settings

if TYPE_CHECKING:
    from pretrain.config import ModelConfig

BLOCK: dict[str, Any] = {
    "positions": "rotary",
    "norm": "rms",
    "activation": "swiglu",
}
"""Jiang et al. 2023, arXiv:2310.06825, section 2. The first release has `sliding_window: 4096`, later ones none."""

_DEFAULTS = {"num_key_value_heads": 8, "sliding_window": 4096}
"""What transformers takes where the entry is missing; a null means a key/value head for each head, and no window."""


def _to_config(model: ModelConfig) -> dict[str, Any]:
    return {**llama.to_config(model), "sliding_window": model.sliding_window}


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    known(config, "layer_types", None)
    config = {**_DEFAULTS, **config}
    return {
        **llama.grouped_heads(config),
        "sliding_window": config["sliding_window"],
        **rotary_settings(config, 10000.0),
    }


FORMAT = replace(
    llama.FORMAT,
    family="mistral",
    name="transformers' Mistral",
    model_type="mistral",
    architecture="MistralForCausalLM",
    computes={**llama.FORMAT.computes, "sliding_window": ANY},
    entries={**llama.FORMAT.entries, "max_position_embeddings": ("maximum_positions", 131072)},
    constants={"hidden_act": "silu"},
    to_config=_to_config,
    from_config=_from_config,
    nullable=tuple(_DEFAULTS),
)
