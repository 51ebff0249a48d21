"""Chat templates: how the turns of a conversation become text and control tokens, and what of them is learnt.

A template is a YAML file, see `configs/templates/`:

    begin: [{token: bos}]
    default_system: You are helpful.
    system: ["{content} "]
    user: ["USER: {content} "]
    assistant: ["ASSISTANT:", {learn: [" {content}", {token: eos}]}]

An entry of a part is a text, in which `{content}` stands for the content of the turn; a control token, by its name; or
`learn`, whose entries the loss counts. A user's turn with an input, see `turns`, is written by `user_with_input`, in
which `{input}` stands for the input; a template without it adds the input after a line feed. Where a user's part has
`{system}`, the system turn is written there, otherwise before it. `{{` and `}}` are braces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from foundation.configuration import ConfigError, Settings, known_name, load_config
from foundation.shipped import shipped_configs

Learnt = Literal["all_assistant", "last_assistant", "everything"]

PLACEHOLDERS = ("content", "input", "system")
_BRACES = re.compile(r"\{\{|\}\}|\{(\w*)\}|[{}]")


class ControlToken(Settings):
    """A control token."""

    token: str = Field(min_length=1)
    """Its name in the tokenizer; `bos` and `eos` are those that `tokenizer_config.json` names."""


class LearntPart(Settings):
    """A part that the loss counts."""

    learn: tuple[str | ControlToken, ...] = Field(min_length=1)


Part = tuple[str | ControlToken | LearntPart, ...]


class Template(Settings):
    """A chat template."""

    begin: Part = ()
    default_system: str | None = None
    system: Part = ()
    user: Part = Field(min_length=1)
    user_with_input: Part = ()
    assistant: Part = Field(min_length=1)
    end: Part = ()

    @model_validator(mode="after")
    def _has_its_placeholders(self) -> Template:
        for name, wanted in _WANTED.items():
            part: Part = getattr(self, name)
            try:
                found = _placeholders(part)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            allowed = {*wanted, "system"} if name in ("user", "user_with_input") else {*wanted}
            if part and not (set(wanted) <= set(found) <= allowed and len(set(found)) == len(found)):
                rule = f"each of {', '.join(f'{{{one}}}' for one in wanted)} once" if wanted else "no placeholder"
                given = ", ".join(f"{{{one}}}" for one in found) or "none"
                raise ValueError(f"{name}: has {given}; it needs {rule}")
        return self

    @model_validator(mode="after")
    def _system_has_its_place(self) -> Template:
        is_inside = {"system" in _placeholders(part) for part in (self.user, self.user_with_input) if part}
        if len(is_inside) > 1:
            raise ValueError("user_with_input: must have {system} if user has it, and only then")
        if self.default_system is not None and not self.system:
            raise ValueError("default_system: has no effect without system, the part that writes it")
        if is_inside == {True} and any(not isinstance(entry, str) for entry in self.system):
            raise ValueError("system: must be text, because user has {system} inside of a text")
        return self

    @model_validator(mode="after")
    def _answers_are_learnt(self) -> Template:
        pieces = list(pieces_of(self.assistant))
        if not all(piece.is_learnt for piece in pieces if piece.kind == "content"):
            raise ValueError(
                'assistant: {content} is not learnt; write {learn: ["{content}", {token: eos}]} around what the model '
                "is to write"
            )
        for name in ("begin", "system", "user", "user_with_input", "end"):
            if any(piece.is_learnt for piece in pieces_of(getattr(self, name))):
                raise ValueError(f"{name}: learn can only be in assistant; tokens.learn: everything learns all parts")
        return self

    @property
    def has_system_inside(self) -> bool:
        """Whether the system turn is written inside of the user's."""
        return "system" in _placeholders(self.user)

    def control_tokens(self) -> tuple[str, ...]:
        """Return the names of all control tokens."""
        pieces = (piece for name in _WANTED for piece in pieces_of(getattr(self, name)))
        return tuple(dict.fromkeys(piece.value for piece in pieces if piece.kind == "control"))


_WANTED: dict[str, tuple[str, ...]] = {
    "begin": (),
    "system": ("content",),
    "user": ("content",),
    "user_with_input": ("content", "input"),
    "assistant": ("content",),
    "end": (),
}
"""Placeholders that each part must have."""


@dataclass(frozen=True)
class Piece:
    """A text, a placeholder or a control token of a part.

    Attributes:
        kind: `text`, `control`, or what a placeholder stands for: `content`, `input` or `system`.
        value: the text, or the name of the control token.
    """

    kind: str
    value: str
    is_learnt: bool


def pieces_of(part: Part) -> Iterator[Piece]:
    """Yield texts, placeholders and control tokens of a part, in order.

    Raises:
        ValueError: a brace is neither doubled nor around a known name.
    """
    for entry in part:
        is_learnt = isinstance(entry, LearntPart)
        for inner in entry.learn if isinstance(entry, LearntPart) else (entry,):
            if isinstance(inner, ControlToken):
                yield Piece("control", inner.token, is_learnt)
            else:
                yield from (Piece(kind, value, is_learnt) for kind, value in _split(inner))


def before_answer(template: Template) -> list[Piece]:
    """Return what a template writes before an answer that the model is to write."""
    pieces = list(pieces_of(template.assistant))
    return pieces[: next(place for place, piece in enumerate(pieces) if piece.is_learnt)]


def answer_ends(template: Template) -> tuple[str, ...]:
    """Return the names of the control tokens that the model learns to end an answer with."""
    pieces = list(pieces_of(template.assistant))
    place = next(place for place, piece in enumerate(pieces) if piece.kind == "content")
    return tuple(piece.value for piece in pieces[place:] if piece.kind == "control" and piece.is_learnt)


def _split(text: str) -> Iterator[tuple[str, str]]:
    literal, done = "", 0
    for match in _BRACES.finditer(text):
        literal += text[done : match.start()]
        done = match.end()
        if match[0] in ("{{", "}}"):
            literal += match[0][0]
            continue
        if match[1] not in PLACEHOLDERS:
            raise ValueError(
                f"{match[0]!r} in {text[:60]!r}: known are {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}; a "
                "brace itself is written {{ or }}"
            )
        if literal:
            yield "text", literal
        literal = ""
        yield match[1], ""
    literal += text[done:]
    if literal:
        yield "text", literal


def _placeholders(part: Part) -> list[str]:
    return [piece.kind for piece in pieces_of(part) if piece.kind in PLACEHOLDERS]


def shipped_templates() -> Mapping[str, Path]:
    """Return the templates that come with Altiplano, by name."""
    return {path.stem: path for path in sorted((shipped_configs() / "templates").glob("*.yaml"))}


def load_template(name: str) -> Template:
    """Load a template by the name of a shipped one, or by the path of a file ending in `.yaml`.

    Raises:
        ConfigError: there is no such template, or it is faulty; names file, line and field.
    """
    if name.endswith((".yaml", ".yml")):
        return load_config(Template, Path(name).expanduser())
    shipped = shipped_templates()
    try:
        return load_config(Template, shipped[known_name(name, shipped, "template")])
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"tokens.template: {error}; or give the path of a .yaml file") from None
