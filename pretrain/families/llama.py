"""LLaMA 1 and 2 in Hugging Face's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pretrain.families.format import REQUIRED, Format
from pretrain.families.mapping import same
from pretrain.families.rotary import rotary_entries, rotary_settings

if TYPE_CHECKING:
    from pretrain.config import ModelConfig

BLOCK: dict[str, Any] = {
    "positions": "rotary",
    "norm": "rms",
    "activation": "swiglu",
}
"""Touvron et al. 2023, arXiv:2302.13971, section 2.2, and arXiv:2307.09288, section 2.2."""


def to_config(model: ModelConfig) -> dict[str, Any]:
    return {"head_dim": model.head_size, **rotary_entries(model)}


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**grouped_heads(config), **rotary_settings(config, 10000.0)}


def grouped_heads(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a model with grouped heads: key/value heads and size of a head."""
    heads, size = config["num_attention_heads"], config.get("head_dim")
    return {
        "key_value_heads": config.get("num_key_value_heads", heads),
        "attention_head_size": None if size is None or size * heads == config["hidden_size"] else size,
    }


# Rows are copied unchanged: our rotary positions rotate the two halves of a head, as transformers does, so that queries
# and keys need no permutation (Meta's own files interleave the pairs). Padding rows of embedding and head are dropped.
FORMAT = Format(
    family="llama",
    name="transformers' LLaMA",
    model_type="llama",
    architecture="LlamaForCausalLM",
    prefix="model.",
    weights={
        "embedding.weight": same("model.embed_tokens.weight"),
        "layers.{}.attention_norm.weight": same("model.layers.{}.input_layernorm.weight"),
        "layers.{}.attention.query_key_value.weight": same(
            "model.layers.{}.self_attn.q_proj.weight",
            "model.layers.{}.self_attn.k_proj.weight",
            "model.layers.{}.self_attn.v_proj.weight",
        ),
        "layers.{}.attention.output.weight": same("model.layers.{}.self_attn.o_proj.weight"),
        "layers.{}.mlp_norm.weight": same("model.layers.{}.post_attention_layernorm.weight"),
        "layers.{}.mlp.gate_up.weight": same(
            "model.layers.{}.mlp.gate_proj.weight", "model.layers.{}.mlp.up_proj.weight"
        ),
        "layers.{}.mlp.down.weight": same("model.layers.{}.mlp.down_proj.weight"),
        "final_norm.weight": same("model.norm.weight"),
        "head.weight": same("lm_head.weight"),
    },
    computes={
        "positions": "rotary",
        "norm": "rms",
        "embedding_norm": False,
        "block": "sequential",
        "activation": "swiglu",
        "biases": False,
        "query_key_value_biases": False,
        "normalised_head": False,
        "logit_scale": 1.0,
    },
    entries={
        "vocab_size": ("vocabulary_size", REQUIRED),
        "hidden_size": ("hidden_size", REQUIRED),
        "num_hidden_layers": ("layers", REQUIRED),
        "num_attention_heads": ("attention_heads", REQUIRED),
        "num_key_value_heads": ("key_value_heads", None),
        "intermediate_size": ("feed_forward_size", REQUIRED),
        "max_position_embeddings": ("maximum_positions", 2048),
        "rms_norm_eps": ("norm_epsilon", 1e-6),
        "initializer_range": ("initial_std", 0.02),
        "tie_word_embeddings": ("tied_embedding", False),
    },
    constants={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    unread={"attention_dropout": 0.0},
    to_config=to_config,
    from_config=_from_config,
    ignored=(r".*rotary_emb\.inv_freq",),
)
