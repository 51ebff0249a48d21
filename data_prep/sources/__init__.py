"""Raw files in, documents out. One module per kind of source, each with a `READER`."""

from __future__ import annotations

import importlib

from data_prep.sources.ranges import FileRange
from data_prep.sources.reading import Document, Fault, Reader

KINDS = ("jsonl", "parquet", "warc", "html", "arxiv", "stackexchange", "text", "python", "docstrings", "catalogue")

__all__ = ["KINDS", "Document", "Fault", "FileRange", "Reader", "reader_of"]


def reader_of(kind: str) -> Reader:
    """The reader of one kind; its libraries are imported only when it is asked for."""
    if kind not in KINDS:
        raise ValueError(f"source kind {kind!r} is unknown; kinds are {', '.join(KINDS)}")
    reader: Reader = importlib.import_module(f"data_prep.sources.{kind}").READER
    return reader
