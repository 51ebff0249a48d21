"""Shared parts of all kinds of sources: documents, faults, reading of whole files, strict decoding."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_prep.sources.compression import ByteStream, DamagedFileError
from data_prep.sources.ranges import FileRange, undivided

EXCERPT_CHARACTERS = 200
NO_LOSS = "no_loss"
"""Key in the metadata of half-open ranges of characters that are excluded from the loss, such as a question before its
answer. `[[0, 120]]`"""


@dataclass(frozen=True)
class Document:
    """A text and its origin."""

    text: str
    url: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """A document, or the rest of a file, that cannot be used; it is counted and set aside."""

    reason: str
    """Name under which it is counted: `invalid_json`, `invalid_utf8`, `empty`, `too_large`, `damaged_file`, …"""
    detail: str
    path: str
    line: int | None = None
    """Line of the file, from 1, if it has lines."""
    from_byte: int = 0
    """Byte of the file on disk from which lines are counted."""
    row: int | None = None
    """Row of the file, from 0, if it has rows."""
    excerpt: str = ""


class SetAsideError(ValueError):
    """A record cannot be used; it is counted and set aside.

    Attributes:
        reason: name under which it is counted, as of a `Fault`.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Reader:
    """Reader of a kind of source.

    `accepts(path)` returns whether a file in a searched folder is of this kind. `read(range, maximum_document_bytes)`
    yields documents and faults in the order of the file; a file that is obviously of another kind raises ValueError. If
    a file has parts that are not meant to be documents, such as pictures in a web archive, it is a generator that
    returns their number by type; a number by `changed:…` is of documents that a rule has changed. `divide(path, size,
    shard_bytes)` divides a file that is larger than a shard into ranges of about that size, if the file allows it.
    """

    accepts: Callable[[str], bool]
    read: Callable[[FileRange, int], Iterator[Document | Fault]]
    divide: Callable[[str, int, int], list[FileRange]] = undivided


def one_document_per_file(accepts: Callable[[str], bool], text_of: Callable[[bytes, str], str | Fault]) -> Reader:
    """Make the reader of a kind whose files are one document each, with the file's name as metadata.

    Args:
        accepts: see `Reader`.
        text_of: called with a file's decompressed content and its path; returns the text, or why there is none.
    """

    def read(piece: FileRange, maximum_document_bytes: int) -> Iterator[Document | Fault]:
        path = piece.path
        content = read_whole(path, maximum_document_bytes)
        text = content if isinstance(content, Fault) else text_of(content, path)
        if isinstance(text, Fault):
            yield text
            return

        def fault(reason: str, detail: str) -> Fault:
            assert isinstance(content, bytes)
            return Fault(reason, detail, path, excerpt=excerpt_of(content))

        yield usable(text, path, {"file": os.path.basename(path)}, fault, maximum_document_bytes)

    return Reader(accepts, read)


def read_whole(path: str, maximum_bytes: int) -> bytes | Fault:
    """Read and decompress a file; a fault if it has more than `maximum_bytes` bytes or is damaged."""
    try:
        with ByteStream(path) as stream:
            content = bytearray()
            while block := stream.read(min(1 << 20, maximum_bytes + 1 - len(content))):
                content += block
                if len(content) > maximum_bytes:
                    return Fault("too_large", f"more than maximum_document_bytes = {maximum_bytes:,} bytes", path)
            return bytes(content)
    except DamagedFileError as error:
        return Fault("damaged_file", str(error), path)


def decode(content: bytes, path: str, encoding: str = "utf-8") -> str | Fault:
    """Decode strictly; other encodings are not guessed, and bytes with a NUL are not text."""
    if b"\0" in content:
        return Fault("binary", f"a NUL byte at offset {content.index(0)}", path)
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        reason = "invalid_utf8" if error.encoding.lower().replace("_", "-") == "utf-8" else "undecodable"
        line = content.count(b"\n", 0, error.start) + 1
        detail = f"byte {content[error.start]:#04x} at offset {error.start} is not {error.encoding} ({error.reason})"
        return Fault(reason, detail, path, line=line, excerpt=excerpt_of(content[max(0, error.start - 60) :]))


def excerpt_of(content: bytes | str) -> str:
    """Return the start of a text, for people; bytes that are not UTF-8 are shown as \\x…"""
    if isinstance(content, bytes):
        content = content[: 4 * EXCERPT_CHARACTERS].decode("utf-8", "backslashreplace")
    return content[:EXCERPT_CHARACTERS].encode("utf-8", "backslashreplace").decode()


def usable(
    text: str, url: str, metadata: Mapping[str, Any], fault: Callable[[str, str], Fault], maximum_bytes: int
) -> Document | Fault:
    """Do the final checks of all kinds: not empty, not too large, valid Unicode."""
    try:
        size = len(text) if text.isascii() else len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        return fault("invalid_unicode", f"a lone surrogate U+{ord(text[error.start]):04X} at character {error.start}")
    if size > maximum_bytes:
        return fault("too_large", f"{size:,} bytes of text, maximum_document_bytes is {maximum_bytes:,}")
    if not text.strip():
        return fault("empty", "no text, or white space only")
    if NO_LOSS in metadata and (detail := _wrong_ranges(metadata[NO_LOSS], len(text))):
        return fault("invalid_no_loss", detail)
    return Document(text, url, metadata)


def characters_to_bytes(text: str, ranges: Iterable[Sequence[int]]) -> list[tuple[int, int]]:
    """Return ranges of characters as ranges of bytes of the UTF-8 text; they are in order and do not overlap."""
    if text.isascii():
        return [(start, stop) for start, stop in ranges]
    done = byte = 0
    found = []
    for start, stop in ranges:
        first = byte + len(text[done:start].encode())
        done, byte = stop, first + len(text[start:stop].encode())
        found.append((first, byte))
    return found


def _wrong_ranges(value: Any, characters: int) -> str | None:
    """Describe what is wrong with ranges of characters; None: nothing."""
    if value is None:
        return None
    is_list = isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(type(end) is int for end in pair) for pair in value
    )
    if not is_list:
        return f"`{NO_LOSS}` must be a list of [start, stop], it is {str(value)[:60]}"
    done = 0
    for start, stop in value:
        if not done <= start < stop <= characters:
            return (
                f"`{NO_LOSS}` [{start}, {stop}) must be half-open in characters, in order, without overlaps, and "
                f"inside of [{done}, {characters})"
            )
        done = stop
    return None
