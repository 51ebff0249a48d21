"""Plain text, Markdown and reStructuredText: each file is one document; also `.gz` and `.zst`."""

from __future__ import annotations

import os
from collections.abc import Iterator

from data_prep.sources.compression import without_compression
from data_prep.sources.ranges import FileRange
from data_prep.sources.reading import (
    Document,
    Fault,
    Reader,
    decode,
    excerpt_of,
    read_whole,
    usable,
)

_SUFFIXES = (".txt", ".md", ".rst", ".text", ".markdown")
_NAMES = (
    "authors", "bugs", "changelog", "changes", "contributing", "copying", "copyright", "faq", "history", "install",
    "license", "licence", "metadata", "news", "notice", "pkg-info", "readme", "thanks", "todo",
)  # fmt: skip
"""First words of file names without a telling suffix that hold text for people."""


def _accepts(path: str) -> bool:
    name = os.path.basename(without_compression(path)).lower()
    if name.endswith(_SUFFIXES):
        return True
    stem, suffix = os.path.splitext(name)
    has_no_suffix = (
        not suffix
        or suffix[1:].isdigit()
        or stem.split(".")[0].split("-")[0] in ("changelog", "news", "readme", "license")
    )
    return (
        has_no_suffix
        and name.startswith(_NAMES)
        and suffix not in (".html", ".py", ".pyc", ".so", ".js", ".css", ".png")
    )


def read(piece: FileRange, maximum_document_bytes: int) -> Iterator[Document | Fault]:
    """The file as one document; its name is the metadata."""
    path = piece.path
    content = read_whole(path, maximum_document_bytes)
    if isinstance(content, Fault):
        yield content
        return
    text = decode(content, path)
    if isinstance(text, Fault):
        yield text
        return

    def fault(reason: str, detail: str) -> Fault:
        return Fault(reason, detail, path, excerpt=excerpt_of(content))

    yield usable(text, path, {"file": os.path.basename(path)}, fault, maximum_document_bytes)


READER = Reader(_accepts, read)
