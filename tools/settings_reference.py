"""Write the reference of every setting, from the settings classes themselves.

python -m tools.settings_reference            writes the pages of docs/reference
python -m tools.settings_reference --check    compares them with the code, and fails when they are not current
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
import textwrap
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from data_prep.config import DataConfig
from data_prep.crawl.config import CrawlConfig
from foundation.atomic_files import write_text
from foundation.configuration import Settings
from pretrain.config import TrainConfig
from tools.ladder.settings import LadderConfig
from tools.mixture.settings import MixtureConfig
from tools.what_if.settings import WhatIfConfig

FOLDER = Path("docs/reference")
PAGES: dict[str, tuple[type[Settings], str, str]] = {
    "data.md": (DataConfig, "Settings of data preparation", "altiplano data run --config FILE"),
    "crawl.md": (CrawlConfig, "Settings of a crawl", "altiplano data crawl --config FILE"),
    "train.md": (TrainConfig, "Settings of training", "altiplano train --config FILE"),
    "ladder.md": (LadderConfig, "Settings of a ladder", "altiplano ladder plan FILE"),
    "mixture.md": (MixtureConfig, "Settings of a search for weights", "altiplano mixture plan FILE"),
    "what_if.md": (WhatIfConfig, "Settings of a comparison of rule sets", "altiplano data what-if plan FILE"),
}


@dataclass(frozen=True)
class Setting:
    """One setting.

    Args:
        name: dotted; `[]` stands for each entry of a list, `NAME` for each key of a dictionary.
        kind: its type, for people.
        default: as written in YAML; "required" when there is none.
        meaning: its docstring, with the source of its default.
    """

    name: str
    kind: str
    default: str
    meaning: str


def settings_of(model: type[Settings], prefix: str = "") -> Iterator[tuple[type[Settings], str, list[Setting]]]:
    """Each group of settings, depth first: (class, dotted prefix, its own settings)."""
    own: list[Setting] = []
    groups: list[tuple[type[Settings], str]] = []
    documentation = docstrings(model)
    for name, field in model.model_fields.items():
        annotation = field.annotation
        nested = nested_settings(annotation)
        if nested is not None:
            inner, suffix = nested
            groups.append((inner, f"{prefix}{name}{suffix}."))
            if not suffix and is_always_there(annotation):
                continue
        own.append(Setting(prefix + name, kind_of(annotation, field), default_of(field), documentation.get(name, "")))
    yield model, prefix, own
    for inner, inner_prefix in groups:
        yield from settings_of(inner, inner_prefix)


@cache
def docstrings(model: type[Settings]) -> dict[str, str]:
    """The docstring behind each field, those of base classes included."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not (isinstance(base, type) and issubclass(base, Settings)) or base is Settings:
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for statement, following in zip(definition.body, definition.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                found[statement.target.id] = inspect.cleandoc(following.value.value)
    return found


def nested_settings(annotation: Any) -> tuple[type[Settings], str] | None:
    """The settings class inside a type, and how its place is written.

    That is "" when it is alone, "[]" in a list, ".NAME" in a mapping.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return nested_settings(arguments[0])
    if origin in (Union, types.UnionType):
        return next((found for part in arguments if (found := nested_settings(part))), None)
    if origin in (tuple, list):
        found = nested_settings(arguments[0])
        return found and (found[0], "[]" + found[1])
    if origin is dict:
        found = nested_settings(arguments[1])
        return found and (found[0], ".NAME" + found[1])
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation, ""
    return None


def is_always_there(annotation: Any) -> bool:
    """Whether a group of settings cannot be left out as null."""
    return isinstance(annotation, type)


def kind_of(annotation: Any, field: FieldInfo | None = None) -> str:
    """A type in words, with the bounds that its field sets."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        text = kind_of(arguments[0])
    elif origin in (Union, types.UnionType):
        parts = ["null" if part is type(None) else kind_of(part) for part in arguments]
        text = " or ".join(parts)
    elif origin is Literal:
        text = ", ".join(f"`{value}`" for value in arguments)
    elif origin in (tuple, list):
        inner = [kind_of(part) for part in arguments if part is not Ellipsis]
        text = f"list of {inner[0]}" if Ellipsis in arguments or origin is list else f"list: {', '.join(inner)}"
    elif origin is dict:
        text = f"mapping from {kind_of(arguments[0])} to {kind_of(arguments[1])}"
    elif isinstance(annotation, type) and issubclass(annotation, Settings):
        text = "settings, see below"
    else:
        names = {"int": "integer", "float": "number", "str": "text", "bool": "true or false", "Path": "path"}
        text = names.get(getattr(annotation, "__name__", str(annotation)), str(annotation))
    bounds = [] if field is None else [bound for item in field.metadata if (bound := bound_of(item))]
    return f"{text}, {', '.join(bounds)}" if bounds else text


def bound_of(item: Any) -> str:
    """A constraint of annotated-types, in words."""
    words = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    told = [f"{sign} {getattr(item, name)}" for name, sign in words.items() if getattr(item, name, None) is not None]
    if getattr(item, "min_length", None) is not None:
        told.append(f"at least {item.min_length}")
    if getattr(item, "pattern", None) is not None:
        told.append(f"`{item.pattern}`")
    return " and ".join(told)


def default_of(field: FieldInfo) -> str:
    """The default as YAML has it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "left out"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Settings):
        return "see below"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(str(part) for part in value) + "]"
    if isinstance(value, dict):
        return "{}" if not value else str(value)
    return str(value)


def page(model: type[Settings], title: str, command: str) -> str:
    """One page of the reference, in Markdown."""
    out = [
        f"# {title}",
        "",
        f"Every setting that `{command}` knows: in a YAML file by these names as nested keys, or on the command line "
        "as `dotted.name=value`. An unknown name, a value outside of its bounds, and a setting that cannot take effect "
        "are errors that name file and line.",
        "",
        "This page is generated by `python -m tools.settings_reference`.",
    ]
    for group, prefix, settings in settings_of(model):
        if not settings:
            continue
        heading = f"`{prefix.rstrip('.')}`" if prefix else "At the top"
        about = "" if not prefix else " ".join(inspect.cleandoc(group.__doc__ or "").split("\n\n")[0].split())
        out += ["", f"## {heading}", "", *([about, ""] if about else [])]
        out += ["| setting | type | default | meaning |", "|---|---|---|---|"]
        for setting in settings:
            meaning = " ".join(setting.meaning.split()).replace("|", "\\|")
            kind = setting.kind.replace("|", "\\|")
            out.append(f"| `{setting.name}` | {kind} | `{setting.default}` | {meaning} |")
    return "\n".join(out) + "\n"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.settings_reference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a page is not current")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = make_parser().parse_args(arguments)
    stale = []
    for name, (model, title, command) in PAGES.items():
        path, text = FOLDER / name, page(model, title, command)
        if given.check:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                stale.append(str(path))
        else:
            write_text(path, text)
            print(f"written to {path}")
    if stale:
        print(f"{', '.join(stale)}: not current; run `python -m tools.settings_reference`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
