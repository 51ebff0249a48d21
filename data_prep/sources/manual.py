"""Manual pages: each page is one document, roff turned into text; also `.gz` and `.zst`."""

from __future__ import annotations

import os
import re
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
from data_prep.sources.roff import alias_target, page_to_text

_FOLDER = re.compile(r"(?:^|/)man/(?:([a-z]{2,3}(?:_[A-Z]{2})?)(?:[.@][^/]*)?/)?man[^/]*/[^/]+$")
_CODING = re.compile(rb"-\*-.*?coding:\s*([A-Za-z0-9_.-]+)", re.IGNORECASE)


def _accepts(path: str) -> bool:
    return re.search(r"\.[1-9n][a-z0-9_]*$", os.path.basename(without_compression(path)), re.IGNORECASE) is not None


def read(piece: FileRange, maximum_document_bytes: int) -> Iterator[Document | Fault]:
    """The page as one document; its folder's language, where the path has one, is metadata."""
    path = piece.path
    content = read_whole(path, maximum_document_bytes)
    if isinstance(content, Fault):
        yield content
        return
    coding = _CODING.search(content[:500])
    encoding = coding.group(1).decode() if coding else "utf-8"
    try:
        page = decode(content, path, encoding)
    except LookupError:
        page = Fault("undecodable", f"the page names an unknown encoding {encoding!r}", path, line=1)
    if isinstance(page, Fault):
        yield page
        return

    def fault(reason: str, detail: str) -> Fault:
        return Fault(reason, detail, path, excerpt=excerpt_of(page))

    target = alias_target(page)
    if target:
        yield fault("alias", f"the page only points to {target}")
        return
    folder = _FOLDER.search(os.path.abspath(path))
    metadata = {"file": os.path.basename(path), "folder_language": (folder.group(1) if folder else None) or "en"}
    yield usable(page_to_text(page), path, metadata, fault, maximum_document_bytes)


READER = Reader(_accepts, read)
