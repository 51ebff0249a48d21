"""How often each of many hashes occurs: one open-addressed table of 64-bit entries, made for kernels.

An entry is the upper 36 bits of a hash and a count of 28 bits; together with the slot, which other bits choose, nearly
all bits of a hash are compared. Key and count in one word cost one access to memory instead of two.
"""

from __future__ import annotations

import numba
import numpy as np

from data_prep.machine_words import empty_or_alike, lowest

_COUNT = np.uint64((1 << 28) - 1)
_HASH = ~_COUNT
_ONE = np.uint64(1)
_GROUP = 8
"""Slots that are looked at together."""


@numba.njit(nogil=True, cache=True)
def table_for(entries):  # type: ignore[no-untyped-def]
    """A table for at most so many hashes, its groups each a line of the processor's cache."""
    # `clear` uses less than four times the entries, or two groups
    table = np.empty(4 * entries + 3 * _GROUP, np.uint64)
    misplaced = np.int64(table.ctypes.data) >> 3 & (_GROUP - 1)
    return table[_GROUP - misplaced :]


@numba.njit(nogil=True, cache=True)
def clear(entries, table):  # type: ignore[no-untyped-def]
    """Empty the part of a table that so many hashes need, at most half full; return its size less one group."""
    size = np.int64(2 * _GROUP)
    while size < entries * 2:
        size *= 2
    table[:size] = np.uint64(0)
    return np.uint64(size - _GROUP)


@numba.njit(nogil=True, cache=True, inline="always")
def count(value, table, mask):  # type: ignore[no-untyped-def]
    """Count a hash once more; return its slot and how often it has occurred."""
    group = (value ^ (value >> np.uint64(32))) & mask  # places without a sign need not be looked at for being negative
    found = empty_or_alike(table, group, value, _HASH)
    while found == 0:  # eight others, which is seldom so
        group = (group + np.uint64(_GROUP)) & mask
        found = empty_or_alike(table, group, value, _HASH)
    slot = group + lowest(found)  # a group fills from its beginning: what is alike comes before what is empty
    entry = table[slot]
    entry = entry + _ONE if entry else (value & _HASH) | _ONE
    table[slot] = entry
    return slot, np.int64(entry & _COUNT)


@numba.njit(nogil=True, cache=True, inline="always")
def occurrences(slot, table):  # type: ignore[no-untyped-def]
    """How often the hash in a slot has occurred."""
    return np.int64(table[np.uint64(slot)] & _COUNT)
