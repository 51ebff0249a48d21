"""Gemma 2 in Hugging Face's format; Gemma 3 shares most of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pretrain.families import llama
from pretrain.families.format import ANY, FULL, REQUIRED, WINDOWED
from pretrain.families.mapping import Source
from pretrain.families.rotary import rotary_entries, rotary_settings

if TYPE_CHECKING:
    from pretrain.config import ModelConfig

BLOCK: dict[str, Any] = {
    "positions": "rotary",
    "sliding_window": 4096,
    "full_attention_every": 2,
    "attention_soft_cap": 50.0,
    "norm": "rms",
    "norm_epsilon": 1e-6,
    "block": "sandwich",
    "activation": "geglu_tanh",
    "scaled_embedding": True,
    "tied_embedding": True,
    "logit_soft_cap": 30.0,
}
"""Gemma Team 2024, arXiv:2408.00118, section 2."""


def attention_entries(model: ModelConfig, name: str) -> dict[str, Any]:
    """Entries of heads and windows.

    Args:
        name: name of the architecture, for messages.

    Raises:
        ValueError: no layer can have a window, or the factor of the scores is none that the architecture has.
    """
    if model.sliding_window is None:
        raise ValueError(f"model.sliding_window: None cannot be expressed as {name}, which needs a number")
    scalar = round((model.attention_scale or model.head_size**-0.5) ** -2)
    if model.attention_scale is not None and abs(scalar**-0.5 / model.attention_scale - 1) > 1e-12:
        raise ValueError(
            f"model.attention_scale: {model.attention_scale} cannot be expressed as {name}, which has 1 / sqrt(n) with "
            "a whole number n"
        )
    return {
        "head_dim": model.head_size,
        "query_pre_attn_scalar": scalar,
        "sliding_window": model.sliding_window,
        "layer_types": [WINDOWED if model.has_window(i) else FULL for i in range(model.layers)],
    }


def attention_settings(config: Mapping[str, Any], pattern: int) -> dict[str, Any]:
    """Settings of heads and windows.

    Args:
        pattern: every which layer has no window, where `layer_types` is missing.

    Raises:
        ValueError: an entry is not positive, or the layers with windows are others than our block can have.
    """
    for name in ("query_pre_attn_scalar", "sliding_window"):
        if name in config and (config[name] is None or config[name] < 1):
            raise ValueError(f"config.json: {name}: {config[name]} must be positive")
    scalar, size = config.get("query_pre_attn_scalar", 256), config.get("head_dim", 256)
    return {
        "attention_head_size": size,
        "attention_scale": None if scalar == size else scalar**-0.5,
        "full_attention_every": _full_every(config, pattern),
    }


def _full_every(config: Mapping[str, Any], pattern: int) -> int | None:
    """Every which layer attends to all tokens; None: no layer does."""
    layers = config["num_hidden_layers"]
    kinds = config.get("layer_types", [WINDOWED if (i + 1) % pattern else FULL for i in range(layers)])
    every = kinds.index(FULL) + 1 if FULL in kinds else None
    if kinds != [FULL if every and (i + 1) % every == 0 else WINDOWED for i in range(layers)] or every == 1:
        raise ValueError(f"config.json: layer_types: {kinds} is not supported, only {FULL} in every n-th layer, n > 1")
    return every


def _to_config(model: ModelConfig) -> dict[str, Any]:
    return {**attention_entries(model, "transformers' Gemma 2"), **rotary_entries(model)}


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**attention_settings(config, 2), **rotary_settings(config, 10000.0)}


def less_one(name: str) -> Source:
    """The weight of a norm, which is added to one before it is used."""
    return Source((name,), "less_one")


FORMAT = replace(
    llama.FORMAT,
    family="gemma2",
    name="transformers' Gemma 2",
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    weights={
        **llama.FORMAT.weights,
        "layers.{}.attention_norm.weight": less_one("model.layers.{}.input_layernorm.weight"),
        "layers.{}.attention_post_norm.weight": less_one("model.layers.{}.post_attention_layernorm.weight"),
        "layers.{}.mlp_norm.weight": less_one("model.layers.{}.pre_feedforward_layernorm.weight"),
        "layers.{}.mlp_post_norm.weight": less_one("model.layers.{}.post_feedforward_layernorm.weight"),
        "final_norm.weight": less_one("model.norm.weight"),
    },
    computes={
        **llama.FORMAT.computes,
        "block": "sandwich",
        "activation": "geglu_tanh",
        "scaled_embedding": True,
        "sliding_window": ANY,
        "full_attention_every": ANY,
        "attention_scale": ANY,
        "attention_soft_cap": ANY,
        "logit_soft_cap": ANY,
    },
    entries={
        **llama.FORMAT.entries,
        "num_key_value_heads": ("key_value_heads", REQUIRED),
        "max_position_embeddings": ("maximum_positions", 8192),
        "sliding_window": ("sliding_window", 4096),
        "attn_logit_softcapping": ("attention_soft_cap", 50.0),
        "final_logit_softcapping": ("logit_soft_cap", 30.0),
        "tie_word_embeddings": ("tied_embedding", True),
    },
    constants={
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "use_bidirectional_attention": False,
    },
    nullable=("sliding_window", "attn_logit_softcapping", "final_logit_softcapping"),
    to_config=_to_config,
    from_config=_from_config,
)
