"""Readers of raw files: one module for each kind of source, with a `READER`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Literal

from data_prep.sources.ranges import FileRange
from data_prep.sources.reading import Document, Fault, Reader
from foundation.configuration import known_name

KINDS = (
    "jsonl",
    "parquet",
    "arrow",
    "warc",
    "html",
    "arxiv",
    "stackexchange",
    "wikipedia",
    "repository",
    "gutenberg",
    "epub",
    "pdf",
    "text",
    "python",
    "docstrings",
    "conversations",
    "catalogue",
)
"""Kinds of sources; each is the name of its module in this package."""
KINDS_WITH_FIELDS = ("jsonl", "parquet", "arrow")
"""Kinds whose records have named fields, see `fields.py`."""
KINDS_OF_PAGES = ("html", "warc")
"""Kinds whose records are web pages, see `html.py`."""
Extractor = Literal["blocks", "resiliparse", "trafilatura"]
"""What finds the main text of a page."""

__all__ = [
    "KINDS",
    "KINDS_OF_PAGES",
    "KINDS_WITH_FIELDS",
    "Document",
    "Extractor",
    "Fault",
    "FileRange",
    "Reader",
    "known_kind",
    "reader_of",
]


def known_kind(kind: str) -> str:
    """Return the kind itself.

    Raises:
        ValueError: there is no such kind; suggests the closest one.
    """
    return known_name(kind, KINDS, "source kind")


def reader_of(kind: str, options: Mapping[str, Any] | None = None) -> Reader:
    """Return the reader of one kind; its module and libraries are imported when it is first needed.

    Args:
        options: settings of a source that are for its kind alone, see `SourceConfig.options`; None: they do not matter.

    Raises:
        ValueError: there is no such kind.
    """
    known_kind(kind)
    module = importlib.import_module(f"data_prep.sources.{kind}")
    reader: Reader = module.reader_with(options) if options else module.READER
    return reader
