"""Ranges of raw files: positions at which a file larger than a shard can be divided."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class FileRange:
    """Bytes [start, end) of a frozen file of `size` bytes, as on disk.

    A line belongs to the range that contains the line feed before it, and a file's first line to its first range: so a
    range can be read without decompressing the bytes before it. A Parquet row group, or a record of a web archive,
    belongs to the range that contains its first byte.

    A range that is compressed in one piece cannot be read from the middle but can still be many shards: then
    [unpacked_start, unpacked_end) are decompressed bytes, and a line belongs to the part that contains its first byte.
    `unpacked_end` None means to the end.
    """

    path: str
    start: int
    end: int
    size: int
    unpacked_start: int = 0
    unpacked_end: int | None = None

    @property
    def is_part_of_packed(self) -> bool:
        return self.unpacked_start > 0 or self.unpacked_end is not None


def undivided(path: str, size: int, shard_bytes: int) -> list[FileRange]:
    """Return the file as one range, for kinds that cannot be read from the middle."""
    return [FileRange(path, 0, size, size)]


def at_any_byte(path: str, size: int, shard_bytes: int) -> list[FileRange]:
    """Divide a file into ranges of equal size, for kinds whose records can be found from any byte."""
    return at_places(path, size, shard_bytes, goals(size, shard_bytes))


def at_places(path: str, size: int, shard_bytes: int, places: Iterable[int]) -> list[FileRange]:
    """Divide a file at some of `places`, given in ascending order: at the first one at or after each goal."""
    starts = [0]
    wanted = iter(goals(size, shard_bytes))
    goal = next(wanted, size)
    for place in places:
        if goal <= place < size and place > starts[-1]:
            starts.append(place)
            while goal <= place:
                goal = next(wanted, size)
    return [FileRange(path, start, end, size) for start, end in zip(starts, [*starts[1:], size], strict=True)]


def goals(size: int, shard_bytes: int) -> list[int]:
    """Return where a file would be divided if that were possible at any byte."""
    pieces = -(-size // shard_bytes)
    return [size * piece // pieces for piece in range(1, pieces)]
