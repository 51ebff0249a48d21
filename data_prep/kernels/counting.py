"""Counting of hashes in kernels: an open-addressed table of 64-bit entries.

An entry is the upper 36 bits of a hash and a count of 28 bits; together with the slot, which other bits choose, nearly
all bits of a hash are compared. Key and count in one word cost one access to memory instead of two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.kernels.kernel import Hashes, inlined, part
from data_prep.kernels.machine_words import empty_or_alike, lowest

_COUNT = np.uint64((1 << 28) - 1)
_HASH = ~_COUNT
_ONE = np.uint64(1)
_GROUP = 8
"""Number of slots that are compared together."""


def table_for(entries: int) -> Hashes:
    """Allocate a table for at most `entries` hashes, each group aligned to a cache line."""
    # `clear` uses less than four times the entries, or two groups; the alignment takes up to one group
    table = np.empty(4 * entries + 3 * _GROUP, np.uint64)
    return table[-table.ctypes.data // 8 % _GROUP :]


@part
def clear(entries: int, table: Hashes) -> np.uint64:
    """Empty the part of a table that `entries` hashes need, so that it is at most half full; return its size less one
    group."""
    size = np.int64(2 * _GROUP)
    while size < entries * 2:
        size *= 2
    for k in range(size):
        table[k] = np.uint64(0)
    return np.uint64(size - _GROUP)


@inlined
def count(value: np.uint64, table: Hashes, mask: np.uint64) -> tuple[np.uint64, np.int64]:
    """Count a hash once more; return its slot and how often it has occurred."""
    group = (value ^ (value >> np.uint64(32))) & mask  # unsigned indices need no check for being negative
    found = empty_or_alike(table, group, value, _HASH)
    while found == 0:  # eight other hashes, which is rare
        group = (group + np.uint64(_GROUP)) & mask
        found = empty_or_alike(table, group, value, _HASH)
    slot = group + lowest(found)  # a group fills from its beginning: equal entries precede empty ones
    entry = table[slot]
    entry = entry + _ONE if entry else (value & _HASH) | _ONE
    table[slot] = entry
    return slot, np.int64(entry & _COUNT)


@inlined
def occurrences(slot: int, table: Hashes) -> np.int64:
    """Return how often the hash in a slot has occurred."""
    return np.int64(table[np.uint64(slot)] & _COUNT)


@part
def sort(values: npt.NDArray[Any], start: int, stop: int) -> None:
    """Sort values[start:stop] (Williams 1964, Algorithm 232, "Heapsort"): numba's sort takes 2 s to compile."""
    size = stop - start
    unordered, last = size // 2, size
    while last > 1:
        if unordered:  # the heap is being built
            unordered -= 1
            value = values[start + unordered]
        else:
            last -= 1
            value = values[start + last]
            values[start + last] = values[start]
        place, child = unordered, 2 * unordered + 1
        while child < last:
            if child + 1 < last and values[start + child] < values[start + child + 1]:
                child += 1
            if values[start + child] <= value:
                break
            values[start + place] = values[start + child]
            place, child = child, 2 * child + 1
        values[start + place] = value
