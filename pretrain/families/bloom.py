"""BLOOM in Hugging Face's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretrain.config import ModelConfig
from pretrain.families.mapping import Layout, Source, Weight, known, map_weights, require

MODEL_TYPE = "bloom"
PREFIX = "transformer."
IGNORED = (r"lm_head\.weight",)


def _both(ours: str, theirs: str, layout: Layout = "rows") -> dict[str, Source]:
    return {f"{ours}.{part}": Source((f"{theirs}.{part}",), layout) for part in ("weight", "bias")}


SOURCES: dict[str, Source] = {
    "embedding.weight": Source(("transformer.word_embeddings.weight",)),
    **_both("embedding_norm", "transformer.word_embeddings_layernorm"),
    **_both("layers.{}.attention_norm", "transformer.h.{}.input_layernorm"),
    # Head by head: its query, its key, its value.
    **_both("layers.{}.attention.query_key_value", "transformer.h.{}.self_attention.query_key_value", layout="by_head"),
    **_both("layers.{}.attention.output", "transformer.h.{}.self_attention.dense"),
    **_both("layers.{}.mlp_norm", "transformer.h.{}.post_attention_layernorm"),
    **_both("layers.{}.mlp.up", "transformer.h.{}.mlp.dense_h_to_4h"),
    **_both("layers.{}.mlp.down", "transformer.h.{}.mlp.dense_4h_to_h"),
    **_both("final_norm", "transformer.ln_f"),
}


def weights(model: ModelConfig) -> dict[str, Weight]:
    """Every weight of the model by our name, in the model's order, with its place in Hugging Face's format.

    Raises:
        ValueError: transformers' BLOOM does not compute what the model's settings say.
    """
    require(
        model,
        "transformers' BLOOM",
        positions="alibi",
        norm="layer",
        embedding_norm=True,
        block="sequential",
        activation="gelu_tanh",
        biases=True,
        tied_embedding=True,
        key_value_heads=model.attention_heads,
        attention_head_size=(None, model.hidden_size // model.attention_heads),
        feed_forward_size=4 * model.hidden_size,
        logit_scale=1.0,
    )
    return map_weights(model, SOURCES)


def hugging_face_config(model: ModelConfig, *, dtype: str, end_of_document: int) -> dict[str, Any]:
    """The content of `config.json`, which makes transformers build the same model."""
    return {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "vocab_size": model.vocabulary_size,
        "hidden_size": model.hidden_size,
        "n_layer": model.layers,
        "n_head": model.attention_heads,
        "seq_length": model.maximum_positions,
        "layer_norm_epsilon": model.norm_epsilon,
        "initializer_range": model.initial_std,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "tie_word_embeddings": True,
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
    known(config, "apply_residual_connection_post_layernorm", False)
    known(config, "tie_word_embeddings", True)
    # BLOOM's released files say n_embed, num_attention_heads in places: both spellings are read by transformers.
    hidden = config.get("hidden_size") or config["n_embed"]
    heads = config.get("n_head") or config["num_attention_heads"]
    return {
        "family": "bloom",
        "vocabulary_size": config["vocab_size"],
        "hidden_size": hidden,
        "layers": config.get("n_layer") or config["num_hidden_layers"],
        "attention_heads": heads,
        "key_value_heads": heads,
        "feed_forward_size": 4 * hidden,
        "maximum_positions": config.get("seq_length", 2048),
        "norm_epsilon": config.get("layer_norm_epsilon", 1e-5),
        "initial_std": config.get("initializer_range", 0.02),
    }
