"""Data on disk, so that memory does not grow with the corpus.

**Records**, divided into parts that fit in memory: records that must be compared (equal hashes, entries of one cluster)
are in the same part. Writes are buffered; parts are then read and sorted one at a time.

**Arrays of one number for each document**, in memory-mapped files: the system caches as much of them as it has memory
for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.kernels.kernel import kernel
from foundation.atomic_files import room_for

_COPIES = 6
"""Copies of a part in memory while it is sorted: records, columns, order, and gathered columns."""
_MOST_PARTS = 4096
DOCUMENTS_AT_A_TIME = 1 << 16
"""Number of documents that are processed together."""


def parts_for(records: int, record_bytes: int, memory_bytes: int) -> int:
    """Return the number of parts so that each can be sorted in memory."""
    return min(max(1, -(-records * record_bytes * _COPIES // memory_bytes)), _MOST_PARTS)


def part_of(keys: npt.NDArray[np.uint64], parts: int) -> npt.NDArray[np.int64]:
    """Return the part of each 64-bit hash: equal hashes are in the same part, and parts are of about equal size."""
    return (((keys >> np.uint64(32)) * np.uint64(parts)) >> np.uint64(32)).astype(np.int64)


def mapped_zeros(path: Path, dtype: type, count: int) -> npt.NDArray[Any]:
    """Map a new file of zeros.

    Raises:
        NoRoomError: the disk is full.
    """
    if count == 0:
        return np.zeros(0, dtype)
    with room_for(path), open(path, "wb") as file:
        # allocated now, while a full disk raises an error: writing to an unallocated page of a map kills the process
        os.posix_fallocate(file.fileno(), 0, count * np.dtype(dtype).itemsize)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r+"))


def mapped_numbers(path: Path, count: int) -> npt.NDArray[np.int64]:
    """Map a new file of the numbers 0, 1, 2, …; raises as `mapped_zeros`."""
    numbers = mapped_zeros(path, np.int64, count)
    _number(numbers)
    return numbers


@kernel
def _number(numbers: npt.NDArray[np.int64]) -> None:
    for k in range(numbers.shape[0]):
        numbers[k] = k


class Spill:
    """Records of one type in numbered parts, each a file in `folder`.

    Args:
        fields: names and numpy types of a record.
        memory_bytes: an eighth of it is the write buffer.
    """

    def __init__(self, folder: Path, name: str, fields: Sequence[tuple[str, str]], parts: int, memory_bytes: int):
        self.parts = parts
        self._stem = folder / name
        self._type = np.dtype(list(fields))
        self._buffer_bytes = max(memory_bytes // 8, 1 << 16)
        self._held: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.void]]] = []
        self._held_bytes = 0

    def add(self, part: npt.NDArray[np.int64], *columns: npt.NDArray[np.generic]) -> None:
        """Append records, given by their fields; record k belongs to part `part[k]`."""
        records = np.empty(len(part), dtype=self._type)
        for name, column in zip(self._type.names or (), columns, strict=True):
            records[name] = column
        self._held.append((part, records))
        self._held_bytes += records.nbytes + part.nbytes
        if self._held_bytes >= self._buffer_bytes:
            self._flush()

    def read(self) -> Iterator[npt.NDArray[np.void]]:
        """Yield the records of each non-empty part, in the order in which they were added; a part is removed once
        read."""
        for part in range(self.parts):
            records = self.read_part(part)
            if len(records):
                yield records

    def read_part(self, part: int) -> npt.NDArray[np.void]:
        """Return the records of one part, and remove its file."""
        self._flush()
        path = self._path(part)
        if not path.is_file():
            return np.empty(0, dtype=self._type)
        records = np.fromfile(path, dtype=self._type)
        path.unlink()
        return records

    def _path(self, part: int) -> Path:
        return self._stem.with_name(f"{self._stem.name}-{part:04d}")

    def _flush(self) -> None:
        if not self._held:
            return
        part = np.concatenate([part for part, _ in self._held])
        records = np.concatenate([records for _, records in self._held])
        self._held, self._held_bytes = [], 0
        if self.parts > 1:
            order = np.argsort(part, kind="stable")
            part, records = part[order], records[order]
        cuts = np.searchsorted(part, np.arange(self.parts + 1))
        for number in np.unique(part).tolist():
            path = self._path(number)
            with room_for(path), open(path, "ab") as file:
                file.write(records[cuts[number] : cuts[number + 1]].tobytes())  # tofile() does not report why it fails
