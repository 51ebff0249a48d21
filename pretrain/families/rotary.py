"""Rotary settings in Hugging Face's format: base, scaling, and the share of a head that is rotated.

Versions of transformers spell them differently: 5 reads `rope_parameters`, 4 reads `rope_theta`, `rope_scaling` and
`partial_rotary_factor`. Files may contain several spellings, which must agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pretrain.families.format import known

if TYPE_CHECKING:
    from pretrain.config import ModelConfig

_NAMES = {
    "kind": "rope_type",
    "factor": "factor",
    "low_frequency_factor": "low_freq_factor",
    "high_frequency_factor": "high_freq_factor",
    "original_positions": "original_max_position_embeddings",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "rounds_edges": "truncate",
    "attention_factor": "attention_factor",
    "short_factors": "short_factor",
    "long_factors": "long_factor",
}
"""Settings of `RopeScaling`, and transformers' names for them."""


class _Kind(NamedTuple):
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


_KINDS = {
    "linear": _Kind(("factor",)),
    "llama3": _Kind(("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")),
    "yarn": _Kind(
        ("factor", "original_max_position_embeddings"),
        ("beta_fast", "beta_slow", "truncate", "attention_factor", "mscale", "mscale_all_dim"),
    ),
    "longrope": _Kind(
        ("short_factor", "long_factor", "original_max_position_embeddings"), ("factor", "attention_factor")
    ),
}
"""Entries of each kind that our block computes."""

_ENTRIES = ("rope_parameters", "rope_scaling")
_SHARE = "partial_rotary_factor"
_ORIGINAL = "original_max_position_embeddings"


def rotary_entries(model: ModelConfig) -> dict[str, Any]:
    """Entries of `config.json`, in the spelling of transformers 4 and in that of 5."""
    scaling, theta = model.rope_scaling, model.rope_theta
    if scaling is None or scaling.kind == "ntk":  # which is another base, and nothing else
        theta = theta if scaling is None else scaling.base(theta, model.rotary_size)
        return {"rope_theta": theta, "rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    given = {_NAMES[name]: value for name, value in scaling.model_dump(exclude_none=True).items()}
    if scaling.kind != "yarn" or scaling.rounds_edges:
        given.pop("truncate", None)  # the default, which older versions do not know
    settings = {**given, "rope_theta": theta}
    original = {} if scaling.kind != "longrope" else {_ORIGINAL: scaling.original_positions}
    return {"rope_theta": theta, "rope_parameters": settings, "rope_scaling": settings, **original}


def rotary_settings(config: Mapping[str, Any], default: float, share: float = 1.0) -> dict[str, Any]:
    """Base and scaling of the rotary frequencies, and the share of a head that they rotate.

    Args:
        default: see `rope_theta`.
        share: the architecture's default of the share.

    Raises:
        ValueError: the frequencies are scaled in a way that our block does not compute, or two entries contradict each
            other.
    """
    plain, shares = _without_shares(config)
    if len(set(shares.values())) > 1:
        shown = ", ".join(f"{name} {value}" for name, value in shares.items())
        raise ValueError(f"config.json: {shown}: these must be equal")
    found: list[dict[str, Any]] = []
    for entry in _ENTRIES:
        settings = plain.get(entry)
        kind = isinstance(settings, Mapping) and settings.get("rope_type", settings.get("type"))
        if not isinstance(settings, Mapping) or kind not in _KINDS:
            continue
        if settings.get("type", kind) != kind:
            raise ValueError(f"config.json: {entry}: rope_type {kind!r} and type {settings['type']!r} must be equal")
        found.append(_scaling(entry, str(kind), settings, config))
        taken = ("rope_type", "type", *_KINDS[kind].required, *_KINDS[kind].optional)
        plain[entry] = {name: value for name, value in settings.items() if name not in taken}
    if len(found) == 2 and found[0] != found[1]:
        raise ValueError("config.json: rope_parameters and rope_scaling scale differently: these must be equal")
    return {
        "rope_theta": rope_theta(plain, default),
        "rotary_share": next(iter(shares.values()), share),
        **({"rope_scaling": found[0]} if found else {}),
    }


def _scaling(entry: str, kind: str, settings: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `RopeScaling` from the entry of a configuration."""
    missing = [name for name in _KINDS[kind].required if settings.get(name) is None]
    if missing:
        raise ValueError(f"config.json: {entry}.{missing[0]}: missing, rope_type is {kind!r}")
    original = config.get(_ORIGINAL, settings.get(_ORIGINAL))
    if original != settings.get(_ORIGINAL):
        raise ValueError(
            f"config.json: {_ORIGINAL} {original}, {entry}.{_ORIGINAL} {settings.get(_ORIGINAL)}: these must be equal"
        )
    ours = {theirs: name for name, theirs in _NAMES.items()}
    names = [name for name in (*_KINDS[kind].required, *_KINDS[kind].optional) if name in ours]
    found = {ours[name]: settings[name] for name in names if settings.get(name) is not None}
    if kind == "yarn" and "attention_factor" not in found:
        scales = settings.get("mscale"), settings.get("mscale_all_dim")
        if all(scales):
            high, low = (1 + 0.1 * scale * math.log(found["factor"]) for scale in scales if scale)
            found["attention_factor"] = high / low if found["factor"] > 1 else 1.0
    if kind == "longrope":
        factor = found.pop("factor", None) or config.get("max_position_embeddings", 2048) / original
        stretched = math.sqrt(1 + math.log(factor) / math.log(original)) if min(factor, original) > 1 else 1.0
        found.setdefault("attention_factor", stretched)
    return {"kind": kind, **found}


def _without_shares(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """The configuration without the share of a head that is rotated, and the share by the entry that names it."""
    plain, shares = dict(config), {}
    if plain.get(_SHARE) is not None:
        shares[_SHARE] = float(plain.pop(_SHARE))
    for entry in _ENTRIES:
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
    known(config, _SHARE, 1.0)
    found = {"rope_theta": config["rope_theta"]} if "rope_theta" in config else {}
    for entry in _ENTRIES:
        settings = config.get(entry) or {}
        if not isinstance(settings, Mapping):
            raise ValueError(f"config.json: {entry}: {settings!r} is not supported, only a mapping")
        for name, value in settings.items():
            if name in ("rope_type", "type") and value in ("default", None):
                continue
            if name == _SHARE and value in (1.0, None):
                continue
            if name != "rope_theta":
                kinds = ", ".join(repr(kind) for kind in ("default", *_KINDS))
                raise ValueError(
                    f"config.json: {entry}.{name}: {value!r} is not supported, only rope_type {kinds} with its settings"
                )
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
