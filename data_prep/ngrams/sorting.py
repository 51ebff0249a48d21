"""Rows sorted in bounded memory: sorted runs on disk, which are merged block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from foundation.atomic_files import room_for

Rows = npt.NDArray[Any]
"""Structured array."""

BLOCK_ROWS = 1 << 16
"""Largest number of rows that are handed on at once."""
_COPIES = 3
"""Copies of the rows in memory while some of them are sorted: as they came, one after another, and in order."""
_SORTING_BYTES = 40
"""Bytes for each row that sorting takes besides: its place, contiguous keys and working space."""


class ExternalSort:
    """Sorts rows by some of their fields.

    Args:
        folder: folder for the runs; it is created.
        dtype: type of the rows.
        fields: fields with the keys; the first one counts most.
        memory_bytes: memory to use, approximately.
        combine: called with sorted rows, returns them with those of equal keys combined; None: all are kept.
    """

    def __init__(
        self,
        folder: Path,
        dtype: np.dtype[Any],
        fields: Sequence[str],
        memory_bytes: int,
        combine: Callable[[Rows], Rows] | None = None,
    ) -> None:
        self._folder = folder
        self._dtype = dtype
        self._fields = tuple(fields)
        self._combine = combine
        self._rows_at_once = max(1, memory_bytes // (_COPIES * dtype.itemsize + _SORTING_BYTES))
        self._waiting: list[Rows] = []
        self._waiting_rows = 0
        self._runs: list[Path] = []
        folder.mkdir(parents=True)

    @property
    def run_count(self) -> int:
        """Number of runs on disk so far."""
        return len(self._runs)

    def add(self, rows: Rows) -> None:
        """Take rows in any order."""
        self._waiting.append(rows)
        self._waiting_rows += len(rows)
        if self._waiting_rows >= self._rows_at_once:
            self._write_run()

    def blocks(self) -> Iterator[Rows]:
        """Yield all rows in order, once, some at a time; rows of equal keys may be in several blocks unless they are
        combined."""
        if self._runs and self._waiting_rows:
            self._write_run()
        for rows in self._merged() if self._runs else [self._in_order(self._waiting)]:
            for first in range(0, len(rows), BLOCK_ROWS):
                yield rows[first : first + BLOCK_ROWS]
        for path in self._runs:
            path.unlink()

    def _in_order(self, parts: Sequence[Rows]) -> Rows:
        rows = np.concatenate(parts) if parts else np.empty(0, self._dtype)
        rows = rows[np.lexsort([rows[field] for field in reversed(self._fields)])]
        return self._combine(rows) if self._combine is not None and len(rows) else rows

    def _write_run(self) -> None:
        path = self._folder / f"{len(self._runs):06d}"
        with room_for(path), open(path, "wb") as file:
            write_rows(file, self._in_order(self._waiting))
        self._runs.append(path)
        self._waiting, self._waiting_rows = [], 0

    def _merged(self) -> Iterator[Rows]:
        """Yield what all runs have up to the smallest of their last keys in memory, again and again."""
        capacity = max(1, self._rows_at_once // len(self._runs))
        runs = [_Run(path, self._dtype, capacity) for path in self._runs]
        while runs:
            for run in runs:
                run.fill()
            bound = min(run.last_key(self._fields) for run in runs)
            yield self._in_order([run.take(self._fields, bound) for run in runs])
            runs = [run for run in runs if run.has_more]


class _Run:
    """A sorted run on disk, of which some rows are in memory."""

    def __init__(self, path: Path, dtype: np.dtype[Any], capacity: int) -> None:
        self._path = path
        self._dtype = dtype
        self._capacity = capacity
        self._read = 0
        self._left = path.stat().st_size // dtype.itemsize
        self._rows: Rows = np.empty(0, dtype)

    @property
    def has_more(self) -> bool:
        return bool(self._left or len(self._rows))

    def fill(self) -> None:
        """Read more rows if at most half of the room is used: with fewer, a step of the merge would yield next to
        nothing."""
        if not self._left or 2 * len(self._rows) > self._capacity:
            return
        count = min(self._left, self._capacity - len(self._rows))
        self._rows = np.concatenate([self._rows, read_rows(self._path, self._dtype, self._read, count)])
        self._read += count
        self._left -= count

    def last_key(self, fields: Sequence[str]) -> tuple[int, ...]:
        return tuple(int(self._rows[field][-1]) for field in fields)

    def take(self, fields: Sequence[str], bound: tuple[int, ...]) -> Rows:
        """Remove and return the rows whose keys are not above a bound."""
        start, stop = 0, len(self._rows)  # rows before `start` are below the bound, those from `stop` on above it
        for field, value in zip(fields, bound, strict=True):
            column = self._rows[field][start:stop]
            key = column.dtype.type(value)
            stop = start + int(np.searchsorted(column, key, "right"))
            start += int(np.searchsorted(column, key, "left"))
        taken, self._rows = self._rows[:stop], self._rows[stop:]
        return taken


def write_rows(file: BinaryIO, rows: npt.NDArray[Any]) -> None:
    """Append rows to a file; numpy's own writing does not report why it fails."""
    file.write(np.ascontiguousarray(rows).view(np.uint8).data)


def read_rows(path: Path, dtype: np.dtype[Any], first: int, count: int) -> Rows:
    """Read rows [first, first + count) of a file."""
    rows: Rows = np.fromfile(path, dtype, count, offset=first * dtype.itemsize)
    if len(rows) != count:
        raise OSError(f"{path}: ends after row {first + len(rows):,} of {first + count:,}; was it changed?")
    return rows


def blocks_of(path: Path, dtype: np.dtype[Any]) -> Iterator[Rows]:
    """Yield all rows of a file, some at a time."""
    total = path.stat().st_size // dtype.itemsize
    for first in range(0, total, BLOCK_ROWS):
        yield read_rows(path, dtype, first, min(BLOCK_ROWS, total - first))


def group_starts(columns: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    """Return the places at which groups of rows begin that are equal in all columns; equal rows are neighbours."""
    begins = np.zeros(len(columns[0]), np.bool_)
    begins[:1] = True
    for column in columns:
        begins[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(begins)


def whole_groups(blocks: Iterable[Rows], columns_of: Callable[[Rows], Sequence[npt.NDArray[Any]]]) -> Iterator[Rows]:
    """Yield the same rows in blocks that do not divide groups, see `group_starts`."""
    held: Rows | None = None
    for block in blocks:
        if not len(block):
            continue
        rows = block if held is None else np.concatenate([held, block])
        last = int(group_starts(columns_of(rows))[-1])
        if last:
            yield rows[:last]
        held = rows[last:]
    if held is not None:
        yield held
