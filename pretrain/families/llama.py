"""LLaMA 1 and 2 in Hugging Face's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pretrain.families.format import REQUIRED, Format, known
from pretrain.families.mapping import same

if TYPE_CHECKING:
    from pretrain.config import ModelConfig

BLOCK: dict[str, Any] = {
    "positions": "rotary",
    "norm": "rms",
    "activation": "swiglu",
}
"""Touvron et al. 2023, arXiv:2302.13971, section 2.2, and arXiv:2307.09288, section 2.2."""


def to_config(model: ModelConfig) -> dict[str, Any]:
    # Written twice: transformers 5 reads `rope_parameters`, older versions `rope_theta` and `rope_scaling`.
    scaling = {"rope_type": "default"}
    if model.rope_scaling is not None:
        given = model.rope_scaling.model_dump(exclude_none=True)
        scaling = {_SCALING[name]: value for name, value in given.items()}
    return {
        "head_dim": model.head_size,
        "rope_theta": model.rope_theta,
        "rope_parameters": {**scaling, "rope_theta": model.rope_theta},
        **({} if model.rope_scaling is None else {"rope_scaling": {**scaling, "rope_theta": model.rope_theta}}),
    }


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**grouped_heads(config), **rotary_settings(config, 10000.0)}


def grouped_heads(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a model with grouped heads: key/value heads and size of a head."""
    heads, size = config["num_attention_heads"], config.get("head_dim")
    return {
        "key_value_heads": config.get("num_key_value_heads", heads),
        "attention_head_size": None if size is None or size * heads == config["hidden_size"] else size,
    }


_SCALING = {
    "kind": "rope_type",
    "factor": "factor",
    "low_frequency_factor": "low_freq_factor",
    "high_frequency_factor": "high_freq_factor",
    "original_positions": "original_max_position_embeddings",
}
"""Settings of `RopeScaling`, and transformers' names for them."""


def rotary_settings(config: Mapping[str, Any], default: float, share: float = 1.0) -> dict[str, Any]:
    """Base and scaling of the rotary frequencies, and the share of a head that they rotate.

    Args:
        default: see `rope_theta`.
        share: the architecture's default of the share.

    Raises:
        ValueError: the frequencies are scaled in a way that our block does not compute, or two entries contradict each
            other.
    """
    theirs = {name: ours for ours, name in _SCALING.items()}
    found: list[dict[str, Any]] = []
    plain, shares = _without_shares(config)
    if len(set(shares.values())) > 1:
        shown = ", ".join(f"{name} {value}" for name, value in shares.items())
        raise ValueError(f"config.json: {shown}: these must be equal")
    for entry in ("rope_parameters", "rope_scaling"):
        settings = config.get(entry)
        kind = isinstance(settings, Mapping) and settings.get("rope_type", settings.get("type"))
        if not isinstance(settings, Mapping) or kind not in ("linear", "llama3"):
            continue
        if settings.get("type", kind) != kind:
            raise ValueError(f"config.json: {entry}: rope_type {kind!r} and type {settings['type']!r} must be equal")
        scaling = {**{name: value for name, value in settings.items() if name in theirs}, "rope_type": kind}
        missing = [name for name in theirs if kind == "llama3" and scaling.get(name) is None]
        if missing or scaling.get("factor") is None:
            raise ValueError(f"config.json: {entry}.{(missing or ['factor'])[0]}: missing, rope_type is {kind!r}")
        wanted = theirs if kind == "llama3" else ("rope_type", "factor")
        found.append({theirs[name]: scaling[name] for name in wanted})
        plain[entry] = {name: value for name, value in settings.items() if name not in (*wanted, "type")}
    if len(found) == 2 and found[0] != found[1]:
        raise ValueError("config.json: rope_parameters and rope_scaling scale differently: these must be equal")
    return {
        "rope_theta": rope_theta(plain, default),
        "rotary_share": next(iter(shares.values()), share),
        **({"rope_scaling": found[0]} if found else {}),
    }


_SHARE = "partial_rotary_factor"


def _without_shares(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """The configuration without the share of a head that is rotated, and the share by the entry that names it."""
    plain, shares = dict(config), {}
    if plain.get(_SHARE) is not None:
        shares[_SHARE] = float(plain.pop(_SHARE))
    for entry in ("rope_parameters", "rope_scaling"):
        settings = plain.get(entry)
        if isinstance(settings, Mapping) and settings.get(_SHARE) is not None:
            plain[entry] = {name: value for name, value in settings.items() if name != _SHARE}
            shares[f"{entry}.{_SHARE}"] = float(settings[_SHARE])
    return plain, shares


def rope_theta(config: Mapping[str, Any], default: float | None) -> float:
    """Base of the rotary frequencies: from `rope_parameters` (transformers 5), `rope_scaling`, or `rope_theta`.

    Args:
        default: the architecture's default in transformers; None where its versions disagree, so that it must be given.

    Raises:
        ValueError: the frequencies are scaled or rotate a part of a head only, which our block does not compute; or two
            entries contradict each other, or there is none and no default.
    """
    known(config, "partial_rotary_factor", 1.0)
    found = {"rope_theta": config["rope_theta"]} if "rope_theta" in config else {}
    for entry in ("rope_parameters", "rope_scaling"):
        settings = config.get(entry) or {}
        if not isinstance(settings, Mapping):
            raise ValueError(f"config.json: {entry}: {settings!r} is not supported, only a mapping")
        for name, value in settings.items():
            if name in ("rope_type", "type") and value in ("default", None):
                continue
            if name == "partial_rotary_factor" and value in (1.0, None):
                continue
            if name != "rope_theta":
                raise ValueError(f"config.json: {entry}.{name}: {value!r} is not supported, only rope_type 'default'")
            found[f"{entry}.rope_theta"] = value
    values = {name: value for name, value in found.items() if value is not None}
    if len({float(value) for value in values.values()}) > 1:
        shown = ", ".join(f"{name} {value}" for name, value in values.items())
        raise ValueError(f"config.json: {shown}: these must be equal")
    value = next(iter(values.values()), default)
    if value is None:
        raise ValueError(
            "config.json: rope_theta: missing, and versions of transformers have different defaults for this "
            "architecture; add the value that the model was trained with"
        )
    return float(value)


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
