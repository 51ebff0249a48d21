"""Gemma 3, text only, in Hugging Face's format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pretrain.families import gemma2
from pretrain.families.format import ANY, FULL, WINDOWED, known
from pretrain.families.gemma2 import less_one
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


def _to_config(model: ModelConfig) -> dict[str, Any]:
    full, local = rotary_entries(model), float(model.window_rope_theta or model.rope_theta)
    return {
        **gemma2.attention_entries(model, "transformers' Gemma 3"),
        # Beside `layer_types`, and likewise twice the rotary settings: for transformers 4 and for 5.
        "sliding_window_pattern": model.full_attention_every or model.layers + 1,
        "rope_theta": full["rope_theta"],
        "rope_local_base_freq": local,
        **({"rope_scaling": full["rope_scaling"]} if "rope_scaling" in full else {}),
        "rope_parameters": {
            FULL: full["rope_parameters"],
            WINDOWED: {"rope_type": "default", "rope_theta": local},
        },
    }


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    known(config, "partial_rotary_factor", 1.0)
    pattern = config.get("sliding_window_pattern", 6)
    if pattern < 1:
        raise ValueError(f"config.json: sliding_window_pattern: {pattern} must be positive")
    given = config.get("rope_parameters", {})
    unknown = sorted(set(given) - {FULL, WINDOWED}) if isinstance(given, Mapping) else [given]
    if unknown:
        raise ValueError(f"config.json: rope_parameters.{unknown[0]}: not supported, only {FULL} and {WINDOWED}")
    full = {name: config[name] for name in ("rope_theta", "rope_scaling", "max_position_embeddings") if name in config}
    windowed = {"rope_theta": config.get("rope_local_base_freq"), "rope_parameters": given.get(WINDOWED)}
    local = rotary_settings({name: value for name, value in windowed.items() if value is not None}, 1e4)
    if "rope_scaling" in local:
        raise ValueError(
            f"config.json: rope_parameters.{WINDOWED}: a scaling is not supported, only rope_type 'default'"
        )
    return {
        **gemma2.attention_settings(config, pattern),
        "window_rope_theta": local["rope_theta"],
        **rotary_settings({**full, **({"rope_parameters": given[FULL]} if given.get(FULL) else {})}, 1e6),
    }


FORMAT = replace(
    gemma2.FORMAT,
    family="gemma3",
    name="transformers' Gemma 3",
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    weights={
        **gemma2.FORMAT.weights,
        "layers.{}.attention.query_norm.weight": less_one("model.layers.{}.self_attn.q_norm.weight"),
        "layers.{}.attention.key_norm.weight": less_one("model.layers.{}.self_attn.k_norm.weight"),
    },
    computes={
        **gemma2.FORMAT.computes,
        "query_key_norm": "per_head",
        "window_rope_theta": ANY,
        "attention_soft_cap": None,
    },
    entries={
        **{theirs: entry for theirs, entry in gemma2.FORMAT.entries.items() if theirs != "attn_logit_softcapping"},
        "max_position_embeddings": ("maximum_positions", 131072),
        "final_logit_softcapping": ("logit_soft_cap", None),
    },
    # Whether transformers caps the scores of a Gemma 3 depends on the implementation of attention that it chooses.
    constants={**gemma2.FORMAT.constants, "attn_logit_softcapping": None},
    nullable=("sliding_window",),
    to_config=_to_config,
    from_config=_from_config,
)
