"""A family in Hugging Face's format: weights, `config.json` and what the architecture computes, each declared once and
used for import and export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pretrain.families.mapping import Source, Weight, map_weights

if TYPE_CHECKING:
    from pretrain.config import ModelConfig

REQUIRED: Any = object()
"""Placeholder of a default: the entry is required."""

ANY: Any = object()
"""Placeholder in `Format.computes`: every value of the setting is computed."""

FULL, WINDOWED = "full_attention", "sliding_attention"
"""Entries of `layer_types` in `config.json`."""

COMPUTED_BY_ALL: Mapping[str, Any] = {
    "rotary_share": 1.0,
    "query_key_norm": "none",
    "sliding_window": None,
    "full_attention_every": None,
    "full_attention_first": 0,
    "window_rope_theta": None,
    "attention_scale": None,
    "attention_soft_cap": None,
    "scaled_embedding": False,
    "logit_soft_cap": None,
}
"""Settings that an architecture computes unless its format says otherwise."""


def _nothing(_: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Format:
    """Hugging Face's format of a family.

    Attributes:
        family: our name, as in `model.family`.
        name: name of the architecture, for messages.
        model_type, architecture: entries of `config.json`.
        prefix: prefix of all weights but the head's; files of a model without a head omit it.
        head: name of the head's weight; some files have a copy of a tied one.
        weights: sources of our weights by our name, with `{}` for the layer's index.
        computes: settings of `ModelConfig` that the architecture computes, a tuple where it computes several; a model
            with others is refused. See also `COMPUTED_BY_ALL`.
        computes_by_size: further such settings, which depend on the model's sizes.
        entries: entries of `config.json` that are one of our settings under another name: our name, and the value that
            applies where the entry is missing.
        aliases: other names of entries, used in some released files.
        constants: entries that are written, and refused when they are read with another value; they may be missing.
        unread: entries that are written only.
        nullable: entries whose null differs from their absence; `from_config` gets the null.
        to_config, from_config: entries, and settings, that need more than a name.
        ignored: patterns of names of weights that contain nothing trained.
    """

    family: str
    name: str
    model_type: str
    architecture: str
    prefix: str
    weights: Mapping[str, Source]
    computes: Mapping[str, Any]
    entries: Mapping[str, tuple[str, Any]]
    computes_by_size: Callable[[ModelConfig], dict[str, Any]] = _nothing
    aliases: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    unread: Mapping[str, Any] = field(default_factory=dict)
    to_config: Callable[[ModelConfig], dict[str, Any]] = _nothing
    from_config: Callable[[Mapping[str, Any]], dict[str, Any]] = _nothing
    ignored: tuple[str, ...] = ()
    head: str = "lm_head.weight"
    nullable: tuple[str, ...] = ()

    def places(self, model: ModelConfig) -> dict[str, Weight]:
        """Mapping of every weight of the model, by our name and in the model's order.

        Raises:
            ValueError: the architecture does not compute one of the model's settings; names it.
        """
        for setting, value in {**COMPUTED_BY_ALL, **self.computes, **self.computes_by_size(model)}.items():
            found, allowed = getattr(model, setting), value if isinstance(value, tuple) else (value,)
            if value is not ANY and found not in allowed:
                wanted = " or ".join(map(str, allowed))
                raise ValueError(f"model.{setting}: {found} cannot be expressed as {self.name}, which has {wanted}")
        return map_weights(model, self.weights)

    def hugging_face_config(self, model: ModelConfig, *, dtype: str, end_of_document: int | None) -> dict[str, Any]:
        """Content of `config.json`, from which transformers builds the same model."""
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            **{theirs: getattr(model, ours) for theirs, (ours, _) in self.entries.items()},
            **self.constants,
            **self.unread,
            **self.to_config(model),
            "bos_token_id": end_of_document,
            "eos_token_id": end_of_document,
            "pad_token_id": None,  # with some of transformers' defaults the embedding of a token would not be trained
            "use_cache": True,
            "dtype": dtype,
        }

    def model_settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of `ModelConfig` from the content of a `config.json`, our own or a released model's.

        Raises:
            ValueError: an entry is missing, or needs something that our block does not compute.
        """
        given = {name: value for name, value in config.items() if value is not None or name in self.nullable}
        for alias, name in self.aliases.items():
            if alias in given and given.setdefault(name, given[alias]) != given[alias]:
                raise ValueError(f"config.json: {alias}: {given[alias]!r} and {name}: {given[name]!r} must be equal")
        known(given, "quantization_config", None)
        for name, value in self.constants.items():
            known(given, name, value)
        settings: dict[str, Any] = {"family": self.family}
        for theirs, (ours, default) in self.entries.items():
            settings[ours] = given.get(theirs, default)
            if settings[ours] is REQUIRED:
                raise ValueError(f"config.json: {theirs}: missing")
        return {**settings, **self.from_config(given)}


def known(config: Mapping[str, Any], name: str, *allowed: Any) -> None:
    """Refuse an entry of `config.json` that our block does not compute; a missing entry has the first allowed value.

    Raises:
        ValueError: names the entry and the allowed values.
    """
    if config.get(name, allowed[0]) not in allowed:
        wanted = " or ".join(repr(value) for value in allowed)
        raise ValueError(f"config.json: {name}: {config[name]!r} is not supported, only {wanted}")


def full_heads(model: ModelConfig) -> dict[str, Any]:
    """Settings for `computes_by_size`: keys and values for each head, and heads that fill the hidden size."""
    return {
        "key_value_heads": model.attention_heads,
        "attention_head_size": (None, model.hidden_size // model.attention_heads),
    }
