"""Files packed by gzip or zstd: reading them, from the middle too, and finding where the middle can be entered.

A gzip file is a row of members, a zstd file a row of frames, and each can be unpacked without those before it. `pzstd`,
`bgzip`, `cat a.gz b.gz` and every writer of web archives make many; `gzip` and `zstd`, also with `-T0`, make one. Where
a frame ends is told by the sizes in front of its blocks (RFC 8878, section 3.1), so finding frames reads almost
nothing; where a member ends only unpacking tells (RFC 1952). That is exact, where looking for a member's first bytes is
not: they may as well stand inside of another member.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, Any, cast

from data_prep.sources.ranges import FileRange, at_places

_BLOCK_BYTES = 1 << 18
_ZSTD_MAGIC = 0xFD2FB528
_ZSTD_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_ZSTD_DICTIONARY_FRAME = 0x184D2A5D
_ZSTD_DICTIONARY_MAGIC = 0xEC30A437
_ZSTD_DICTIONARY_BYTES = 1 << 23
"""Of a dictionary at the most, packed and unpacked: what a decoder must support, see `_zstd_dictionary`."""
_ZSTD_WINDOW_BYTES = 1 << 31
"""As `zstd --long=31` writes it."""


class DamagedFileError(Exception):
    """A compressed file ends early or is no such file; what came before it is good."""


def suffix_of(path: str) -> str:
    """`.gz`, `.zst`, or nothing."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix if suffix in (".gz", ".zst") else ""


def without_compression(path: str) -> str:
    """The name without `.gz` or `.zst`."""
    return os.path.splitext(path)[0] if suffix_of(path) else path


# ---------------------------------------------------------------------------------------------------------------------
# reading


class _Range(io.RawIOBase):
    """Bytes [start, end) of a file, as a file of their own."""

    def __init__(self, path: str, start: int, end: int | None) -> None:
        self.name = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self._file.seek(start)
        self._left = (os.path.getsize(path) if end is None else end) - start

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(memoryview(buffer)[: max(0, self._left)])
        self._left -= count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class ByteStream:
    """What bytes [start, end) of a file unpack to, by its suffix.

    `start` and `end` must be where a frame or member starts, see `divide_packed`; for a file that is not packed, any
    byte. A damaged file raises DamagedFileError after its good part.
    """

    def __init__(self, path: str, start: int = 0, end: int | None = None) -> None:
        self._path, self._start, self._end = path, start, end
        self._suffix = suffix_of(path)
        raw = io.BufferedReader(_Range(path, start, end), _BLOCK_BYTES)
        self._raw = raw
        self._file: IO[bytes] = cast("IO[bytes]", raw)
        if self._suffix == ".gz":
            self._file = cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb"))
        self._is_begun = False

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._raw.close()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, none at the end."""
        try:
            if self._suffix == ".zst":
                return self._read_zst(size)
            return self._file.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DamagedFileError(f"damaged gzip file: {error}") from None

    def _read_zst(self, size: int) -> bytes:
        import zstandard

        if not self._is_begun:
            dictionary = _zstd_dictionary(self._path)
            unpacker = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=_ZSTD_WINDOW_BYTES)
            self._file = cast("IO[bytes]", unpacker.stream_reader(self._raw, read_across_frames=True))
            self._is_begun = True
        try:
            block = self._file.read(size)
        except zstandard.ZstdError as error:
            if "Dictionary mismatch" in str(error):
                raise DamagedFileError(
                    "a zstd frame was packed with a dictionary that the file does not begin with; unpack the file with "
                    "`zstd -D DICTIONARY` first"
                ) from None
            raise DamagedFileError(f"damaged zstd file: {error}") from None
        if not block and size:
            # the library gives what there is and says nothing when a frame ends early
            for _ in _zstd_frames(self._path, self._start, self._end):
                pass
        return block


def _zstd_dictionary(path: str) -> Any:
    """The dictionary of all frames of a file, which stands in its first frame; None when there is none.

    Source: IIPC, Zstandard Compression for WARC Files 1.0, "Dictionary frame format" and "Window and dictionary
    limits".

    Raises:
        DamagedFileError: the first frame should be a dictionary and is none, or too large a one.
    """
    import zstandard

    with open(path, "rb") as file:
        head = file.read(8)
        if len(head) < 8 or int.from_bytes(head[:4], "little") != _ZSTD_DICTIONARY_FRAME:
            return None
        size = int.from_bytes(head[4:], "little")
        content = file.read(min(size, _ZSTD_DICTIONARY_BYTES))
    if int.from_bytes(content[:4], "little") == _ZSTD_MAGIC and len(content) == size:
        try:
            size = zstandard.get_frame_parameters(content).content_size
            if size <= _ZSTD_DICTIONARY_BYTES:
                content = zstandard.ZstdDecompressor().decompress(content)
        except zstandard.ZstdError as error:
            raise DamagedFileError(f"damaged zstd file: its dictionary cannot be unpacked: {error}") from None
    if size > _ZSTD_DICTIONARY_BYTES:
        raise DamagedFileError(f"its zstd dictionary has {size:,} bytes; at most {_ZSTD_DICTIONARY_BYTES:,} are read")
    if int.from_bytes(content[:4], "little") != _ZSTD_DICTIONARY_MAGIC or len(content) < size:
        raise DamagedFileError("damaged zstd file: its first frame should hold a dictionary, and does not")
    return zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_FULLDICT)


# ---------------------------------------------------------------------------------------------------------------------
# dividing


@dataclass(frozen=True)
class _Piece:
    """A frame or member: where it starts, and what it unpacks to, None where only unpacking would tell."""

    start: int
    unpacked_bytes: int | None


def divide_packed(path: str, size: int, shard_bytes: int, of_lines: bool) -> list[FileRange]:
    """Ranges of about `shard_bytes` packed bytes that start where a frame or member does.

    Args:
        of_lines: a range that cannot be entered becomes several shards of what it unpacks to. One process has to unpack
            them in their order.
    """
    pieces: list[_Piece] = []
    try:
        for piece in _zstd_frames(path) if suffix_of(path) == ".zst" else _gzip_members(path):
            pieces.append(piece)
            # keep those that can matter: the bytes between two that lie close together are never a range of their own
            if len(pieces) > 2 and pieces[-1].start - pieces[-3].start < shard_bytes // 8:
                pieces[-3:-1] = [_joined(pieces[-3], pieces[-2])]
    except DamagedFileError:
        pass  # whoever reads the last range meets the damage and reports it
    ranges = at_places(path, size, shard_bytes, (piece.start for piece in pieces))
    if not of_lines:
        return ranges
    return [part for whole in ranges for part in _divide_unpacked(whole, pieces, shard_bytes)]


def _joined(first: _Piece, second: _Piece) -> _Piece:
    known = first.unpacked_bytes is not None and second.unpacked_bytes is not None
    return _Piece(first.start, first.unpacked_bytes + second.unpacked_bytes if known else None)  # type: ignore[operator]


def _divide_unpacked(whole: FileRange, pieces: list[_Piece], shard_bytes: int) -> list[FileRange]:
    parts = (whole.end - whole.start) // shard_bytes
    if parts < 2:
        return [whole]
    sizes = [piece.unpacked_bytes for piece in pieces if whole.start <= piece.start < whole.end]
    unpacked = sum(size for size in sizes if size is not None) if sizes and None not in sizes else _unpacked(whole)
    cuts = [unpacked * part // parts for part in range(parts)]
    ends: list[int | None] = [*cuts[1:], None]
    return [replace(whole, unpacked_start=start, unpacked_end=end) for start, end in zip(cuts, ends, strict=True)]


def _unpacked(whole: FileRange) -> int:
    total = 0
    with ByteStream(whole.path, whole.start, whole.end) as stream:
        try:
            while block := stream.read(1 << 20):
                total += len(block)
        except DamagedFileError:
            pass
    return total


def _zstd_frames(path: str, start: int = 0, end: int | None = None) -> Iterator[_Piece]:
    """Frames of bytes [start, end), from the headers alone (RFC 8878, section 3.1.1).

    Raises:
        DamagedFileError: a frame ends early or does not begin as one, after those before it.
    """
    end = min(os.path.getsize(path), end or sys.maxsize)
    with open(path, "rb", buffering=64) as file:

        def number(count: int) -> int:
            taken = file.read(count)
            if len(taken) < count:
                raise DamagedFileError("damaged zstd file: it ends inside of a frame")
            return int.from_bytes(taken, "little")

        position = start
        while position < end:
            file.seek(position)
            magic = number(4)
            unpacked: int | None = 0
            if magic in _ZSTD_SKIPPABLE:
                after = position + 8 + number(4)
            elif magic == _ZSTD_MAGIC:
                descriptor = number(1)
                is_single_segment = bool(descriptor & 0x20)
                number((0 if is_single_segment else 1) + (0, 1, 2, 4)[descriptor & 3])  # window, dictionary
                size_flag = descriptor >> 6
                size_bytes = (1 if is_single_segment else 0, 2, 4, 8)[size_flag]
                unpacked = number(size_bytes) + (256 if size_flag == 1 else 0) if size_bytes else None
                is_last = False
                after = file.tell()
                while not is_last:
                    file.seek(after)
                    header = number(3)
                    is_last = bool(header & 1)
                    after += 3 + (1 if header >> 1 & 3 == 1 else header >> 3)
                after += 4 if descriptor & 4 else 0
            else:
                raise DamagedFileError(f"damaged zstd file: no frame begins at byte {position:,}")
            if after > end:
                raise DamagedFileError("damaged zstd file: it ends inside of a frame")
            yield _Piece(position, unpacked)
            position = after


def _gzip_members(path: str) -> Iterator[_Piece]:
    """Members of a gzip file, by unpacking it.

    Raises:
        DamagedFileError: a member ends early or is none, after those before it.
    """
    with open(path, "rb") as file:
        start, unpacked, position = 0, 0, 0
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        while block := file.read(_BLOCK_BYTES):
            position += len(block)
            try:
                while block:
                    if start == position - len(block):
                        block = block.lstrip(b"\0")  # padding after a member, as tapes have it
                        start = position - len(block)
                    unpacked += len(unpacker.decompress(block, _BLOCK_BYTES))
                    while unpacker.unconsumed_tail:
                        unpacked += len(unpacker.decompress(unpacker.unconsumed_tail, _BLOCK_BYTES))
                    block = unpacker.unused_data if unpacker.eof else b""
                    if unpacker.eof:
                        yield _Piece(start, unpacked)
                        start, unpacked = position - len(block), 0
                        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
            except zlib.error as error:
                raise DamagedFileError(f"damaged gzip file: {error}") from None
    if start < position:
        raise DamagedFileError("damaged gzip file: it ends inside of a member")
