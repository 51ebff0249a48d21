"""What every kind of source shares: documents, faults, compressed files, lines of bounded length, strict UTF-8."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from data_prep.shards import FileRange

EXCERPT_CHARACTERS = 200


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
    row: int | None = None
    """Row of the file, from 0, where it has rows."""
    excerpt: str = ""

    @property
    def place(self) -> str:
        if self.line is not None:
            return f"{self.path}:{self.line}"
        return f"{self.path} row {self.row}" if self.row is not None else self.path


@dataclass(frozen=True)
class Reader:
    """How one kind of source is read.

    `accepts(path)` says whether a file that was found in a searched folder belongs to this kind. `is_splittable(path)`
    says whether a range can be read from the middle. `read(range, maximum_document_bytes)` yields documents and faults
    in the order of the file; a file that the configuration cannot have meant raises ValueError.
    """

    accepts: Callable[[str], bool]
    is_splittable: Callable[[str], bool]
    read: Callable[[FileRange, int], Iterator[Document | Fault]]


class DamagedFileError(Exception):
    """A compressed file ends early or is no such file; what came before it is good."""


def without_compression(path: str) -> str:
    """The name without `.gz` or `.zst`."""
    root, suffix = os.path.splitext(path)
    return root if suffix.lower() in (".gz", ".zst") else path


def never_splittable(path: str) -> bool:
    return False


class ByteStream:
    """Bytes of a file, unpacked by its suffix; a damaged file raises `DamagedFileError` after its good part."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._suffix = os.path.splitext(path)[1].lower()

    def __enter__(self) -> ByteStream:
        self._file: IO[bytes]
        if self._suffix == ".gz":
            self._file = cast("IO[bytes]", gzip.open(self._path, "rb"))
        elif self._suffix == ".zst":
            import zstandard

            # a window of 2 GiB, as `zstd --long=31` writes it
            self._raw = open(self._path, "rb")
            unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 31)
            self._file = cast("IO[bytes]", unpacker.stream_reader(self._raw, read_across_frames=True))
        else:
            self._file = open(self._path, "rb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._suffix == ".zst":
            self._raw.close()

    def seek(self, offset: int) -> None:
        self._file.seek(offset)

    def read(self, size: int) -> bytes:
        try:
            if self._suffix == ".zst":
                return self._read_zst(size)
            return self._file.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DamagedFileError(f"damaged gzip file: {error}") from None

    def _read_zst(self, size: int) -> bytes:
        import zstandard

        try:
            block = self._file.read(size)
        except zstandard.ZstdError as error:
            raise DamagedFileError(f"damaged zstd file: {error}") from None
        if not block and size and not _ends_with_whole_frame(self._path):
            # the library gives what there is and says nothing when a frame ends early
            raise DamagedFileError("damaged zstd file: it ends inside of a frame")
        return block


def _ends_with_whole_frame(path: str) -> bool:
    import zstandard

    unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
    empty = True
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            while block:
                if unpacker.eof:
                    unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
                empty = False
                unpacker.decompress(block)
                block = unpacker.unused_data if unpacker.eof else b""
    return empty or unpacker.eof


@dataclass(frozen=True)
class Line:
    """A line without its end; `content` is None when it is longer than allowed, `size` is its bytes in any case."""

    content: bytes | None
    size: int
    offset: int
    head: bytes


def read_lines(path: str, start: int, end: int, maximum_bytes: int) -> Iterator[Line]:
    """Lines whose first byte lies in [start, end) of the unpacked bytes; memory is bounded by `maximum_bytes`.

    Raises:
        DamagedFileError: after the last whole line, when the file is damaged.
    """
    block_bytes = 1 << 20
    with ByteStream(path) as stream:
        buffer = b""
        offset = start
        if start > 0:
            stream.seek(start - 1)
            offset = start - 1
            while True:  # the line that began before `start` belongs to the range before this one
                block = stream.read(block_bytes)
                newline = block.find(b"\n")
                if newline >= 0:
                    buffer = block[newline + 1 :]
                    offset += newline + 1
                    break
                if not block:
                    return
                offset += len(block)
        position = 0  # of the next line in `buffer`
        while offset < end:
            newline = buffer.find(b"\n", position)
            if newline >= 0:
                content = buffer[position:newline]
                size = newline - position
                yield Line(content if size <= maximum_bytes else None, size, offset, content[:EXCERPT_CHARACTERS])
                offset += size + 1
                position = newline + 1
                continue
            buffer = buffer[position:]
            position = 0
            if len(buffer) > maximum_bytes:
                head, size = buffer[:EXCERPT_CHARACTERS], len(buffer)
                while True:
                    block = stream.read(block_bytes)
                    newline = block.find(b"\n")
                    if newline >= 0 or not block:
                        break
                    size += len(block)
                size += max(newline, 0)
                yield Line(None, size, offset, head)
                buffer = block[newline + 1 :] if newline >= 0 else b""
                offset += size + 1
                if not block:
                    return
                continue
            block = stream.read(max(block_bytes, len(buffer)))  # doubling: a long line is not copied once per block
            if not block:
                if buffer:
                    yield Line(buffer, len(buffer), offset, buffer[:EXCERPT_CHARACTERS])
                return
            buffer += block


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
    return Document(text, url, metadata)
