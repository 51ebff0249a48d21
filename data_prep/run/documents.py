"""The columns of a document shard, of its signals and of its verdicts, and the bytes of its texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
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
"""`id` is `<shard>/<row>`, `url` where the text came from, `metadata` a JSON object."""

PII_SPAN = pa.struct([("kind", pa.string()), ("start", pa.int64()), ("end", pa.int64())])
"""A half-open range of bytes of the UTF-8 text, and the placeholder that replaces it, without `PI:`."""

SIGNALS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        # sizes
        pa.field("byte_count", pa.int64()),
        pa.field("character_count", pa.int64()),
        pa.field("line_count", pa.int64()),
        pa.field("paragraph_count", pa.int64()),
        pa.field("word_count", pa.int64()),
        # Gopher quality
        pa.field("mean_word_length", pa.float64()),
        pa.field("hash_symbols_per_word", pa.float64()),
        pa.field("ellipses_per_word", pa.float64()),
        pa.field("bullet_line_share", pa.float64()),
        pa.field("ellipsis_line_share", pa.float64()),
        pa.field("alphabetic_word_share", pa.float64()),
        pa.field("distinct_stop_words", pa.int64()),
        # Gopher repetition
        pa.field("duplicate_line_share", pa.float64()),
        pa.field("duplicate_paragraph_share", pa.float64()),
        pa.field("duplicate_line_character_share", pa.float64()),
        pa.field("duplicate_paragraph_character_share", pa.float64()),
        *(pa.field(f"top_{n}_gram_character_share", pa.float64()) for n in (2, 3, 4)),
        *(pa.field(f"duplicate_{n}_gram_character_share", pa.float64()) for n in range(5, 11)),
        # code
        pa.field("longest_line_characters", pa.int64()),
        pa.field("mean_line_characters", pa.float64()),
        pa.field("alphanumeric_share", pa.float64()),
        pa.field("alphabetic_characters_per_token", pa.float64()),
        # C4, mC4, FineWeb: signals/web_statistics.py
        *(
            pa.field(name, pa.float64())
            for name in (
                "terminal_line_share",
                "short_line_share",
                "line_feeds_per_word",
                "duplicate_line_character_share_without_breaks",
            )
        ),
        *(
            pa.field(name, pa.int64())
            for name in (
                "long_line_count",
                "curly_bracket_count",
                "lorem_ipsum_count",
                "c4_paper_sentences",
                "c4_dataset_sentences",
                "c4_dataset_curly_bracket_lines",
                "c4_dataset_lorem_ipsum_lines",
            )
        ),
        # ROOTS: signals/roots_statistics.py
        pa.field("roots_word_count", pa.int64()),
        *(
            pa.field(f"roots_{name}", pa.float64())
            for name in (
                "character_repetition",
                "word_repetition",
                "special_character_share",
                "stop_word_share",
                "flagged_word_share",
            )
        ),
        # language, fingerprints, personal data
        pa.field("language", pa.string()),
        pa.field("language_probability", pa.float64()),
        pa.field("line_languages", pa.list_(pa.string())),  # null unless language.lines
        pa.field("line_language_probabilities", pa.list_(pa.float32())),
        pa.field("quality_probability", pa.float64()),  # null unless quality.model
        pa.field("perplexity", pa.float64()),  # null unless `perplexity` has a model of the language
        pa.field("exact_hash", pa.binary(16)),
        pa.field("shingle_count", pa.int64()),
        pa.field("minhash", pa.list_(pa.uint32())),
        pa.field("sampled_shingles", pa.list_(pa.uint64())),
        pa.field("pii_spans", pa.list_(PII_SPAN)),
    ]
)

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
"""`cuts` holds the byte ranges of a kept document that are left out when it is written: lines that rules refuse.
`reasons` holds every reason against a document, the one that is counted first; empty when it is kept."""


def read_columns(path: Path, names: Sequence[str]) -> pa.Table:
    """Some columns of a shard's file, in this order.

    Not `pq.read_table`, which builds a dataset and hands the file to a pool of threads: on a shard of a few documents
    that takes four times as long, and much longer on a busy machine.

    Raises:
        pa.ArrowException, OSError: the file cannot be read, or has no such column.
    """
    with pq.ParquetFile(path) as file:
        missing = [name for name in names if name not in file.schema_arrow.names]
        if missing:
            raise pa.ArrowInvalid(f"no column {', '.join(missing)}")
        return file.read(list(names), use_threads=False).select(list(names))


def text_bytes(texts: pa.LargeStringArray) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The bytes of a column of texts and where each begins and ends, without a copy.

    Returns:
        All bytes, and offsets: text d is bytes [offsets[d], offsets[d + 1]).

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
