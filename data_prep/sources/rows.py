"""Rows of Arrow tables as documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from data_prep.sources.fields import FieldError, Fields
from data_prep.sources.parquet_columns import is_text, texts_of, values_of
from data_prep.sources.reading import Document, Fault, excerpt_of, usable


def check_columns(schema: pa.Schema, path: str, fields: Fields) -> None:
    """Refuse tables that do not have the fields.

    Raises:
        ValueError: the table has no such string column, or a name twice.
    """
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{path}: the column `{twice[0]}` occurs {schema.names.count(twice[0])} times; each column needs a name "
            f"of its own, the file has {columns}"
        )
    for name in fields.texts:
        kind = _type_of(schema, name)
        if kind is None:
            raise ValueError(
                f"{path}: no column `{name}`; name the string column with `text_field`, or several with "
                f"`text_template`; the file has {columns}"
            )
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if not is_text(kind) and not (fields.is_template and is_number):
            raise ValueError(f"{path}: the column `{name}` is {kind}; it must be a string, the file has {columns}")
    if fields.origin != "url" and _type_of(schema, fields.origin) is None:
        raise ValueError(f"{path}: no column `{fields.origin}`, which `id_field` names; the file has {columns}")


def _type_of(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Return the type of a column, or of a field of a column of structures."""
    keys = [name] if name in schema.names else name.split(".")
    if keys[0] not in schema.names:
        return None
    kind = schema.field(keys[0]).type
    for key in keys[1:]:
        if not pa.types.is_struct(kind) or kind.get_field_index(key) < 0:
            return None
        kind = kind.field(key).type
    return kind


def documents_of(
    batch: pa.RecordBatch, path: str, row: int, maximum_bytes: int, fields: Fields
) -> Iterator[Document | Fault]:
    """Yield the rows of a batch.

    Args:
        row: number of the batch's first row in the file.

    Raises:
        ValueError: a column cannot be metadata.
    """
    texts = {name: _texts(batch, name) for name in fields.texts}
    columns = {
        name: [None] * batch.num_rows
        if name in texts and name != fields.origin
        else _read(column, name, path, values_of)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    for i in range(batch.num_rows):
        record = {name: values[i] for name, values in columns.items()}
        yield _document(
            record, {name: values[i] for name, values in texts.items()}, path, row + i, maximum_bytes, fields
        )


def _texts(batch: pa.RecordBatch, name: str) -> list[Any]:
    """Return the values of one field: strings as bytes, which need not be UTF-8."""
    keys = [name] if name in batch.schema.names else name.split(".")
    column = batch.column(keys[0])
    for key in keys[1:]:
        column = column.flatten()[column.type.get_field_index(key)]  # with the nulls of the structure
    return texts_of(column) if is_text(column.type) else values_of(column)


def _read(column: pa.Array, name: str, path: str, convert: Callable[[pa.Array], list[Any]]) -> list[Any]:
    try:
        return convert(column)
    except (TypeError, ValueError, OverflowError, pa.ArrowException) as error:
        raise ValueError(
            f"{path}: the column `{name}` ({column.type}) cannot be read: {first_line(error)}; drop it from the "
            "file, or write it as strings"
        ) from error


def _document(
    record: dict[str, Any], texts: dict[str, Any], path: str, row: int, maximum_bytes: int, fields: Fields
) -> Document | Fault:
    def fault(reason: str, detail: str) -> Fault:
        shown = next((value for value in texts.values() if isinstance(value, bytes)), b"")
        return Fault(reason, detail, path, row=row, excerpt=excerpt_of(shown))

    def value_of(name: str) -> Any:
        value = texts[name]
        if value is None:
            raise FieldError("empty", f"`{name}` is null")
        try:
            return value.decode("utf-8") if isinstance(value, bytes) else value
        except UnicodeDecodeError as error:
            detail = f"byte {value[error.start]:#04x} at offset {error.start} ({error.reason})"
            raise FieldError("invalid_utf8", detail) from None

    try:
        text, origin, metadata = fields.take(record, value_of)
    except FieldError as error:
        return fault(error.reason, str(error))
    return usable(text, origin or f"{path}#row={row}", metadata, fault, maximum_bytes)


def first_line(error: Exception) -> str:
    """Return the message of one of Arrow's errors without the lines that follow."""
    return str(error).split("\n", 1)[0].strip().rstrip(".")
