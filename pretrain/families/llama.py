"""LLaMA 1 and 2 in Hugging Face's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretrain.config import ModelConfig
from pretrain.families.mapping import Source, Weight, known, map_weights, require, same

MODEL_TYPE = "llama"
PREFIX = "model."
IGNORED = (r".*rotary_emb\.inv_freq",)

SOURCES: dict[str, Source] = {
    "embedding.weight": same("model.embed_tokens.weight"),
    "layers.{}.attention_norm.weight": same("model.layers.{}.input_layernorm.weight"),
    "layers.{}.attention.query_key_value.weight": same(
        "model.layers.{}.self_attn.q_proj.weight",
        "model.layers.{}.self_attn.k_proj.weight",
        "model.layers.{}.self_attn.v_proj.weight",
    ),
    "layers.{}.attention.output.weight": same("model.layers.{}.self_attn.o_proj.weight"),
    "layers.{}.mlp_norm.weight": same("model.layers.{}.post_attention_layernorm.weight"),
    "layers.{}.mlp.gate_up.weight": same("model.layers.{}.mlp.gate_proj.weight", "model.layers.{}.mlp.up_proj.weight"),
    "layers.{}.mlp.down.weight": same("model.layers.{}.mlp.down_proj.weight"),
    "final_norm.weight": same("model.norm.weight"),
    "head.weight": same("lm_head.weight"),
}
"""Rows are copied as they are: our rotary positions turn the two halves of a head, as transformers' do, so that queries
and keys need no permutation (Meta's own files interleave the pairs). Embedding and head lose their padding rows."""


def weights(model: ModelConfig) -> dict[str, Weight]:
    """Every weight of the model by our name, in the model's order, with its place in Hugging Face's format.

    Raises:
        ValueError: transformers' LLaMA does not compute what the model's settings say.
    """
    require(
        model,
        "transformers' LLaMA",
        positions="rotary",
        norm="rms",
        embedding_norm=False,
        block="sequential",
        activation="swiglu",
        biases=False,
        normalised_head=False,
        logit_scale=1.0,
    )
    return map_weights(model, SOURCES)


def hugging_face_config(model: ModelConfig, *, dtype: str, end_of_document: int) -> dict[str, Any]:
    """The content of `config.json`, which makes transformers build the same model.

    `rope_theta` stands twice: transformers 5 reads `rope_parameters`, older ones the plain key.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocabulary_size,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.attention_heads,
        "num_key_value_heads": model.key_value_heads,
        "head_dim": model.head_size,
        "intermediate_size": model.feed_forward_size,
        "max_position_embeddings": model.maximum_positions,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_epsilon,
        "rope_theta": model.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "initializer_range": model.initial_std,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": model.tied_embedding,
        "bos_token_id": end_of_document,
        "eos_token_id": end_of_document,
        "pad_token_id": None,
        "use_cache": True,
        "dtype": dtype,
    }


def model_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `ModelConfig` from the content of `config.json`.

    Raises:
        ValueError: it asks for something that our block does not compute.
    """
    known(config, "hidden_act", "silu")
    known(config, "attention_bias", False)
    known(config, "mlp_bias", False)
    known(config, "rope_scaling", None)
    heads = config["num_attention_heads"]
    return {
        "family": "llama",
        "vocabulary_size": config["vocab_size"],
        "hidden_size": config["hidden_size"],
        "layers": config["num_hidden_layers"],
        "attention_heads": heads,
        "key_value_heads": config.get("num_key_value_heads") or heads,
        "attention_head_size": head_size(config),
        "feed_forward_size": config["intermediate_size"],
        "maximum_positions": config.get("max_position_embeddings", 2048),
        "rope_theta": rope_theta(config),
        "norm_epsilon": config.get("rms_norm_eps", 1e-6),
        "initial_std": config.get("initializer_range", 0.02),
        "tied_embedding": config.get("tie_word_embeddings", False),
    }


def head_size(config: Mapping[str, Any]) -> int | None:
    """The size of a head where it is not hidden_size / heads."""
    size = config.get("head_dim")
    return None if size is None or size * config["num_attention_heads"] == config["hidden_size"] else size


def rope_theta(config: Mapping[str, Any]) -> float:
    """From `rope_parameters` (transformers 5) or the plain key.

    Raises:
        ValueError: the frequencies are scaled, which our block does not do.
    """
    parameters = config.get("rope_parameters") or {}
    known(parameters, "rope_type", "default")
    return float(parameters.get("rope_theta", config.get("rope_theta", 10000.0)))
