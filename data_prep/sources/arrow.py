"""Arrow files, as `save_to_disk` of Hugging Face's datasets writes them; fields as in Parquet files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from data_prep.sources.fields import USUAL_FIELDS, Fields
from data_prep.sources.ranges import FileRange
from data_prep.sources.reading import Document, Fault, Reader
from data_prep.sources.rows import check_columns, documents_of, first_line
from data_prep.sources.storage import StorageError, open_input

_MAGIC = b"ARROW1"
"""First bytes of the file format, which has an index; a stream has none. Source: Arrow Columnar Format, IPC."""
_ROWS_AT_A_TIME = 256  # documents may be megabytes


def _accepts(path: str) -> bool:
    # datasets keeps the results of its own calls beside the data, as cache-….arrow
    return path.lower().endswith(".arrow") and not os.path.basename(path).startswith("cache-")


def read(piece: FileRange, maximum_document_bytes: int, fields: Fields = USUAL_FIELDS) -> Iterator[Document | Fault]:
    """Yield the documents of a file.

    Raises:
        ValueError: the file does not have the fields, has a name twice, or a column that cannot be metadata.
    """
    path, row = piece.path, 0
    try:
        with open_input(path) as file:
            is_stream = file.read(len(_MAGIC)) != _MAGIC
            file.seek(0)
            reader: Any = pa.ipc.open_stream(file) if is_stream else pa.ipc.open_file(file)
            check_columns(reader.schema, path, fields)
            for batch in reader if is_stream else map(reader.get_batch, range(reader.num_record_batches)):
                for start in range(0, batch.num_rows, _ROWS_AT_A_TIME):
                    part = batch.slice(start, _ROWS_AT_A_TIME)
                    yield from documents_of(part, path, row, maximum_document_bytes, fields)
                    row += part.num_rows
    except StorageError:
        raise
    except (pa.ArrowException, OSError) as error:
        yield Fault("damaged_file", f"cannot be read on ({first_line(error)}); {row} rows are read", path, row=row)


def reader_with(options: Mapping[str, Any]) -> Reader:
    """Return the reader of a source with these settings."""
    return Reader(_accepts, partial(read, fields=Fields.of(options)))


READER = Reader(_accepts, read)
