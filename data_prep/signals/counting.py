"""How often each of many hashes occurs: one open-addressed table of 64-bit entries, made for kernels.

An entry is the upper 36 bits of a hash and a count of 28 bits; together with the slot, which other bits choose, nearly
all bits of a hash are compared. Key and count in one word cost one access to memory instead of two.
"""

from __future__ import annotations

import numba
import numpy as np

_COUNT = np.uint64((1 << 28) - 1)
_HASH = ~_COUNT
_ONE = np.uint64(1)


@numba.njit(nogil=True, cache=True)
def clear(entries, table):  # type: ignore[no-untyped-def]
    """Empty the part of a table that so many hashes need, at most half full; return its size minus one."""
    size = np.int64(4)
    while size < entries * 2:
        size *= 2
    table[:size] = np.uint64(0)
    return size - 1


@numba.njit(nogil=True, cache=True, inline="always")
def count(value, table, mask):  # type: ignore[no-untyped-def]
    """Count a hash once more; return its slot and how often it has occurred."""
    slot = np.int64(value ^ (value >> np.uint64(32))) & mask
    entry = table[slot]
    while (entry != 0) & (((entry ^ value) & _HASH) != 0):  # one branch, which is seldom taken, for two that are open
        slot = (slot + 1) & mask
        entry = table[slot]
    entry = entry + _ONE if entry else (value & _HASH) | _ONE
    table[slot] = entry
    return slot, np.int64(entry & _COUNT)


@numba.njit(nogil=True, cache=True, inline="always")
def occurrences(slot, table):  # type: ignore[no-untyped-def]
    """How often the hash in a slot has occurred."""
    return np.int64(table[slot] & _COUNT)
