"""Conversion of Arrow columns of any type to JSON values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column has strings, in any of Arrow's layouts."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return _is(kind, "is_string", "is_large_string", "is_string_view")


def texts_of(column: pa.Array) -> list[bytes | None]:
    """Return the strings of a column as bytes: those in a file need not be UTF-8, and one bad row must not affect
    others."""
    if pa.types.is_dictionary(column.type):
        return texts_of(column.dictionary.take(column.indices))
    if pa.types.is_string(column.type):
        return column.view(pa.binary()).to_pylist()
    if pa.types.is_large_string(column.type):
        return column.view(pa.large_binary()).to_pylist()
    return column.view(pa.binary_view()).to_pylist()


def values_of(column: pa.Array) -> list[Any]:
    """Return the values of a column: numbers and truth values as they are, others as text, lists and objects.

    Bytes that are not UTF-8 are shown as \\x… A time outside the range of Python's types, with nanoseconds or beyond
    the year 9999, is written in the same format.

    Raises:
        TypeError: unknown type.
    """
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _as_text(column) if kind.extension_name == "arrow.uuid" else values_of(column.storage)
    if pa.types.is_dictionary(kind):
        return values_of(column.dictionary.take(column.indices))  # it may be much longer than the rows
    if is_text(kind):
        return [_text(value) for value in texts_of(column)]
    for names, convert in _CONVERSIONS:
        if _is(kind, *names):
            return convert(column)
    raise TypeError(f"values of type {kind} cannot be metadata")


def _is(kind: pa.DataType, *names: str) -> bool:
    # older releases of pyarrow do not have all types
    return any(getattr(pa.types, name)(kind) for name in names if hasattr(pa.types, name))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")


def _plain(column: pa.Array) -> list[Any]:
    return list(column.to_pylist())


def _floats(column: pa.Array) -> list[Any]:
    """Replace infinity and NaN, which JSON does not have."""
    values = (None if value is None else float(value) for value in column.to_pylist())
    return [value if value is None or math.isfinite(value) else str(value) for value in values]


def _bytes(column: pa.Array) -> list[Any]:
    return [_text(value) for value in column.to_pylist()]


def _as_text(column: pa.Array) -> list[Any]:
    return [None if value is None else str(value) for value in column.to_pylist()]


def _times(column: pa.Array) -> list[Any]:
    """Return points in time and durations."""
    kind = column.type
    if getattr(kind, "unit", "") != "ns":  # for which Python has no type
        try:
            return _as_text(column)
        except (OverflowError, ValueError, pa.ArrowException):
            pass  # a year beyond 9999, or a time zone that this machine does not know
    return [None if not scalar.is_valid else _time(scalar, kind) for scalar in column]


def _time(scalar: Any, kind: pa.DataType) -> str:
    value = scalar.value
    if pa.types.is_duration(kind):
        return str(np.timedelta64(value, kind.unit))
    if pa.types.is_date32(kind):
        return str(np.datetime64(value, "D"))
    if pa.types.is_date64(kind):
        return str(np.datetime64(value, "ms").astype("datetime64[D]"))
    whole = str(np.datetime64(value, kind.unit)).replace("T", " ")
    if pa.types.is_time(kind):
        whole = whole.partition(" ")[2]
    whole = whole.rstrip("0").rstrip(".") if "." in whole else whole
    return whole + ("+00:00" if getattr(kind, "tz", None) else "")


def _lists(column: pa.Array) -> list[Any]:
    values = values_of(column.flatten())
    lengths = pc.list_value_length(column).to_pylist()
    result: list[Any] = []
    place = 0
    for length in lengths:
        result.append(None if length is None else values[place : place + length])
        place += length or 0
    return result


def _structs(column: pa.Array) -> list[Any]:
    names = [column.type.field(index).name for index in range(column.type.num_fields)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TypeError(f"values of type {column.type} have the field {twice[0]!r} twice")
    fields = [values_of(field) for field in column.flatten()]
    return [
        dict(zip(names, values, strict=True)) if is_valid else None
        for is_valid, *values in zip(column.is_valid().to_pylist(), *fields, strict=True)
    ]


def _maps(column: pa.Array) -> list[Any]:
    """Return objects, or lists of pairs if a key occurs twice."""
    entries = pa.ListArray.from_arrays(
        pa.concat_arrays([column.offsets]), pa.StructArray.from_arrays([column.keys, column.items], ["key", "value"])
    )
    result: list[Any] = []
    for pairs, is_valid in zip(_lists(entries), column.is_valid().to_pylist(), strict=True):
        if not is_valid:
            result.append(None)
            continue
        keys = [str(pair["key"]) for pair in pairs]
        found = dict(zip(keys, (pair["value"] for pair in pairs), strict=True))
        result.append(found if len(found) == len(pairs) else [[pair["key"], pair["value"]] for pair in pairs])
    return result


_CONVERSIONS: tuple[tuple[tuple[str, ...], Callable[[pa.Array], list[Any]]], ...] = (
    (("is_null", "is_boolean", "is_integer"), _plain),
    (("is_floating",), _floats),
    (("is_binary", "is_large_binary", "is_fixed_size_binary", "is_binary_view"), _bytes),
    (("is_decimal", "is_interval"), _as_text),
    (("is_timestamp", "is_date", "is_time", "is_duration"), _times),
    (("is_map",), _maps),
    (("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view"), _lists),
    (("is_struct",), _structs),
    (("is_run_end_encoded",), lambda column: values_of(pc.run_end_decode(column))),
)
