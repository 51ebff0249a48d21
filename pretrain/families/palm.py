"""PaLM as Hugging Face's Cohere, which has the same block: attention and SwiGLU in parallel after one LayerNorm without
bias, interleaved rotary positions, a tied embedding and scaled logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pretrain.families import llama
from pretrain.families.rotary import rope_theta

BLOCK: dict[str, Any] = {
    "positions": "rotary_interleaved",
    "norm": "layer_without_bias",
    "block": "parallel",
    "activation": "swiglu",
    "tied_embedding": True,
    "initialisation": "fan_in",
    "z_loss": 1e-4,
}
"""Chowdhery et al. 2022, arXiv:2204.02311, sections 2 and 5."""

_LLAMA_ONLY = ("rms_norm_eps", "initializer_range", "tie_word_embeddings")
"""Entries of LLaMA that PaLM lacks: its initialisation sets every standard deviation, and its embedding is always
tied."""


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    # No default: that of transformers 4 is 10000, that of transformers 5 is 500000.
    return {**llama.grouped_heads(config), "rope_theta": rope_theta(config, None)}


FORMAT = replace(
    llama.FORMAT,
    family="palm",
    name="transformers' Cohere",
    model_type="cohere",
    architecture="CohereForCausalLM",
    weights={
        name: source
        for name, source in llama.FORMAT.weights.items()
        if "mlp_norm" not in name and name != "head.weight"
    },
    computes={
        "positions": "rotary_interleaved",
        "norm": "layer_without_bias",
        "embedding_norm": False,
        "block": "parallel",
        "activation": "swiglu",
        "biases": False,
        "query_key_value_biases": False,
        "rope_scaling": None,
        "tied_embedding": True,
    },
    entries={
        **{theirs: entry for theirs, entry in llama.FORMAT.entries.items() if theirs not in _LLAMA_ONLY},
        "layer_norm_eps": ("norm_epsilon", 1e-5),
        "logit_scale": ("logit_scale", 0.0625),
    },
    constants={"hidden_act": "silu", "attention_bias": False, "tie_word_embeddings": True, "use_qk_norm": False},
    from_config=_from_config,
)
