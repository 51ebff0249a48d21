"""A family in Hugging Face's format: its weights, its `config.json` and what the architecture there computes, each
declared once and used in both directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pretrain.families.mapping import Source, Weight, map_weights

if TYPE_CHECKING:
    from pretrain.config import ModelConfig

REQUIRED: Any = object()
"""In place of a default: the entry has to be there."""


def _nothing(_: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Format:
    """What a family's file declares.

    Attributes:
        family: our name, as in `model.family`.
        name: of the other side, in messages.
        model_type, architecture: in `config.json`.
        prefix: of all weights but the head's; files of a model without a head leave it out.
        weights: by our name, `{}` for the number of the layer.
        computes: settings that the architecture there has, several in a tuple; a model with others is refused.
        computes_by_size: more of them, which depend on the model's sizes.
        entries: of `config.json` that are a setting of ours under another name, with the value that counts where the
            entry is missing.
        aliases: other names of entries, in some released files.
        constants: entries that are written, and refused when they are read with another value; missing, they are right.
        unread: entries that are written only.
        to_config, from_config: entries, and settings, that are more than another name.
        ignored: patterns of weights over there that hold nothing trained.
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

    head = "lm_head.weight"
    """Name of the head over there; of a tied one, some files have a copy."""

    def places(self, model: ModelConfig) -> dict[str, Weight]:
        """Every weight of the model by our name, in the model's order, with its place over there.

        Raises:
            ValueError: the architecture over there does not compute what the model's settings say.
        """
        for setting, value in {**self.computes, **self.computes_by_size(model)}.items():
            found, allowed = getattr(model, setting), value if isinstance(value, tuple) else (value,)
            if found not in allowed:
                wanted = " or ".join(map(str, allowed))
                raise ValueError(f"model.{setting}: {found} cannot be expressed as {self.name}, which has {wanted}")
        return map_weights(model, self.weights)

    def hugging_face_config(self, model: ModelConfig, *, dtype: str, end_of_document: int | None) -> dict[str, Any]:
        """The content of `config.json`, which makes transformers build the same model."""
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            **{theirs: getattr(model, ours) for theirs, (ours, _) in self.entries.items()},
            **self.constants,
            **self.unread,
            **self.to_config(model),
            "bos_token_id": end_of_document,
            "eos_token_id": end_of_document,
            "pad_token_id": None,  # some of transformers' defaults would keep a token's embedding from learning
            "use_cache": True,
            "dtype": dtype,
        }

    def model_settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of `ModelConfig` from the content of `config.json`, of ours or of the released models.

        Raises:
            ValueError: an entry is missing, or asks for something that our block does not compute.
        """
        given = {name: value for name, value in config.items() if value is not None}
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
    """Refuse an entry of `config.json` that our block does not compute; a missing one counts as the first.

    Raises:
        ValueError: names the entry and what would be right.
    """
    if config.get(name, allowed[0]) not in allowed:
        wanted = " or ".join(repr(value) for value in allowed)
        raise ValueError(f"config.json: {name}: {config[name]!r} is not supported, only {wanted}")


def full_heads(model: ModelConfig) -> dict[str, Any]:
    """Of `computes_by_size`: keys and values for each head, and heads that fill the hidden size."""
    return {
        "key_value_heads": model.attention_heads,
        "attention_head_size": (None, model.hidden_size // model.attention_heads),
    }
