"""Python sources: each `.py` file is one document of code."""

from __future__ import annotations

import io
import os
import tokenize
from collections.abc import Iterator

from data_prep.sources.ranges import FileRange
from data_prep.sources.reading import Document, Fault, Reader, decode, excerpt_of, read_whole, usable


def accepts(path: str) -> bool:
    return path.endswith((".py", ".pyi"))


def source_text(path: str, maximum_document_bytes: int) -> str | Fault:
    """Read a module, decoded as Python does (PEP 263)."""
    content = read_whole(path, maximum_document_bytes)
    if isinstance(content, Fault):
        return content
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    except SyntaxError as error:
        fault = decode(content, path)  # names the byte, unless the declaration is at fault
        return (
            fault
            if isinstance(fault, Fault)
            else Fault("undecodable", str(error), path, line=1, excerpt=excerpt_of(content))
        )
    text = decode(content, path, "utf-8" if encoding == "utf-8-sig" else encoding)
    return text if isinstance(text, Fault) else text.replace("\r\n", "\n")


def read(piece: FileRange, maximum_document_bytes: int) -> Iterator[Document | Fault]:
    """Yield the module as one document."""
    text = source_text(piece.path, maximum_document_bytes)
    if isinstance(text, Fault):
        yield text
        return

    def fault(reason: str, detail: str) -> Fault:
        return Fault(reason, detail, piece.path)

    yield usable(text, piece.path, {"file": os.path.basename(piece.path)}, fault, maximum_document_bytes)


READER = Reader(accepts, read)
