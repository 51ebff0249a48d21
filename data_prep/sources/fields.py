"""Fields of records, such as JSON objects or rows of a table, that become a document: its text and its origin.

A field is named by its key, or by keys joined with dots where objects are in objects: `data.body`. A key that itself
has dots is found first.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.sources.reading import SetAsideError

OPTIONS = ("text_field", "text_template", "id_field")
"""Settings of a source that name fields, see `SourceConfig`."""


class FieldError(SetAsideError):
    """A record whose fields do not make a document."""


@dataclass(frozen=True)
class Fields:
    """Names of the fields of a source's documents.

    Attributes:
        texts: fields that make the text, in order of use.
        origin: field whose text or number is the document's `url`.
    """

    texts: tuple[str, ...] = ("text",)
    origin: str = "url"
    _literals: tuple[str, ...] = ("", "")
    """Texts around the fields, one more than there are fields."""

    @classmethod
    def of(cls, options: Mapping[str, Any] | None) -> Fields:
        """Read the settings of a source.

        Raises:
            ValueError: see `parse_template`.
        """
        options = options or {}
        origin = options.get("id_field") or "url"
        if options.get("text_template"):
            literals, texts = parse_template(options["text_template"])
            return cls(texts, origin, literals)
        return cls((options.get("text_field") or "text",), origin)

    @property
    def is_template(self) -> bool:
        return self._literals != ("", "")

    def take(self, record: Mapping[str, Any], value_of: Callable[[str], Any]) -> tuple[str, str, dict[str, Any]]:
        """Divide a record into its text, its origin (empty: it has none), and the rest.

        Args:
            value_of: returns the value of a field of the text, or raises FieldError.

        Raises:
            FieldError: a field of the text is no text, or the field that `id_field` names is no text or number.
        """
        text = self._text(value_of)
        if self.origin == "url":
            origin = record.get("url")
            rest = _without(record, (*self.texts, "url"))
            return text, origin if isinstance(origin, str) else "", rest
        origin = field_of(record, self.origin, "missing_id")
        if type(origin) not in (str, int) or origin == "":
            raise FieldError("missing_id", f"`{self.origin}` is {'empty' if origin == '' else kind_of(origin)}")
        return text, str(origin), _without(record, self.texts)

    def _text(self, value_of: Callable[[str], Any]) -> str:
        parts = [self._literals[0]]
        for name, after in zip(self.texts, self._literals[1:], strict=True):
            value = value_of(name)
            if self.is_template and type(value) in (int, float):
                value = str(value)
            if not isinstance(value, str):
                raise FieldError("missing_text", f"`{name}` is {kind_of(value)}")
            parts += (value, after)
        return "".join(parts)


USUAL_FIELDS = Fields()


def parse_template(template: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divide a template such as `"{title}\\n\\n{data.body}"` into the texts around its fields, and their names.

    Braces are written twice where they are meant: `{{` and `}}`.

    Raises:
        ValueError: a brace has no partner, a field no name or more than a name, or there is no field.
    """
    literals, names = [""], []
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{template!r}: {error}; a brace that is meant as text is written twice") from None
    for literal, name, form, conversion in pieces:
        literals[-1] += literal
        if name is None:
            continue
        if not name.strip() or form or conversion:
            raise ValueError(f"{template!r}: a field is a name in braces, such as {{title}} or {{data.body}}")
        names.append(name)
        literals.append("")
    if not names:
        raise ValueError(f"{template!r}: has no field; name fields in braces, such as {{title}}")
    return tuple(literals), tuple(names)


def field_of(record: Mapping[str, Any], name: str, reason: str = "missing_text") -> Any:
    """Return the value of a field.

    Raises:
        FieldError: the record does not have it.
    """
    keys = [name] if name in record else name.split(".")
    value: Any = record
    for place, key in enumerate(keys):
        if not isinstance(value, Mapping):
            raise FieldError(reason, f"`{'.'.join(keys[:place])}` is {kind_of(value)}, not an object")
        if key not in value:
            inside = f" of `{'.'.join(keys[:place])}`" if place else ""
            listed = ", ".join(map(repr, value)) or "(none)"
            raise FieldError(reason, f"no field `{key}`: the fields{inside} are {listed}")
        value = value[key]
    return value


def _without(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a record without some of its fields; objects that have nothing else go with them."""
    left = {key: value for key, value in record.items() if key not in names}
    for name in names:
        first, _, rest = name.partition(".")
        if name not in record and rest and isinstance(left.get(first), Mapping):
            left[first] = _without(left[first], [rest])
            if not left[first]:
                del left[first]
    return left


def kind_of(value: object) -> str:
    """Name the kind of a JSON value."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
