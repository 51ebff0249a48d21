"""Qwen 3 (dense) in Hugging Face's format: LLaMA's block with norms of queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pretrain.families import llama, qwen2
from pretrain.families.mapping import same

BLOCK: dict[str, Any] = {
    "positions": "rotary",
    "norm": "rms",
    "norm_epsilon": 1e-6,
    "activation": "swiglu",
    "query_key_norm": "per_head",
}
"""Yang et al. 2025, arXiv:2505.09388, section 2; norm_epsilon from the released configurations."""


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    return qwen2.from_config({"head_dim": 128, **config})  # transformers' default, whatever the hidden size


FORMAT = replace(
    qwen2.FORMAT,
    family="qwen3",
    name="transformers' Qwen3",
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    weights={
        **llama.FORMAT.weights,
        "layers.{}.attention.query_norm.weight": same("model.layers.{}.self_attn.q_norm.weight"),
        "layers.{}.attention.key_norm.weight": same("model.layers.{}.self_attn.k_norm.weight"),
    },
    computes={**qwen2.FORMAT.computes, "query_key_value_biases": False, "query_key_norm": "per_head"},
    constants={**qwen2.FORMAT.constants, "attention_bias": False},
    from_config=_from_config,
)
