"""Columns of a document shard and of its verdicts, and access to the bytes of its texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.kernels.kernel import read_only

DOCUMENTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
    ]
)
"""Columns of `corpus/<shard>.parquet`: `id` is `<shard>/<row>`, `url` the origin of the text, `metadata` a JSON
object."""

PASSED_OVER = "skipped:"
"""Beginning of the names under which the extract stage counts what is not meant to be a document, such as redirects."""

VERDICTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("reasons", pa.list_(pa.string()), nullable=False),
        pa.field("duplicate_of", pa.string()),
        pa.field("cuts", pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64())])), nullable=False),
    ]
)
"""Columns of `verdicts/<shard>.parquet`. `cuts` are byte ranges of a kept document that are left out of the token
files: lines that rules remove. `reasons` are all reasons against a document, starting with the one that is counted;
empty if it is kept."""


_KEPT = b"kept"
"""Key of the digest of `with_kept_digest` in the metadata of a file of verdicts."""


def with_kept_digest(verdicts: pa.Table) -> pa.Table:
    """Return verdicts with a digest of which documents are kept and what is cut from them; the reasons against others
    do not count."""
    cuts = verdicts.column("cuts").combine_chunks()
    ranges = pc.list_flatten(cuts)
    columns = [
        verdicts.column("kept"),
        pc.list_value_length(cuts),
        *(pc.struct_field(ranges, end) for end in ("start", "end")),
    ]
    content = b"".join(column.to_numpy(zero_copy_only=False).tobytes() for column in columns)
    return verdicts.replace_schema_metadata({_KEPT: hashlib.sha256(content).hexdigest()})


def read_kept_digest(path: Path) -> str:
    """Return the digest that `with_kept_digest` has added, without reading the verdicts.

    Raises:
        ValueError: the file is missing, damaged, or from before there were such digests.
    """
    try:
        return str((pq.read_schema(path).metadata or {})[_KEPT].decode())
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ValueError(f"{path}: no readable verdicts ({error}); `--restart decide` writes them again") from None


def read_columns(path: Path, names: Sequence[str]) -> pa.Table:
    """Read some columns of a shard's file, in this order.

    `pq.read_table` would build a dataset and use a pool of threads: on a shard of a few documents that takes four times
    as long, and much longer on a busy machine.

    Raises:
        pa.ArrowException, OSError: the file cannot be read, or has no such column.
    """
    with pq.ParquetFile(path) as file:
        missing = [name for name in names if name not in file.schema_arrow.names]
        if missing:
            raise pa.ArrowInvalid(f"no column {', '.join(missing)}")
        return file.read(list(names), use_threads=False).select(list(names))


def text_bytes(texts: pa.LargeStringArray) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the bytes of a column of texts and their offsets, without a copy.

    Returns:
        The bytes, and offsets: text d is bytes [offsets[d], offsets[d + 1]).

    Raises:
        ValueError: a text is null.
    """
    if texts.null_count:
        raise ValueError(f"column text: {texts.null_count} of {len(texts)} rows are null; each document needs a text")
    if len(texts) == 0:
        return np.frombuffer(b"", dtype=np.uint8), np.zeros(1, dtype=np.int64)
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return read_only(np.frombuffer(data if data is not None else b"", dtype=np.uint8)), bounds
