"""Parquet files with a string column `text`, and optionally `url`; all other columns are metadata."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.sources.parquet_columns import is_text, texts_of, values_of
from data_prep.sources.ranges import FileRange, at_places
from data_prep.sources.reading import Document, Fault, Reader, excerpt_of, usable
from data_prep.sources.storage import StorageError, open_input, scheme_of

_ROWS_AT_A_TIME = 256  # documents may be megabytes


def _accepts(path: str) -> bool:
    return path.lower().endswith((".parquet", ".pq"))


def _divide(path: str, size: int, shard_bytes: int) -> list[FileRange]:
    """Divide a file into ranges of whole row groups; a file whose footer cannot be read is one range, whose reader
    reports it."""
    try:
        with open_input(path) as file:
            metadata = pq.read_metadata(file)
        places = [_start_of(metadata.row_group(group)) for group in range(metadata.num_row_groups)]
    except StorageError:
        raise
    except (pa.ArrowException, OSError):
        places = []
    return at_places(path, size, shard_bytes, places)


def _start_of(group: Any) -> int:
    """Return the first byte of a row group's pages."""
    columns = [group.column(index) for index in range(group.num_columns)]
    return min(
        min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset) for column in columns
    )


def read(piece: FileRange, maximum_document_bytes: int) -> Iterator[Document | Fault]:
    """Yield the documents of the row groups that start in a range.

    Raises:
        ValueError: the file has no string column `text`, a name twice, or a column that cannot be metadata.
    """
    path = piece.path
    try:
        file = pq.ParquetFile(open_input(path) if scheme_of(path) else path)
    except StorageError:
        raise
    except (pa.ArrowException, OSError) as error:
        yield Fault("damaged_file", f"not a whole Parquet file ({_first_line(error)}); none of it is read", path)
        return
    with file:
        _check_columns(file.schema_arrow, path)
        groups, row = _groups_of(file.metadata, piece)
        first = row
        try:
            for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME, row_groups=groups, use_threads=False):
                columns = _columns(batch, path)
                for i in range(batch.num_rows):
                    yield _document(
                        {name: values[i] for name, values in columns.items()}, path, row, maximum_document_bytes
                    )
                    row += 1
        except StorageError:
            raise
        except (pa.ArrowException, OSError) as error:
            total = file.metadata.num_rows
            detail = f"cannot be read on ({_first_line(error)}); rows {first} to {row} of {total} are read"
            yield Fault("damaged_file", detail, path, row=row)


def _groups_of(metadata: pq.FileMetaData, piece: FileRange) -> tuple[list[int], int]:
    """Return the row groups of a range, and the number of rows before them."""
    groups, rows_before = [], 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        place = _start_of(group) if piece.start or piece.end < piece.size else 0
        if place < piece.start:
            rows_before += group.num_rows
        elif place < piece.end:
            groups.append(index)
    return groups, rows_before


def _check_columns(schema: pa.Schema, path: str) -> None:
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    if "text" not in schema.names:
        raise ValueError(
            f"{path}: no column `text`; a Parquet source needs a string column of this name, the file has {columns}"
        )
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{path}: the column `{twice[0]}` occurs {schema.names.count(twice[0])} times; each column needs a name "
            f"of its own, the file has {columns}"
        )
    kind = schema.field("text").type
    if not is_text(kind):
        raise ValueError(f"{path}: the column `text` is {kind}; it must be a string, the file has {columns}")


def _columns(batch: pa.RecordBatch, path: str) -> dict[str, list[Any]]:
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[name] = texts_of(column) if name == "text" else values_of(column)
        except (TypeError, ValueError, OverflowError, pa.ArrowException) as error:
            raise ValueError(
                f"{path}: the column `{name}` ({column.type}) cannot be read: {_first_line(error)}; drop it from the "
                "file, or write it as strings"
            ) from error
    return columns


def _document(values: dict[str, Any], path: str, row: int, maximum_bytes: int) -> Document | Fault:
    content = values.pop("text")

    def fault(reason: str, detail: str) -> Fault:
        return Fault(reason, detail, path, row=row, excerpt=excerpt_of(content or ""))

    if content is None:
        return fault("empty", "`text` is null")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return fault("invalid_utf8", f"byte {content[error.start]:#04x} at offset {error.start} ({error.reason})")
    url = values.pop("url", None)
    return usable(text, url if isinstance(url, str) and url else f"{path}#row={row}", values, fault, maximum_bytes)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0].strip().rstrip(".")


READER = Reader(_accepts, read, _divide)
