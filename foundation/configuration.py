"""Typed settings from YAML files, with errors that name file and line, field and value, and what would be right."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from foundation.atomic_files import write_text

COMMAND_LINE = "command line"

Location = tuple[str | int, ...]


class Settings(BaseModel):
    """Base of every settings class: frozen, unknown keys refused, defaults checked like given values."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class ConfigError(ValueError):
    """A configuration is invalid; the message has one line for each fault, `file:line: field: fault`."""


SettingsType = TypeVar("SettingsType", bound=Settings)


def load_config(model: type[SettingsType], path: Path, overrides: Sequence[str] = ()) -> SettingsType:
    """Read a YAML file, the files it is based on and the command line's overrides into `model`.

    A file may name others in `base:` (one path or a list, relative to the file itself). Later bases override earlier
    ones, the file overrides its bases, and the command line overrides everything. Sections are merged key by key; lists
    and single values are replaced. An override is `dotted.field=value`, its value written as in YAML;
    `sources.0.name=x` reaches into a list.

    Scalars are read as in YAML 1.2: `1e-5` is a number and `no` is a string (an ISO 639 code, say).

    Raises:
        ConfigError: a file, an override or a setting is invalid.
    """
    tree = _read_file(Path(path), ())
    for override in overrides:
        _apply_override(tree, override)
    try:
        # JSON mode, in which strict means what a YAML author expects: lists are tuples and strings are paths,
        # but `true` is no number and "8" no integer.
        return model.model_validate_json(json.dumps(tree.value), strict=True)
    except ValidationError as error:
        faults = [dict(fault) for fault in error.errors()]
        lines = [_describe(fault, model, tree, Path(path)) for fault in faults if not _is_echo(fault)]
        raise ConfigError("\n".join(lines)) from None


def write_resolved(settings: Settings, path: Path) -> None:
    """Write every setting, defaults included, as a YAML file that `load_config` reads back to equal settings."""
    write_yaml(path, settings.model_dump(mode="json"))


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as a YAML file that `load_config` reads back as they are."""
    write_text(path, yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


def known_name(name: str, known: Collection[str], what: str) -> str:
    """Return a name that is one of `known`.

    Raises:
        ValueError: it is not; suggests the closest one.
    """
    if name in known:
        return name
    close = difflib.get_close_matches(name, known, n=1)
    suggestion = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"{what} {name!r} is unknown; {suggestion}known are {', '.join(known)}")


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return each setting of nested sections by its dotted name; an empty section is a value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        is_section = isinstance(value, Mapping) and len(value) > 0
        flat |= flat_settings(value, f"{prefix}{name}.") if is_section else {prefix + name: value}
    return flat


def first_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Return the first setting that differs, with its values before and now; None: none does.

    Args:
        before: settings as they were read from JSON.
    """
    old, new = flat_settings(before), flat_settings(json.loads(json.dumps(now)))
    for name in sorted(old.keys() | new.keys()):
        pair = tuple(values.get(name, "(not set)") for values in (old, new))
        if pair[0] != pair[1]:
            return name, *pair
    return None


# --- YAML with the scalars of version 1.2: PyYAML's own rules read `1e-5` as a string and `no` as false ---------------


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_Loader, _Dumper):
    for _tag, _pattern, _first in (
        ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
        ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
        ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
        ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
        ("null", r"^(?:~|null|Null|NULL|)$", "~nN"),
        ("merge", r"^<<$", "<"),
    ):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), [*_first, *([""] if _tag == "null" else [])]
        )


def _construct_integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value)  # decimal always: PyYAML reads 010 as eight


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_integer)


@dataclass
class _Tree:
    """Plain values, and the file and line of each by its location."""

    value: Any
    origins: dict[Location, str] = field(default_factory=dict)

    def origin(self, location: Location) -> str | None:
        """Return the file and line of this location, or of the nearest section around it."""
        for length in range(len(location), 0, -1):
            if location[:length] in self.origins:
                return self.origins[location[:length]]
        return None

    def contains(self, location: Location) -> bool:
        value = self.value
        for part in location:
            try:
                value = value[part]
            except (TypeError, LookupError):
                return False
        return True


def _read_file(path: Path, readers: tuple[Path, ...]) -> _Tree:
    """Read a file and merge it over its bases; `readers` are the files that led to this one."""
    if path.resolve() in readers:
        raise ConfigError(f"{path}: base: the file is based on itself, by way of {readers[-1].name}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    tree = _parse(text, lambda line: f"{path}:{line}")
    if tree.value is None:
        tree.value = {}
    if not isinstance(tree.value, dict):
        raise ConfigError(f"{path}:1: expected settings as `name: value`, found {_shown(tree.value)}")
    if "base" not in tree.value:
        return tree

    where = tree.origins[("base",)]
    names = tree.value.pop("base")
    names = names if isinstance(names, list) else [names]
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{where}: base: expected a path or a list of paths, found {_shown(names)}")
    merged = _Tree({})
    for name in names:
        base_path = path.parent / name
        if not base_path.is_file():
            raise ConfigError(f"{where}: base: {name!r} is no file; it is looked for at {base_path}")
        _merge(merged, _read_file(base_path, (*readers, path.resolve())))
    tree.origins.pop(("base",))
    _merge(merged, tree)
    return merged


def _parse(text: str, place: Any) -> _Tree:
    """Parse YAML; `place(line)` formats the place of a line for messages."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        tree = _Tree(None)
        if node is not None:
            tree.value = _build(node, (), loader, tree.origins, place, ())
        return tree
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        detail = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{place(mark.line + 1 if mark else 1)}: not valid YAML: {detail}") from None
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{place(1)}: not valid YAML: {error}") from None
    finally:
        loader.dispose()


_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


def _build(
    node: yaml.Node,
    location: Location,
    loader: _Loader,
    origins: dict[Location, str],
    place: Any,
    parents: tuple[yaml.Node, ...],
) -> Any:
    where = place(node.start_mark.line + 1)
    origins.setdefault(location, where)
    if any(node is parent for parent in parents):
        raise ConfigError(f"{where}: {_dotted(location)}: an alias refers to the section that contains it")
    if isinstance(node, yaml.CollectionNode) and node.tag not in _PLAIN_TAGS:
        raise ConfigError(f"{where}: {_dotted(location)}: a value of type {node.tag!r} is not allowed")
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_where = place(key_node.start_mark.line + 1)
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                name = _dotted(location)
                raise ConfigError(f"{key_where}: {name}: keys must be names; `<<` is not supported, use `base:`")
            key = key_node.value
            here = (*location, key)
            if key in values:
                raise ConfigError(f"{key_where}: {_dotted(here)}: given twice, first at {origins[here]}")
            origins[here] = key_where
            values[key] = _build(value_node, here, loader, origins, place, (*parents, node))
        return values
    if isinstance(node, yaml.SequenceNode):
        items = enumerate(node.value)
        return [_build(item, (*location, i), loader, origins, place, (*parents, node)) for i, item in items]
    return loader.construct_object(node)


def _merge(below: _Tree, above: _Tree) -> None:
    """Merge `above` over `below`, in place: sections key by key; other values are replaced."""

    def lay(low: dict[str, Any], high: dict[str, Any], location: Location) -> None:
        for key, value in high.items():
            here = (*location, key)
            if isinstance(value, dict) and isinstance(low.get(key), dict):
                below.origins[here] = above.origins[here]
                lay(low[key], value, here)
                continue
            low[key] = value
            for old in [old for old in below.origins if old[: len(here)] == here]:
                del below.origins[old]
            below.origins.update({new: text for new, text in above.origins.items() if new[: len(here)] == here})

    lay(below.value, above.value, ())


def _apply_override(tree: _Tree, override: str) -> None:
    name, equals, text = override.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{COMMAND_LINE}: {override!r}: expected an override such as parallel.tensor=2")
    given = _parse(text, lambda line: f"{COMMAND_LINE}: {name}")
    location: Location = ()
    section = tree.value
    for i, part in enumerate(parts):
        key: str | int = part
        if isinstance(section, list):
            if not part.isdecimal() or int(part) >= len(section):
                raise ConfigError(
                    f"{COMMAND_LINE}: {name}: {_dotted(location)} is a list of {len(section)}; "
                    f"{part!r} is none of its indices"
                )
            key = int(part)
        elif not isinstance(section, dict):
            raise ConfigError(
                f"{COMMAND_LINE}: {name}: {_dotted(location)} is {_shown(section)}, which has no settings of its own"
            )
        location = (*location, key)
        if i + 1 < len(parts):
            if isinstance(section, dict) and section.get(part) is None:
                section[part] = {}
                tree.origins[location] = COMMAND_LINE
            section = section[key]
    nested = _Tree({"value": given.value}, {("value", *inner): COMMAND_LINE for inner in given.origins})
    nested.origins[("value",)] = COMMAND_LINE
    current = _Tree({"value": section[key]} if _has(section, key) else {}, {})
    _merge(current, nested)
    section[key] = current.value["value"]
    if not isinstance(given.value, dict):
        for old in [old for old in tree.origins if old[: len(location)] == location]:
            del tree.origins[old]
    tree.origins.update({(*location, *inner[1:]): COMMAND_LINE for inner in nested.origins})


def _has(section: Any, key: str | int) -> bool:
    return key in section if isinstance(section, dict) else True


# --- error messages ----------------------------------------------------------------------------------


def _describe(fault: dict[str, Any], model: type[BaseModel], tree: _Tree, path: Path) -> str:
    """Format a fault as one line: where the value was given, the dotted field, the value, and what would be right."""
    location: Location = tuple(fault["loc"])
    kind, message, value = fault["type"], fault["msg"], fault["input"]
    if kind == "extra_forbidden":
        text = "unknown setting; " + _suggestion(str(location[-1]), _field_names(model, location[:-1]))
    elif kind == "missing":
        text = "missing; it has no default and must be given"
    elif kind in ("value_error", "assertion_error"):
        text = str(fault["ctx"]["error"])
        location, text = _sharpen(location, text, tree)
    else:
        rule = message.replace("Tuple should", "list should").replace("Input should", "it should")
        text = f"{_shown(value)} is not allowed: {rule[:1].lower()}{rule[1:]}"
        if kind == "literal_error":
            allowed = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
            close = difflib.get_close_matches(str(value), allowed, n=1)
            text += f"; did you mean {close[0]!r}?" if close else ""
    # A union adds the name of the member that it tried to the location; that part is no setting.
    if not tree.contains(location) and kind != "missing":
        location = tuple(part for i, part in enumerate(location) if tree.contains((*location[:i], part))) or location
    where = tree.origin(location) or str(path)
    return f"{where}: {_dotted(location)}: {text}" if location else f"{where}: {text}"


def _is_echo(fault: dict[str, Any]) -> bool:
    """Return whether a fault repeats another: pydantic reports a list as too short also when it has refused an item."""
    return fault["type"] == "too_short" and len(fault["input"]) >= fault["ctx"]["min_length"]


def _sharpen(location: Location, text: str, tree: _Tree) -> tuple[Location, str]:
    """Return the location of the first given field that a message names: pydantic reports a rule over several fields
    for their section."""
    for name in re.findall(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*", text):
        parts = tuple(int(part) if part.isdecimal() else part for part in name.split("."))
        if (*location, *parts) in tree.origins:
            text = text.removeprefix(f"{name}: ")
            return (*location, *parts), text
    return location, text


def _suggestion(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known here: {', '.join(sorted(known))}" if known else "no setting has that name"


def _field_names(model: type[BaseModel], location: Location) -> list[str]:
    """Return names of the settings in the section at `location`."""
    models = [model]
    for part in location:
        if isinstance(part, int):
            continue  # an item of a list has the type that the list's annotation names
        annotations = [owner.model_fields[part].annotation for owner in models if part in owner.model_fields]
        found = [member for annotation in annotations for member in _models_in(annotation)]
        models = found or models
    return sorted({name for owner in models for name in owner.model_fields})


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location) or "the file"


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
