"""What lies on disk, so that memory does not grow with the corpus.

**Records**, divided into parts that fit in memory: whatever has to meet (equal hashes, entries of one group) falls into
the same part. What is written is buffered; each part is then read, sorted and left behind before the next one.

**Numbers of documents**, in files that are mapped into memory: the system keeps there what there is room for, and takes
it away again when others need the room.
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
"""Of a part in memory while it is sorted: the records, their columns, the order, what is gathered by it."""
_MOST_PARTS = 4096
DOCUMENTS_AT_A_TIME = 1 << 16
"""Of numbers that are gone through from the first document to the last."""


def parts_for(records: int, record_bytes: int, memory_bytes: int) -> int:
    """Parts of so many records of which each can be sorted within the memory."""
    return min(max(1, -(-records * record_bytes * _COPIES // memory_bytes)), _MOST_PARTS)


def part_of(keys: npt.NDArray[np.uint64], parts: int) -> npt.NDArray[np.int64]:
    """The part of each 64-bit hash: equal ones together, all alike in size."""
    return (((keys >> np.uint64(32)) * np.uint64(parts)) >> np.uint64(32)).astype(np.int64)


def mapped_zeros(path: Path, dtype: type, count: int) -> npt.NDArray[Any]:
    """So many zeros in a new file.

    Raises:
        NoRoomError: the disk is full.
    """
    if count == 0:
        return np.zeros(0, dtype)
    with room_for(path), open(path, "wb") as file:
        # taken now, where a full disk is an error: writing to a map of what is not there kills the process
        os.posix_fallocate(file.fileno(), 0, count * np.dtype(dtype).itemsize)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r+"))


def mapped_numbers(path: Path, count: int) -> npt.NDArray[np.int64]:
    """The numbers 0, 1, 2 and so on in a new file; raises as `mapped_zeros`."""
    numbers = mapped_zeros(path, np.int64, count)
    _number(numbers)
    return numbers


@kernel
def _number(numbers: npt.NDArray[np.int64]) -> None:
    for k in range(numbers.shape[0]):
        numbers[k] = k


class Spill:
    """Records of one kind in numbered parts, each a file in `folder`.

    Args:
        fields: names and numpy types of a record.
        memory_bytes: of which an eighth holds what is not written yet.
    """

    def __init__(self, folder: Path, name: str, fields: Sequence[tuple[str, str]], parts: int, memory_bytes: int):
        self.parts = parts
        self._stem = folder / name
        self._type = np.dtype(list(fields))
        self._buffer_bytes = max(memory_bytes // 8, 1 << 16)
        self._held: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.void]]] = []
        self._held_bytes = 0

    def add(self, part: npt.NDArray[np.int64], *columns: npt.NDArray[np.generic]) -> None:
        """Append records, given by their fields; `part[k]` says where record k belongs."""
        records = np.empty(len(part), dtype=self._type)
        for name, column in zip(self._type.names or (), columns, strict=True):
            records[name] = column
        self._held.append((part, records))
        self._held_bytes += records.nbytes + part.nbytes
        if self._held_bytes >= self._buffer_bytes:
            self._flush()

    def read(self) -> Iterator[npt.NDArray[np.void]]:
        """The records of each part that has any, in the order in which they were added; they are removed behind."""
        for part in range(self.parts):
            records = self.read_part(part)
            if len(records):
                yield records

    def read_part(self, part: int) -> npt.NDArray[np.void]:
        """The records of one part, which is removed."""
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
                file.write(records[cuts[number] : cuts[number + 1]].tobytes())  # tofile() does not say why it fails
