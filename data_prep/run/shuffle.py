"""Shuffle: records that many units write are read in the order of their keys by others.

A unit *spreads* records: it writes a run, a file of records sorted by their keys that ends with an index of where each
range of keys begins. Another unit *collects* one range: it merges this range of all runs. Both need `memory_bytes` and
a few open files, whatever the number of records, runs and equal keys. The caller fixes the ranges, so the bytes of a
run depend on the records alone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from foundation.atomic_files import NewFile, room_for, whole_file

Records = npt.NDArray[np.void]

_COPIES = 6
"""Copies of records in memory while they are sorted: added, joined and sorted ones, order and columns, and those of the
caller."""
_LEAST_BLOCK = 32
"""Least number of records that are read of a run at a time."""
_INDEX = np.dtype("<i8")
_MOST_RANGES = 4096


@dataclass(frozen=True)
class RecordType:
    """Type of records.

    Args:
        fields: names and numpy types.
        key_fields: number of leading fields that are the key, the most significant first.
    """

    fields: tuple[tuple[str, str], ...]
    key_fields: int = 1

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        return np.dtype(list(self.fields))

    @cached_property
    def key_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.fields[: self.key_fields])

    def of(self, *columns: npt.NDArray[np.generic]) -> Records:
        """Return records of these fields."""
        records = np.empty(len(columns[0]), dtype=self.dtype)
        for (name, _), column in zip(self.fields, columns, strict=True):
            records[name] = column
        return records

    def sorted(self, records: Records) -> Records:
        """Return records in the order of their keys; equal keys stay in the order in which they are."""
        first = records[self.key_names[0]]
        order = np.argsort(first, kind="stable")
        if self.key_fields > 1:
            values = first[order]
            is_equal = values[1:] == values[:-1]
            tied = np.flatnonzero(np.append(False, is_equal) | np.append(is_equal, False)[: len(order)])
            rows = order[tied]
            order[tied] = rows[np.lexsort([records[name][rows] for name in reversed(self.key_names)])]
        return records[order]

    def key(self, record: np.void) -> tuple[int, ...]:
        return tuple(int(record[name]) for name in self.key_names)

    def count_before(self, records: Records, key: tuple[int, ...], side: Literal["left", "right"]) -> int:
        """Return how many of sorted records have a smaller key (`left`), or a smaller or equal one (`right`)."""
        start, stop = 0, len(records)
        for name, value in zip(self.key_names, key, strict=True):
            column = records[name][start:stop]
            start, stop = (start + int(n) for n in _equal_range(column, value))
        return start if side == "left" else stop


def _equal_range(column: npt.NDArray[Any], value: int) -> tuple[np.intp, np.intp]:
    wanted = column.dtype.type(value)
    return np.searchsorted(column, wanted, "left"), np.searchsorted(column, wanted, "right")


def ranges_for(records: int, kind: RecordType, memory_bytes: int) -> int:
    """Return the number of ranges so that most are sorted in memory at once, and many workers have one each."""
    by_memory = -(-records * kind.dtype.itemsize * _COPIES // memory_bytes)
    return int(min(max(1, by_memory, min(256, records >> 20)), _MOST_RANGES))


def hash_bounds(ranges: int, limit: int = 1 << 64) -> npt.NDArray[np.uint64]:
    """Return the bounds that divide hashes below `limit` into equal ranges, see `new_run`."""
    return np.array([-(-limit * number // ranges) for number in range(1, ranges)], dtype=np.uint64)


class Run:
    """Records that will be a run; made by `new_run`."""

    def __init__(self, kind: RecordType, bounds: npt.NDArray[Any], memory_bytes: int, spilled: IO[bytes]) -> None:
        self._kind, self._bounds, self._memory_bytes, self._spilled = kind, bounds, memory_bytes, spilled
        self._held: list[Records] = []
        self._held_records = 0
        self._most_held = max(memory_bytes // (kind.dtype.itemsize * _COPIES), _LEAST_BLOCK)
        self._slices: list[_Slice] = []

    def add(self, *columns: npt.NDArray[np.generic]) -> None:
        """Add records, given by their fields."""
        for start in range(0, len(columns[0]), self._most_held):
            records = self._kind.of(*(column[start : start + self._most_held] for column in columns))
            self._held.append(records)
            self._held_records += len(records)
            if self._held_records >= self._most_held:
                self._spill()

    def _spill(self) -> None:
        self._slices.append(_append(self._spilled, [self._take_held()], self._kind))

    def _take_held(self) -> Records:
        records = joined(self._held, self._kind)
        self._held, self._held_records = [], 0
        return self._kind.sorted(records)

    def write(self, path: Path) -> None:
        """Write the run and its index."""
        if self._slices:
            self._spill()
        blocks = _merge(self._slices, self._kind, self._memory_bytes, path.parent) if self._slices else self._rest()
        index = np.zeros(len(self._bounds) + 2, dtype=_INDEX)
        with open(path, "wb") as file:
            for block in blocks:
                file.write(block.tobytes())
                index[1:-1] += np.searchsorted(block[self._kind.key_names[0]], self._bounds, "left")
                index[-1] += len(block)
            file.write(index.tobytes())

    def _rest(self) -> Iterator[Records]:
        yield self._take_held()


@contextmanager
def new_run(
    path: Path, kind: RecordType, bounds: npt.NDArray[Any], memory_bytes: int, new_file: NewFile = whole_file
) -> Iterator[Run]:
    """Yield a run to which records are added; it is written when the block ends without an error.

    Args:
        bounds: range k is of the records whose first field is at least bounds[k - 1] and less than bounds[k].

    Raises:
        NoRoomError: the disk is full.
    """
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as spilled:  # nameless: a kill leaves nothing
            run = Run(kind, bounds, memory_bytes, spilled)
            yield run
            with new_file(path) as partial_file:
                run.write(partial_file)


def collect(paths: Sequence[Path], kind: RecordType, ranges: int, number: int, memory_bytes: int) -> Iterator[Records]:
    """Yield the records of range `number` of all runs in the order of their keys, in blocks.

    Equal keys are in the order of `paths`, and in one run in the order in which they were added.

    Raises:
        ValueError: a file is no such run.
    """
    slices = [_range_of(path, kind, ranges, number) for path in paths]
    yield from _merge(slices, kind, memory_bytes, paths[0].parent if paths else Path())


def joined(blocks: Iterable[Records], kind: RecordType) -> Records:
    """Return all records of some blocks."""
    return np.concatenate([np.empty(0, dtype=kind.dtype), *blocks])


@dataclass(frozen=True)
class _Slice:
    """Consecutive records of a file."""

    file: Path | int
    """Path or open descriptor."""
    start: int
    """Number of the first record in the file."""
    count: int

    def read(self, kind: RecordType, first: int, count: int) -> Records:
        """Return records [first, first + count) of the slice."""
        size = kind.dtype.itemsize
        if isinstance(self.file, Path):
            with open(self.file, "rb", buffering=0) as file:
                data = _read_at(file.fileno(), (self.start + first) * size, count * size)
        else:
            data = _read_at(self.file, (self.start + first) * size, count * size)
        return np.frombuffer(data, dtype=kind.dtype)


def _read_at(descriptor: int, place: int, size: int) -> bytearray:
    data = bytearray(size)
    view, read = memoryview(data), 0
    while read < size:  # a system call reads 2 GiB at most
        now = os.preadv(descriptor, [view[read:]], place + read)
        if now == 0:
            raise OSError(f"a file ends {size - read} bytes too early")
        read += now
    return data


def _range_of(path: Path, kind: RecordType, ranges: int, number: int) -> _Slice:
    index_bytes = (ranges + 1) * _INDEX.itemsize
    with open(path, "rb", buffering=0) as file:
        records_bytes = os.fstat(file.fileno()).st_size - index_bytes
        if records_bytes >= 0:
            place = records_bytes + number * _INDEX.itemsize
            start, stop = np.frombuffer(_read_at(file.fileno(), place, 2 * _INDEX.itemsize), _INDEX).tolist()
            last = _read_at(file.fileno(), records_bytes + ranges * _INDEX.itemsize, _INDEX.itemsize)
            total = int(np.frombuffer(last, _INDEX)[0])
            if 0 <= start <= stop <= total and total * kind.dtype.itemsize == records_bytes:
                return _Slice(path, start, stop - start)
    raise ValueError(f"{path}: no run of records of {kind.dtype.itemsize} bytes in {ranges} ranges")


def _append(file: IO[bytes], blocks: Iterable[Records], kind: RecordType) -> _Slice:
    """Append sorted blocks to a temporary file."""
    start = file.seek(0, os.SEEK_END) // kind.dtype.itemsize
    count = 0
    for block in blocks:
        file.write(block.tobytes())
        count += len(block)
    file.flush()
    return _Slice(file.fileno(), start, count)


def _merge(slices: Sequence[_Slice], kind: RecordType, memory_bytes: int, folder: Path) -> Iterator[Records]:
    """Yield the records of sorted slices in the order of their keys; equal keys in the order of the slices."""
    slices = [piece for piece in slices if piece.count]
    room = max(memory_bytes // (kind.dtype.itemsize * _COPIES), 2 * _LEAST_BLOCK)
    if sum(piece.count for piece in slices) <= room:
        if slices:
            yield kind.sorted(np.concatenate([piece.read(kind, 0, piece.count) for piece in slices]))
        return
    most = room // _LEAST_BLOCK
    with ExitStack() as stack:
        while len(slices) > most:
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            slices = [
                _append(file, _merge_few(slices[first : first + most], kind, room), kind)
                for first in range(0, len(slices), most)
            ]
        yield from _merge_few(slices, kind, room)


def _merge_few(slices: Sequence[_Slice], kind: RecordType, room: int) -> Iterator[Records]:
    """Merge slices of which a block each fits into `room`."""
    block = room // len(slices)
    read = [0] * len(slices)
    held = [np.empty(0, dtype=kind.dtype)] * len(slices)
    while True:
        for k, piece in enumerate(slices):
            if not len(held[k]) and read[k] < piece.count:
                held[k] = piece.read(kind, read[k], min(block, piece.count - read[k]))
                read[k] += len(held[k])
        unread = [k for k, piece in enumerate(slices) if read[k] < piece.count]
        if not unread:
            yield kind.sorted(np.concatenate(held))
            return
        # What is not read yet is no smaller than the last record held of the same slice. Of equal keys, those of later
        # slices have to wait for those of this one.
        key, last = min((kind.key(held[k][-1]), k) for k in unread)
        taken = []
        for k, records in enumerate(held):
            count = kind.count_before(records, key, "right" if k <= last else "left")
            taken.append(records[:count])
            held[k] = records[count:]
        yield kind.sorted(np.concatenate(taken))


@dataclass(frozen=True)
class Grouped:
    """Consecutive records, divided into groups of equal keys.

    Attributes:
        starts: first record of each group, and the number of records.
        continues: the first group continues the last one of the records before.
        is_open: the last group may continue in the records that follow.
    """

    records: Records
    starts: npt.NDArray[np.int64]
    continues: bool
    is_open: bool

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        return np.diff(self.starts)


def grouped(blocks: Iterable[Records], names: Sequence[str], most: int) -> Iterator[Grouped]:
    """Divide sorted records into groups that are equal in some fields.

    A group is yielded as a whole, unless it has more than `most` records; then the pieces of it do.
    """
    held: Records | None = None
    open_key: tuple[Any, ...] | None = None
    for block in blocks:
        if not len(block):
            continue
        records = block if held is None else np.concatenate((held, block))
        held = None
        starts = _group_starts(records, names)
        continues = open_key is not None and _key_of(records[0], names) == open_key
        last = int(starts[-2])
        if len(records) - last <= most and not (continues and last == 0):
            held, open_key = records[last:], None
            if last:
                yield Grouped(records[:last], starts[:-1], continues, False)
        else:
            open_key = _key_of(records[-1], names)
            yield Grouped(records, starts, continues, True)
    if held is not None:
        yield Grouped(held, _group_starts(held, names), False, False)


def _group_starts(records: Records, names: Sequence[str]) -> npt.NDArray[np.int64]:
    begins = np.zeros(len(records), dtype=bool)
    begins[0] = True
    for name in names:
        column = records[name]
        begins[1:] |= column[1:] != column[:-1]
    return np.append(np.flatnonzero(begins), len(records)).astype(np.int64)


def _key_of(record: np.void, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(record[name].item() for name in names)
