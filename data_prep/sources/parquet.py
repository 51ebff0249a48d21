"""Parquet files: a string column is the text, by default `text`; all other columns are metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.sources.fields import USUAL_FIELDS, Fields
from data_prep.sources.ranges import FileRange, at_places
from data_prep.sources.reading import Document, Fault, Reader
from data_prep.sources.rows import check_columns, documents_of, first_line
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


def read(piece: FileRange, maximum_document_bytes: int, fields: Fields = USUAL_FIELDS) -> Iterator[Document | Fault]:
    """Yield the documents of the row groups that start in a range.

    Raises:
        ValueError: the file does not have the fields, has a name twice, or a column that cannot be metadata.
    """
    path = piece.path
    try:
        file = pq.ParquetFile(open_input(path) if scheme_of(path) else path)
    except StorageError:
        raise
    except (pa.ArrowException, OSError) as error:
        yield Fault("damaged_file", f"not a whole Parquet file ({first_line(error)}); none of it is read", path)
        return
    with file:
        check_columns(file.schema_arrow, path, fields)
        groups, row = _groups_of(file.metadata, piece)
        first = row
        try:
            for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME, row_groups=groups, use_threads=False):
                yield from documents_of(batch, path, row, maximum_document_bytes, fields)
                row += batch.num_rows
        except StorageError:
            raise
        except (pa.ArrowException, OSError) as error:
            total = file.metadata.num_rows
            detail = f"cannot be read on ({first_line(error)}); rows {first} to {row} of {total} are read"
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


def reader_with(options: Mapping[str, Any]) -> Reader:
    """Return the reader of a source with these settings."""
    return Reader(_accepts, partial(read, fields=Fields.of(options)), _divide)


READER = Reader(_accepts, read, _divide)
