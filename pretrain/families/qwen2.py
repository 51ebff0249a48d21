"""Qwen 2 and 2.5 in Hugging Face's format: LLaMA's block with biases on queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pretrain.families import llama
from pretrain.families.format import ANY, FULL, REQUIRED, WINDOWED, known
from pretrain.families.mapping import same
from pretrain.families.rotary import rotary_settings

if TYPE_CHECKING:
    from pretrain.config import ModelConfig

BLOCK: dict[str, Any] = {
    "positions": "rotary",
    "norm": "rms",
    "norm_epsilon": 1e-6,
    "activation": "swiglu",
    "query_key_value_biases": True,
}
"""Yang et al. 2024, arXiv:2407.10671, section 2.2; norm_epsilon from the released configurations."""


def _to_config(model: ModelConfig) -> dict[str, Any]:
    windows = {"sliding_window": model.sliding_window, "max_window_layers": model.full_attention_first}
    is_windowed = model.sliding_window is not None
    return {**llama.to_config(model), "use_sliding_window": is_windowed, **(windows if is_windowed else {})}


def from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**llama.grouped_heads(config), **rotary_settings(config, 10000.0), **_windows(config)}


def _windows(config: Mapping[str, Any]) -> dict[str, Any]:
    """Sliding window of the layers from a certain one on."""
    known(config, "use_sliding_window", False, True)
    layers = config["num_hidden_layers"]
    window = config.get("sliding_window", 4096) if config.get("use_sliding_window") else None
    start = layers if window is None else config.get("max_window_layers", 28)
    kinds = config.get("layer_types", [WINDOWED if layer >= start else FULL for layer in range(layers)])
    first = kinds.index(WINDOWED) if WINDOWED in kinds else layers
    if kinds != [FULL] * first + [WINDOWED] * (layers - first) or (window is None and first < layers):
        raise ValueError(
            f"config.json: layer_types: {kinds} is not supported, only {FULL}, and after it {WINDOWED} with "
            "use_sliding_window and a number as sliding_window"
        )
    return {"sliding_window": window, "full_attention_first": first} if first < layers else {}


FORMAT = replace(
    llama.FORMAT,
    family="qwen2",
    name="transformers' Qwen2",
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    weights={
        **llama.FORMAT.weights,
        "layers.{}.attention.query_key_value.bias": same(
            "model.layers.{}.self_attn.q_proj.bias",
            "model.layers.{}.self_attn.k_proj.bias",
            "model.layers.{}.self_attn.v_proj.bias",
        ),
    },
    computes={
        **llama.FORMAT.computes,
        "query_key_value_biases": True,
        "sliding_window": ANY,
        "full_attention_first": ANY,
    },
    entries={
        **llama.FORMAT.entries,
        "num_key_value_heads": ("key_value_heads", REQUIRED),  # whose default is a number, not that of the heads
        "max_position_embeddings": ("maximum_positions", 32768),
    },
    constants={"hidden_act": "silu"},
    nullable=("sliding_window",),
    to_config=_to_config,
    from_config=from_config,
)
