"""Gemma 3, text only, in Hugging Face's format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pretrain.families import llama
from pretrain.families.format import ANY, REQUIRED, known
from pretrain.families.mapping import Source
from pretrain.families.rotary import rotary_entries, rotary_settings

if TYPE_CHECKING:
    from pretrain.config import ModelConfig

BLOCK: dict[str, Any] = {
    "positions": "rotary",
    "rope_theta": 1e6,
    "window_rope_theta": 1e4,
    "sliding_window": 1024,
    "full_attention_every": 6,
    "norm": "rms",
    "norm_epsilon": 1e-6,
    "query_key_norm": "per_head",
    "block": "sandwich",
    "activation": "geglu_tanh",
    "scaled_embedding": True,
    "tied_embedding": True,
}
"""Gemma Team 2025, arXiv:2503.19786, section 2, and arXiv:2408.00118, section 2."""

_FULL, _WINDOWED = "full_attention", "sliding_attention"


def _to_config(model: ModelConfig) -> dict[str, Any]:
    scalar = round((model.attention_scale or model.head_size**-0.5) ** -2)
    if model.attention_scale is not None and abs(scalar**-0.5 / model.attention_scale - 1) > 1e-12:
        raise ValueError(
            f"model.attention_scale: {model.attention_scale} cannot be expressed as Gemma 3, which has 1 / sqrt(n) "
            "with a whole number n"
        )
    full, local = rotary_entries(model), float(model.window_rope_theta or model.rope_theta)
    return {
        "head_dim": model.head_size,
        "query_pre_attn_scalar": scalar,
        "sliding_window": model.sliding_window,
        # Twice, and so are the rotary settings: for transformers 4 and for 5.
        "sliding_window_pattern": model.full_attention_every or model.layers + 1,
        "layer_types": [_WINDOWED if model.has_window(i) else _FULL for i in range(model.layers)],
        "rope_theta": full["rope_theta"],
        "rope_local_base_freq": local,
        **({"rope_scaling": full["rope_scaling"]} if "rope_scaling" in full else {}),
        "rope_parameters": {
            _FULL: full["rope_parameters"],
            _WINDOWED: {"rope_type": "default", "rope_theta": local},
        },
    }


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    known(config, "partial_rotary_factor", 1.0)
    for name in ("query_pre_attn_scalar", "sliding_window_pattern"):
        if config.get(name, 1) < 1:
            raise ValueError(f"config.json: {name}: {config[name]} must be positive")
    given = config.get("rope_parameters", {})
    unknown = sorted(set(given) - {_FULL, _WINDOWED}) if isinstance(given, Mapping) else [given]
    if unknown:
        raise ValueError(f"config.json: rope_parameters.{unknown[0]}: not supported, only {_FULL} and {_WINDOWED}")
    full = {name: config[name] for name in ("rope_theta", "rope_scaling", "max_position_embeddings") if name in config}
    windowed = {"rope_theta": config.get("rope_local_base_freq"), "rope_parameters": given.get(_WINDOWED)}
    local = rotary_settings({name: value for name, value in windowed.items() if value is not None}, 1e4)
    if "rope_scaling" in local:
        raise ValueError(
            f"config.json: rope_parameters.{_WINDOWED}: a scaling is not supported, only rope_type 'default'"
        )
    scalar, size = config.get("query_pre_attn_scalar", 256), config.get("head_dim", 256)
    return {
        "attention_head_size": size,
        "attention_scale": None if scalar == size else scalar**-0.5,
        "full_attention_every": _full_every(config),
        "window_rope_theta": local["rope_theta"],
        **rotary_settings({**full, **({"rope_parameters": given[_FULL]} if given.get(_FULL) else {})}, 1e6),
    }


def _full_every(config: Mapping[str, Any]) -> int | None:
    """Every which layer attends to all tokens; None: no layer does."""
    layers = config["num_hidden_layers"]
    pattern = config.get("sliding_window_pattern", 6)
    kinds = config.get("layer_types", [_WINDOWED if (i + 1) % pattern else _FULL for i in range(layers)])
    every = kinds.index(_FULL) + 1 if _FULL in kinds else None
    if kinds != [_FULL if every and (i + 1) % every == 0 else _WINDOWED for i in range(layers)] or every == 1:
        raise ValueError(f"config.json: layer_types: {kinds} is not supported, only {_FULL} in every n-th layer, n > 1")
    return every


def _less_one(name: str) -> Source:
    return Source((name,), "less_one")


FORMAT = replace(
    llama.FORMAT,
    family="gemma3",
    name="transformers' Gemma 3",
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    weights={
        **llama.FORMAT.weights,
        "layers.{}.attention_norm.weight": _less_one("model.layers.{}.input_layernorm.weight"),
        "layers.{}.attention.query_norm.weight": _less_one("model.layers.{}.self_attn.q_norm.weight"),
        "layers.{}.attention.key_norm.weight": _less_one("model.layers.{}.self_attn.k_norm.weight"),
        "layers.{}.attention_post_norm.weight": _less_one("model.layers.{}.post_attention_layernorm.weight"),
        "layers.{}.mlp_norm.weight": _less_one("model.layers.{}.pre_feedforward_layernorm.weight"),
        "layers.{}.mlp_post_norm.weight": _less_one("model.layers.{}.post_feedforward_layernorm.weight"),
        "final_norm.weight": _less_one("model.norm.weight"),
    },
    computes={
        **llama.FORMAT.computes,
        "block": "sandwich",
        "activation": "geglu_tanh",
        "query_key_norm": "per_head",
        "scaled_embedding": True,
        "sliding_window": ANY,
        "full_attention_every": ANY,
        "window_rope_theta": ANY,
        "attention_scale": ANY,
    },
    entries={
        **llama.FORMAT.entries,
        "num_key_value_heads": ("key_value_heads", REQUIRED),
        "max_position_embeddings": ("maximum_positions", 131072),
        "sliding_window": ("sliding_window", 4096),
        "tie_word_embeddings": ("tied_embedding", True),
    },
    constants={
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "use_bidirectional_attention": False,
    },
    to_config=_to_config,
    from_config=_from_config,
)
