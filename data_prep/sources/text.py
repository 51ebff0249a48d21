"""Plain text, Markdown and reStructuredText: each file is one document; also `.gz` and `.zst`."""

from __future__ import annotations

import os

from data_prep.sources.compression import without_compression
from data_prep.sources.reading import decode, one_document_per_file

_SUFFIXES = (".txt", ".md", ".rst", ".text", ".markdown")
_NAMES = (
    "authors", "bugs", "changelog", "changes", "contributing", "copying", "copyright", "faq", "history", "install",
    "license", "licence", "metadata", "news", "notice", "pkg-info", "readme", "thanks", "todo",
)  # fmt: skip
"""Beginnings of names of text files without a known suffix."""


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


READER = one_document_per_file(_accepts, decode)
