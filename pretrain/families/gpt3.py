"""GPT-3 as Hugging Face's GPT-2, which has the same block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretrain.config import ModelConfig
from pretrain.families.mapping import Source, Weight, known, map_weights, require, same

MODEL_TYPE = "gpt2"
PREFIX = "transformer."
IGNORED = (r".*\.attn\.(masked_)?bias", r"lm_head\.weight")
"""Masks that old versions saved; the head, which is tied."""


def _linear(ours: str, theirs: str) -> dict[str, Source]:
    """GPT-2's Conv1D keeps its weights inputs first."""
    return {f"{ours}.weight": Source((f"{theirs}.weight",), "transposed"), f"{ours}.bias": same(f"{theirs}.bias")}


def _norm(ours: str, theirs: str) -> dict[str, Source]:
    return {f"{ours}.{part}": same(f"{theirs}.{part}") for part in ("weight", "bias")}


SOURCES: dict[str, Source] = {
    "embedding.weight": same("transformer.wte.weight"),
    "positions.weight": same("transformer.wpe.weight"),
    **_norm("layers.{}.attention_norm", "transformer.h.{}.ln_1"),
    **_linear("layers.{}.attention.query_key_value", "transformer.h.{}.attn.c_attn"),
    **_linear("layers.{}.attention.output", "transformer.h.{}.attn.c_proj"),
    **_norm("layers.{}.mlp_norm", "transformer.h.{}.ln_2"),
    **_linear("layers.{}.mlp.up", "transformer.h.{}.mlp.c_fc"),
    **_linear("layers.{}.mlp.down", "transformer.h.{}.mlp.c_proj"),
    **_norm("final_norm", "transformer.ln_f"),
}


def weights(model: ModelConfig) -> dict[str, Weight]:
    """Every weight of the model by our name, in the model's order, with its place in Hugging Face's format.

    Raises:
        ValueError: transformers' GPT-2 does not compute what the model's settings say.
    """
    require(
        model,
        "transformers' GPT-2",
        positions="learned",
        norm="layer",
        embedding_norm=False,
        block="sequential",
        activation=("gelu_tanh", "gelu"),
        biases=True,
        tied_embedding=True,
        key_value_heads=model.attention_heads,
        attention_head_size=(None, model.hidden_size // model.attention_heads),
        logit_scale=1.0,
    )
    return map_weights(model, SOURCES)


def hugging_face_config(model: ModelConfig, *, dtype: str, end_of_document: int) -> dict[str, Any]:
    """The content of `config.json`, which makes transformers build the same model."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": model.vocabulary_size,
        "n_embd": model.hidden_size,
        "n_layer": model.layers,
        "n_head": model.attention_heads,
        "n_inner": model.feed_forward_size,
        "n_positions": model.maximum_positions,
        "activation_function": "gelu_new" if model.activation == "gelu_tanh" else "gelu",
        "layer_norm_epsilon": model.norm_epsilon,
        "initializer_range": model.initial_std,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "tie_word_embeddings": True,
        "bos_token_id": end_of_document,
        "eos_token_id": end_of_document,
        "use_cache": True,
        "dtype": dtype,
    }


def model_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `ModelConfig` from the content of `config.json`.

    Raises:
        ValueError: it asks for something that our block does not compute.
    """
    known(config, "activation_function", "gelu_new", "gelu_pytorch_tanh", "gelu")
    known(config, "scale_attn_weights", True)
    known(config, "scale_attn_by_inverse_layer_idx", False)
    known(config, "add_cross_attention", False)
    known(config, "tie_word_embeddings", True)
    hidden = config["n_embd"]
    return {
        "family": "gpt3",
        "vocabulary_size": config["vocab_size"],
        "hidden_size": hidden,
        "layers": config["n_layer"],
        "attention_heads": config["n_head"],
        "key_value_heads": config["n_head"],
        "feed_forward_size": config.get("n_inner") or 4 * hidden,
        "maximum_positions": config.get("n_positions", 1024),
        "activation": "gelu" if config.get("activation_function") == "gelu" else "gelu_tanh",
        "norm_epsilon": config.get("layer_norm_epsilon", 1e-5),
        "initial_std": config.get("initializer_range", 0.02),
    }
