"""OLMo 2 in Hugging Face's format: norms after attention and MLP, and of all queries and keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pretrain.families import llama
from pretrain.families.mapping import same

BLOCK: dict[str, Any] = {
    "positions": "rotary",
    "norm": "rms",
    "norm_epsilon": 1e-6,
    "block": "post_norm",
    "activation": "swiglu",
    "query_key_norm": "all_heads",
}
"""OLMo et al. 2024, arXiv:2501.00656, section 2.1; norm_epsilon from the released configurations."""

FORMAT = replace(
    llama.FORMAT,
    family="olmo2",
    name="transformers' OLMo 2",
    model_type="olmo2",
    architecture="Olmo2ForCausalLM",
    weights={
        **llama.FORMAT.weights,
        "layers.{}.attention_norm.weight": same("model.layers.{}.post_attention_layernorm.weight"),
        "layers.{}.mlp_norm.weight": same("model.layers.{}.post_feedforward_layernorm.weight"),
        "layers.{}.attention.query_norm.weight": same("model.layers.{}.self_attn.q_norm.weight"),
        "layers.{}.attention.key_norm.weight": same("model.layers.{}.self_attn.k_norm.weight"),
    },
    computes={**llama.FORMAT.computes, "block": "post_norm", "query_key_norm": "all_heads"},
    entries={**llama.FORMAT.entries, "rms_norm_eps": ("norm_epsilon", 1e-5)},
    constants={"hidden_act": "silu", "attention_bias": False},
)
