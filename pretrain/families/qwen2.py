"""Qwen 2 and 2.5 in Hugging Face's format: LLaMA's block with biases on queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pretrain.families import llama
from pretrain.families.format import REQUIRED
from pretrain.families.mapping import same
from pretrain.families.rotary import rotary_settings

BLOCK: dict[str, Any] = {
    "positions": "rotary",
    "norm": "rms",
    "norm_epsilon": 1e-6,
    "activation": "swiglu",
    "query_key_value_biases": True,
}
"""Yang et al. 2024, arXiv:2407.10671, section 2.2; norm_epsilon from the released configurations."""


def from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    kinds = config.get("layer_types", [])
    windowed = [kind for kind in kinds if kind != "full_attention"]
    if windowed:
        raise ValueError(f"config.json: layer_types: {windowed[0]!r} is not supported, only 'full_attention'")
    return {**llama.grouped_heads(config), **rotary_settings(config, 10000.0)}


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
    computes={**llama.FORMAT.computes, "query_key_value_biases": True},
    entries={
        **llama.FORMAT.entries,
        "num_key_value_heads": ("key_value_heads", REQUIRED),  # whose default is a number, not that of the heads
        "max_position_embeddings": ("maximum_positions", 32768),
    },
    constants={"hidden_act": "silu", "use_sliding_window": False},
    from_config=from_config,
)
