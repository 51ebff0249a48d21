"""What every kind of source shares: documents, faults, whole files, strict UTF-8."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from data_prep.sources.compression import ByteStream, DamagedFileError
from data_prep.sources.ranges import FileRange, undivided

EXCERPT_CHARACTERS = 200
NO_LOSS = "no_loss"
"""Key of the metadata: half-open ranges of characters that the model reads but does not learn, such as a question to
which the rest is the answer. `[[0, 120]]`"""


@dataclass(frozen=True)
class Document:
    """One text and where it came from."""

    text: str
    url: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """A document, or the rest of a file, that cannot be used; it is counted and kept aside."""

    reason: str
    """A word that is counted by: `invalid_json`, `invalid_utf8`, `empty`, `too_large`, `damaged_file`, …"""
    detail: str
    path: str
    line: int | None = None
    """Line of the file, from 1, where the kind of file has lines."""
    from_byte: int = 0
    """Where in the file, as it lies on the disk, the counting of lines begins."""
    row: int | None = None
    """Row of the file, from 0, where it has rows."""
    excerpt: str = ""


@dataclass(frozen=True)
class Reader:
    """How one kind of source is read.

    `accepts(path)` says whether a file that was found in a searched folder belongs to this kind.
    `read(range, maximum_document_bytes)` yields documents and faults in the order of the file; a file that the
    configuration cannot have meant raises ValueError. Where a file has parts that are no documents and not meant to be,
    such as the pictures in a web archive, it is a generator that returns their number by what they are.
    `divide(path, size, shard_bytes)` gives the ranges of a file that is larger than a shard, each about as large as one
    where the file allows it.
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
    """All bytes of a file, unpacked, unless there are more than `maximum_bytes` or it is damaged."""
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
    """Strict decoding; a text of another encoding is never guessed at, and bytes with a NUL are no text."""
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
    """The start of a text, for people; bytes that are no UTF-8 are shown as \\x…"""
    if isinstance(content, bytes):
        content = content[: 4 * EXCERPT_CHARACTERS].decode("utf-8", "backslashreplace")
    return content[:EXCERPT_CHARACTERS].encode("utf-8", "backslashreplace").decode()


def usable(
    text: str, url: str, metadata: Mapping[str, Any], fault: Callable[[str, str], Fault], maximum_bytes: int
) -> Document | Fault:
    """The last checks, the same for every kind: not empty, not too large, valid Unicode."""
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


def _wrong_ranges(value: Any, characters: int) -> str | None:
    """What is wrong with ranges of characters; None when nothing is."""
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
