"""Positions at which a file compressed by gzip, zstd or bzip2 can be read from the middle.

The end of a zstd frame follows from the sizes in its block headers (RFC 8878, section 3.1), so finding frames reads
almost nothing. The end of a gzip member is known only by decompressing it (RFC 1952), which is exact; searching for a
member's first bytes is not, because they may occur inside another member.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from data_prep.sources.compression import (
    ZSTD_MAGIC,
    ZSTD_SKIPPABLE,
    ByteStream,
    DamagedFileError,
    suffix_of,
)
from data_prep.sources.ranges import FileRange, at_any_byte, at_places
from data_prep.sources.storage import open_input, size_of

_BLOCK_BYTES = 1 << 16
_BZIP2_STREAM = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
_BZIP2_START_BYTES = 10


@dataclass(frozen=True)
class _Piece:
    """Frame, member or stream: its start, and its decompressed size, None if unknown without decompression."""

    start: int
    unpacked_bytes: int | None


def divide_lines(path: str, size: int, shard_bytes: int) -> list[FileRange]:
    """Divide a file of lines, or of other records that `read_lines` finds, compressed or not."""
    if suffix_of(path):
        return divide_packed(path, size, shard_bytes, of_lines=True)
    return at_any_byte(path, size, shard_bytes)


def divide_packed(path: str, size: int, shard_bytes: int, of_lines: bool) -> list[FileRange]:
    """Divide a file into ranges of about `shard_bytes` compressed bytes that start at a frame, member or stream.

    Args:
        of_lines: a range that cannot be read from the middle becomes several shards of its decompressed bytes. One
            process must decompress them in order.
    """
    pieces: list[_Piece] = []
    try:
        find = {".zst": _zstd_frames, ".gz": _gzip_members, ".bz2": _bzip2_streams}[suffix_of(path)]
        for piece in find(path):
            pieces.append(piece)
            # keep only useful ones: two that are close together never delimit a range
            if len(pieces) > 2 and pieces[-1].start - pieces[-3].start < shard_bytes // 8:
                pieces[-3:-1] = [_joined(pieces[-3], pieces[-2])]
    except DamagedFileError:
        pass  # the reader of the last range finds the damage and reports it
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
    if unpacked < parts:
        return [whole]  # damaged at its start
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


def _zstd_frames(path: str) -> Iterator[_Piece]:
    """Yield the frames of a file, from the headers only (RFC 8878, section 3.1.1).

    Raises:
        DamagedFileError: a frame is truncated or invalid; raised after the frames before it.
    """
    end = size_of(path)
    with open_input(path, buffering=64) as file:

        def number(count: int) -> int:
            taken = file.read(count)
            if len(taken) < count:
                raise DamagedFileError("damaged zstd file: it ends inside of a frame")
            return int.from_bytes(taken, "little")

        position = 0
        while position < end:
            file.seek(position)
            magic = number(4)
            unpacked: int | None = 0
            if magic in ZSTD_SKIPPABLE:
                after = position + 8 + number(4)
            elif magic == ZSTD_MAGIC:
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
    """Yield the members of a gzip file, by decompressing it.

    Raises:
        DamagedFileError: a member is truncated or invalid; raised after the members before it.
    """
    with open_input(path) as file:
        start, unpacked, position = 0, 0, 0
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        while block := file.read(_BLOCK_BYTES):
            position += len(block)
            try:
                while block:
                    if start == position - len(block):
                        block = block.lstrip(b"\0")  # padding after a member, as on tapes
                        start = position - len(block)
                    unpacked += len(unpacker.decompress(block, _BLOCK_BYTES))
                    while unpacker.unconsumed_tail and not unpacker.eof:  # at its end, the tail is the next member
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


def _bzip2_streams(path: str) -> Iterator[_Piece]:
    """Yield the streams of a bzip2 file, found by their first bytes."""
    with open_input(path) as file:
        window, start = b"", 0
        while block := file.read(16 * _BLOCK_BYTES):
            window += block
            for match in _BZIP2_STREAM.finditer(window):
                yield _Piece(start + match.start(), None)
            kept = window[-(_BZIP2_START_BYTES - 1) :]
            start, window = start + len(window) - len(kept), kept
