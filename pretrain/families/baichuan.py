"""Baichuan 1 and 2 in Hugging Face's format: the names and files of its authors' own modelling code.

transformers has no Baichuan of its own. With rotary positions (the 7B models) it is LLaMA, except that queries, keys
and values stand in one `W_pack`; `as_llama` says so, and NormHead becomes an ordinary head whose rows have length one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretrain.config import ModelConfig
from pretrain.families import llama
from pretrain.families.mapping import Source, Weight, known, map_weights, require, same

MODEL_TYPE = "baichuan"
PREFIX = "model."
IGNORED = (r".*rotary_emb\.inv_freq", r"model\.future_mask")

SOURCES: dict[str, Source] = {
    **llama.SOURCES,
    "layers.{}.attention.query_key_value.weight": same("model.layers.{}.self_attn.W_pack.weight"),
}

BAICHUAN_2_VOCABULARY = 125696
"""Baichuan 2's modelling code has NormHead always, Baichuan 1's never; the configurations tell them apart by this."""


def weights(model: ModelConfig) -> dict[str, Weight]:
    """Every weight of the model by our name, in the model's order, with its place in Hugging Face's format.

    Raises:
        ValueError: Baichuan's modelling code does not compute what the model's settings say.
    """
    require(
        model,
        "Baichuan",
        positions=("rotary", "alibi"),
        norm="rms",
        embedding_norm=False,
        block="sequential",
        activation="swiglu",
        biases=False,
        tied_embedding=False,
        key_value_heads=model.attention_heads,
        attention_head_size=(None, model.hidden_size // model.attention_heads),
        logit_scale=1.0,
    )
    return map_weights(model, SOURCES)


def as_llama(model: ModelConfig) -> dict[str, Weight]:
    """Places in LLaMA's format, for a model with rotary positions.

    Raises:
        ValueError: the model has ALiBi.
    """
    require(model, "LLaMA", positions="rotary")
    return map_weights(model, llama.SOURCES)


def hugging_face_config(model: ModelConfig, *, dtype: str, end_of_document: int) -> dict[str, Any]:
    """The content of `config.json`. `normalised_head` and `positions` are ours: Baichuan's own two modelling codes are
    told apart by the folder that they lie in."""
    same_as_llama = llama.hugging_face_config(model, dtype=dtype, end_of_document=end_of_document)
    for field in ("num_key_value_heads", "head_dim", "rope_parameters", "attention_bias", "mlp_bias"):
        del same_as_llama[field]
    return {
        **same_as_llama,
        "architectures": ["BaichuanForCausalLM"],
        "model_type": "baichuan",
        "model_max_length": model.maximum_positions,
        "z_loss_weight": model.maximum_z_loss,
        "normalised_head": model.normalised_head,
        "positions": model.positions,
    }


def model_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `ModelConfig` from the content of `config.json`, of ours or of the released models.

    Raises:
        ValueError: it asks for something that our block does not compute.
    """
    known(config, "hidden_act", "silu")
    known(config, "tie_word_embeddings", False)
    heads = config["num_attention_heads"]
    # Of the released models, the 13B ones (40 heads) have ALiBi, and no max_position_embeddings but model_max_length.
    positions = config.get("positions") or ("rotary" if "max_position_embeddings" in config else "alibi")
    rotary = {"rope_theta": llama.rope_theta(config)} if positions == "rotary" else {}
    return {
        "family": "baichuan",
        "vocabulary_size": config["vocab_size"],
        "hidden_size": config["hidden_size"],
        "layers": config["num_hidden_layers"],
        "attention_heads": heads,
        "key_value_heads": heads,
        "feed_forward_size": config["intermediate_size"],
        "maximum_positions": config.get("model_max_length") or config.get("max_position_embeddings", 4096),
        "positions": positions,
        **rotary,
        "norm_epsilon": config.get("rms_norm_eps", 1e-6),
        "initial_std": config.get("initializer_range", 0.02),
        "normalised_head": config.get("normalised_head", config["vocab_size"] == BAICHUAN_2_VOCABULARY),
        "maximum_z_loss": config.get("z_loss_weight", 0.0),
    }
