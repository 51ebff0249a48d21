"""Files compressed by gzip, zstd or bzip2: everything before a damage is read, and reading can continue after it.

A gzip file is a sequence of members, a zstd file of frames, a bzip2 file of streams, and each can be decompressed
without those before it. `pzstd`, `bgzip`, `pbzip2`, `cat a.gz b.gz`, every writer of web archives and Wikipedia's
multistream dumps produce many; `gzip`, `bzip2` and `zstd`, also with `-T0`, produce one. `packed_ranges` finds where a
file can be read from the middle.
"""

from __future__ import annotations

import bz2
import io
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from data_prep.sources.storage import open_input, size_of

_BLOCK_BYTES = 1 << 18
_GZIP_INPUT_BYTES = 1 << 16
"""Number of bytes that are decompressed at a time: small, so that the members after a short one are not copied for
each."""
_GZIP_OUTPUT_BYTES = 1 << 20
_BZIP2_OUTPUT_BYTES = 1 << 16
"""Number of bytes that a decompressor is asked for at a time: those of the last request before a damage are lost."""
ZSTD_MAGIC = 0xFD2FB528
ZSTD_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_GZIP_MAGIC = b"\x1f\x8b\x08"
BZIP2_MAGIC = b"BZh"
_ZSTD_DICTIONARY_FRAME = 0x184D2A5D
_ZSTD_DICTIONARY_MAGIC = 0xEC30A437
_ZSTD_DICTIONARY_BYTES = 1 << 23
"""Largest dictionary, compressed and decompressed, that a decoder must support, see `_zstd_dictionary`."""
_ZSTD_WINDOW_BYTES = 1 << 31
"""Largest window, as with `zstd --long=31`."""
PACKED_BY = {
    ".xz": "xz", ".lzma": "xz", ".tbz2": "bzip2", ".txz": "xz", ".lz4": "lz4", ".lz": "lzip",
    ".lzo": "lzop", ".7z": "7-Zip", ".zip": "zip", ".rar": "rar", ".br": "brotli", ".z": "compress", ".sz": "snappy",
    ".snappy": "snappy",
}  # fmt: skip
"""Programs whose files are not read, by suffix."""
READ_SUFFIXES = (".gz", ".zst", ".bz2")
"""Suffixes of compressed files that are read."""


class DamagedFileError(Exception):
    """A compressed file is truncated or damaged; the bytes before the damage are valid."""


def suffix_of(path: str) -> str:
    """Return the suffix `.gz`, `.zst` or `.bz2` of a path, or nothing."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix if suffix in READ_SUFFIXES else ""


def without_compression(path: str) -> str:
    """Return a name without the suffix of its compression."""
    return os.path.splitext(path)[0] if suffix_of(path) else path


def refuse_other_compression(path: str) -> None:
    """Refuse a file compressed by another program, by its suffix.

    Raises:
        ValueError: it has such a suffix.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix in PACKED_BY:
        raise ValueError(
            f"{path}: files compressed by {PACKED_BY[suffix]} ({suffix}) are not read; decompress it, or use gzip "
            "(.gz), zstd (.zst) or bzip2 (.bz2)"
        )


class _Range(io.RawIOBase):
    """Bytes [start, end) of a file, as a file object."""

    def __init__(self, path: str, start: int, end: int | None) -> None:
        self.name = path
        self._file = open_input(path, buffering=0)
        self._file.seek(start)
        self._start, self._position = start, start
        self._end = size_of(path) if end is None else end

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: self._start, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence]
        self._position = self._file.seek(base + offset)
        return self._position - self._start

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(memoryview(buffer)[: max(0, self._end - self._position)])
        self._position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


# ---------------------------------------------------------------------------------------------------------------------
# members, frames and streams


class _Pieces(Protocol):
    """Decompressed content of a file, member by member or frame by frame."""

    start: int
    """Byte of the range at which the current member or frame begins."""

    def next_block(self) -> tuple[bytes, bool]:
        """Return more bytes of one member or frame, and whether they are its first; none at the end of the file.

        Raises:
            DamagedFileError: after all bytes before the damage.
        """

    def enter(self, position: int) -> None:
        """Continue with the member or frame that begins at a byte of the range."""


class _Plain:
    """An uncompressed file: one piece."""

    def __init__(self, raw: io.BufferedReader[Any]) -> None:
        self._raw = raw
        self.start = 0

    def next_block(self) -> tuple[bytes, bool]:
        is_first = self._raw.tell() == 0
        return self._raw.read(_BLOCK_BYTES), is_first

    def enter(self, position: int) -> None:
        self._raw.seek(position)
        self.start = position


class _GzipMembers:
    """Members of a gzip file (RFC 1952); zero bytes between them are padding, as on tapes."""

    def __init__(self, raw: io.BufferedReader[Any]) -> None:
        self._raw = raw
        self.enter(0)

    def enter(self, position: int) -> None:
        self._raw.seek(position)
        self.start = position
        self._input = b""
        self._unpacker: Any = None
        self._damage: DamagedFileError | None = None

    def next_block(self) -> tuple[bytes, bool]:
        if self._damage is not None:
            raise self._damage
        is_first = False
        while True:
            if self._unpacker is None:
                if not self._find_member():
                    return b"", False
                self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
                is_first = True
            if not self._input:
                self._input = self._raw.read(_GZIP_INPUT_BYTES)
                if not self._input:
                    raise DamagedFileError("damaged gzip file: it ends inside of a member")
            block = self._unpack()
            if block or self._damage is not None:
                if not block and self._damage is not None:
                    raise self._damage
                return block, is_first

    def _unpack(self) -> bytes:
        unpacker, before = self._unpacker, self._unpacker.copy()
        try:
            block: bytes = unpacker.decompress(self._input, _GZIP_OUTPUT_BYTES)
            if len(block) == _GZIP_OUTPUT_BYTES and not unpacker.unconsumed_tail and not unpacker.eof:
                block += unpacker.decompress(b"")  # the rest beyond the limit
        except zlib.error as error:
            self._damage = DamagedFileError(f"damaged gzip file: {error}")
            return _before_damage(before, self._input)
        self._input = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
        if unpacker.eof:
            self._unpacker = None
        return block

    def _find_member(self) -> bool:
        """Return whether another member begins, after zeros."""
        is_behind_another = self._raw.tell() - len(self._input) > self.start or bool(self._input)
        while True:
            if is_behind_another:
                self._input = self._input.lstrip(b"\0")
            if len(self._input) < 2:
                more = self._raw.read(_GZIP_INPUT_BYTES)
                self._input += more
                if more:
                    continue
            break
        self.start = self._raw.tell() - len(self._input)
        if self._input and not self._input.startswith(_GZIP_MAGIC[:2]):
            raise DamagedFileError(f"damaged gzip file: no member begins at byte {self.start:,}")
        return bool(self._input)


def _before_damage(unpacker: Any, content: bytes) -> bytes:
    """Return what can be decompressed before an error, which zlib itself discards."""
    parts = []
    try:
        for place in range(len(content)):
            parts.append(unpacker.decompress(content[place : place + 1]))
    except zlib.error:
        pass
    return b"".join(parts)


class _Bzip2Streams:
    """Streams of a bzip2 file, as `bzip2 -dc` reads them one after another."""

    def __init__(self, raw: io.BufferedReader[Any]) -> None:
        self._raw = raw
        self.enter(0)

    def enter(self, position: int) -> None:
        self._raw.seek(position)
        self.start = position
        self._input = b""
        self._unpacker: bz2.BZ2Decompressor | None = None

    def next_block(self) -> tuple[bytes, bool]:
        is_first = False
        while True:
            if self._unpacker is None:
                if not self._find_stream():
                    return b"", False
                self._unpacker, is_first = bz2.BZ2Decompressor(), True
            if not self._input and self._unpacker.needs_input:
                self._input = self._raw.read(_BLOCK_BYTES)
                if not self._input:
                    raise DamagedFileError("damaged bzip2 file: it ends inside of a stream")
            try:
                block = self._unpacker.decompress(self._input, _BZIP2_OUTPUT_BYTES)
            except OSError as error:
                raise DamagedFileError(f"damaged bzip2 file: {str(error).lower()}") from None
            self._input = b""  # the rest is in the decompressor
            if self._unpacker.eof:
                self._input, self._unpacker = self._unpacker.unused_data, None
            if block:
                return block, is_first

    def _find_stream(self) -> bool:
        """Return whether another stream begins."""
        while len(self._input) < len(BZIP2_MAGIC) and (more := self._raw.read(_BLOCK_BYTES)):
            self._input += more
        self.start = self._raw.tell() - len(self._input)
        if self._input and not self._input.startswith(BZIP2_MAGIC):
            raise DamagedFileError(f"damaged bzip2 file: no stream begins at byte {self.start:,}")
        return bool(self._input)


class _ZstdFrames:
    """Frames of a zstd file (RFC 8878, section 3.1), decompressed block by block, so that all blocks before a damage
    are read."""

    def __init__(self, raw: io.BufferedReader[Any], path: str | None = None) -> None:
        self._raw, self._path = raw, path
        self._unpacker: Any = None
        self.enter(0)

    def enter(self, position: int) -> None:
        self._raw.seek(position)
        self.start = position
        self._frame: Any = None
        self._is_at_checksum = False

    def next_block(self) -> tuple[bytes, bool]:
        import zstandard

        if self._unpacker is None:
            dictionary = _zstd_dictionary(self._path) if self._path else None
            self._unpacker = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=_ZSTD_WINDOW_BYTES)
        is_first = False
        while True:
            try:
                if self._frame is None:
                    if not self._begin_frame():
                        return b"", False
                    is_first = True
                if block := self._next_block():
                    return block, is_first
            except zstandard.ZstdError as error:
                if "Dictionary mismatch" in str(error):
                    raise DamagedFileError(
                        "a zstd frame needs a dictionary that the file does not begin with; decompress the file "
                        "with `zstd -D DICTIONARY` first"
                    ) from None
                raise DamagedFileError(f"damaged zstd file: {error}") from None

    def _take(self, count: int) -> bytes:
        taken = self._raw.read(count)
        if len(taken) < count:
            raise DamagedFileError("damaged zstd file: it ends inside of a frame")
        return taken

    def _begin_frame(self) -> bool:
        """Return whether another frame begins, after skippable ones."""
        while True:
            self.start = self._raw.tell()
            magic = self._raw.read(4)
            if not magic:
                return False
            if int.from_bytes(magic, "little") not in ZSTD_SKIPPABLE:
                break
            size = int.from_bytes(self._take(4), "little")
            while size:
                size -= len(self._take(min(size, _BLOCK_BYTES)))
        if int.from_bytes(magic, "little") != ZSTD_MAGIC:
            raise DamagedFileError(f"damaged zstd file: no frame begins at byte {self.start:,}")
        descriptor = self._take(1)
        is_single_segment, size_flag = descriptor[0] >> 5 & 1, descriptor[0] >> 6
        size_bytes = (is_single_segment, 2, 4, 8)[size_flag]
        header = self._take((1 - is_single_segment) + (0, 1, 2, 4)[descriptor[0] & 3] + size_bytes)
        self._has_checksum = bool(descriptor[0] & 4)
        self._frame = self._unpacker.decompressobj()
        self._frame.decompress(magic + descriptor + header)
        return True

    def _next_block(self) -> bytes:
        if self._is_at_checksum:
            rest: bytes = self._frame.decompress(self._take(4))
            self._frame, self._is_at_checksum = None, False
            return rest
        header = self._take(3)
        value = int.from_bytes(header, "little")
        block: bytes = self._frame.decompress(header + self._take(1 if value >> 1 & 3 == 1 else value >> 3))
        if value & 1:
            self._is_at_checksum = self._has_checksum
            if not self._has_checksum:
                self._frame = None
        return block


def unpacked_blocks(raw: io.BufferedReader[Any], suffix: str) -> Iterator[bytes]:
    """Yield the decompressed content of an open file, by the suffix that it would have.

    Raises:
        DamagedFileError: after all bytes before the damage.
    """
    pieces: _Pieces = (_GzipMembers if suffix == ".gz" else _ZstdFrames)(raw)
    while block := pieces.next_block()[0]:
        yield block


class ByteStream:
    """Decompressed content of bytes [start, end) of a file, by its suffix.

    `start` and `end` must be the start of a frame, member or stream, see `packed_ranges`, or any byte of an
    uncompressed file. A damaged file raises DamagedFileError after everything before the damage is read, as with
    `gzip -dc` and `zstd -dc`; of bzip2, whose blocks are all or nothing, up to 64 kB before it are lost.

    Raises:
        ValueError: the file is compressed by another program.
    """

    def __init__(self, path: str, start: int = 0, end: int | None = None) -> None:
        refuse_other_compression(path)
        suffix = suffix_of(path)
        self._raw = io.BufferedReader(_Range(path, start, end), _BLOCK_BYTES)
        readers: dict[str, Callable[[Any], _Pieces]] = {".gz": _GzipMembers, ".bz2": _Bzip2Streams, "": _Plain}
        self._pieces = _ZstdFrames(self._raw, path) if suffix == ".zst" else readers[suffix](self._raw)
        magics = {".gz": _GZIP_MAGIC, ".zst": ZSTD_MAGIC.to_bytes(4, "little"), ".bz2": BZIP2_MAGIC}
        self._magic = magics.get(suffix)
        self._left = b""
        self._damage: DamagedFileError | None = None

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._raw.close()

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, fewer only before a damage or the end, none at the end."""
        parts: list[bytes] = []
        missing = size
        while missing > 0:
            if not self._left:
                try:
                    self._left, _ = self.next_block()
                except DamagedFileError:
                    if parts:
                        break
                    raise
                if not self._left:
                    break
            part, self._left = self._left[:missing], self._left[missing:]
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    @property
    def piece_start(self) -> int:
        """Byte of the range at which the current member or frame begins."""
        return self._pieces.start

    def next_block(self) -> tuple[bytes, bool]:
        """Return more bytes of one member or frame, and whether they are its first; for callers that do not call
        `read`."""
        if self._damage is not None:
            raise self._damage
        try:
            return self._pieces.next_block()
        except DamagedFileError as error:
            self._damage = error
            raise

    def resume(self, first: bytes) -> bool:
        """After a damage, continue at the next member or frame whose decompressed content begins with `first`.

        Returns:
            Whether there is one; skipped bytes are read again, those before them are not.
        """
        if self._magic is None:
            return False
        position = self._pieces.start + 1
        window = b""
        self._raw.seek(position)
        while True:
            more = self._raw.read(_BLOCK_BYTES)
            window += more
            place = -1
            while (place := window.find(self._magic, place + 1)) >= 0:
                if self._begins_with(position + place, first):
                    self._pieces.enter(position + place)
                    self._damage, self._left = None, b""
                    return True
            if not more:
                return False
            kept = len(self._magic) - 1
            position += len(window) - kept if len(window) > kept else 0
            window = window[-kept:]
            self._raw.seek(position + len(window))

    def _begins_with(self, position: int, first: bytes) -> bool:
        self._pieces.enter(position)
        try:
            block, _ = self._pieces.next_block()
        except DamagedFileError:
            return False
        return block.startswith(first)


def _zstd_dictionary(path: str) -> Any:
    """Read the dictionary of all frames of a file from its first frame; None: there is none.

    Source: IIPC, Zstandard Compression for WARC Files 1.0, "Dictionary frame format" and "Window and dictionary
    limits".

    Raises:
        DamagedFileError: the first frame should be a dictionary and is not, or is too large.
    """
    import zstandard

    with open_input(path) as file:
        head = file.read(8)
        if len(head) < 8 or int.from_bytes(head[:4], "little") != _ZSTD_DICTIONARY_FRAME:
            return None
        size = int.from_bytes(head[4:], "little")
        content = file.read(min(size, _ZSTD_DICTIONARY_BYTES))
    if int.from_bytes(content[:4], "little") == ZSTD_MAGIC and len(content) == size:
        try:
            size = zstandard.get_frame_parameters(content).content_size
            if size <= _ZSTD_DICTIONARY_BYTES:
                content = zstandard.ZstdDecompressor().decompress(content)
        except zstandard.ZstdError as error:
            raise DamagedFileError(f"damaged zstd file: its dictionary cannot be decompressed: {error}") from None
    if size > _ZSTD_DICTIONARY_BYTES:
        raise DamagedFileError(f"its zstd dictionary has {size:,} bytes; at most {_ZSTD_DICTIONARY_BYTES:,} are read")
    if int.from_bytes(content[:4], "little") != _ZSTD_DICTIONARY_MAGIC or len(content) < size:
        raise DamagedFileError("damaged zstd file: its first frame should be a dictionary, and is not")
    return zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_FULLDICT)
