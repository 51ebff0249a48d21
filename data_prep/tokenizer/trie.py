"""A trie of the entries of a vocabulary as one array, compiled: one look for each byte of a text.

A node is the number of its slot. The child for a byte lies at `base ^ byte`, where `base` stands in the node's slot, if
that slot names the node as its parent. Source: Aoe 1989, "An efficient digital search algorithm by using a double-array
structure", IEEE Transactions on Software Engineering 15(9); with exclusive or for its addition.

    slot    parent 22 bits | base 22 bits | entry + 1, or 0: 20 bits
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import numpy.typing as npt

ENTRY_BITS = 20
SLOT_BITS = 22
_BLOCK = 256
_TRIES = 32
"""Places that are tried for several children in a block, before it is left to single ones."""


def build_trie(texts: Sequence[bytes], entries: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """The slots of a trie; slot 0 is the root.

    Args:
        texts: what each entry stands for, no two alike, none empty; entries: their ids, below 2**20.

    Raises:
        ValueError: too many for 22 bits.
    """
    flat = np.frombuffer(b"".join(texts), np.uint8)
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    first_child, sibling, byte, entry = _grow(flat, ends, entries)
    base, slots = _place(first_child, sibling, byte, np.argsort(-_children(first_child, sibling), kind="stable"))
    if slots > 1 << SLOT_BITS:
        raise ValueError(f"a trie of {len(first_child)} nodes needs {slots} slots, more than {1 << SLOT_BITS}")
    return _fill(first_child, sibling, byte, entry, base, slots)


@numba.njit(nogil=True, cache=True)
def _grow(
    flat: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64], entries: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The nodes, each with a list of its children; node 0 is the root, -1 is nothing."""
    size = len(flat) + 1
    first_child, sibling = np.full(size, -1, np.int32), np.full(size, -1, np.int32)
    byte, entry = np.zeros(size, np.uint8), np.full(size, -1, np.int64)
    count, start = 1, 0
    for k in range(len(ends)):
        node = 0
        for i in range(start, ends[k]):
            child = first_child[node]
            while child >= 0 and byte[child] != flat[i]:
                child = sibling[child]
            if child < 0:
                child = count
                count += 1
                byte[child] = flat[i]
                sibling[child] = first_child[node]
                first_child[node] = child
            node = child
        entry[node] = entries[k]
        start = ends[k]
    return first_child[:count], sibling[:count], byte[:count], entry[:count]


@numba.njit(nogil=True, cache=True)
def _children(first_child: npt.NDArray[np.int32], sibling: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    count = np.zeros(len(first_child), np.int64)
    for node in range(len(first_child)):
        child = first_child[node]
        while child >= 0:
            count[node] += 1
            child = sibling[child]
    return count


@numba.njit(nogil=True, cache=True)
def _place(
    first_child: npt.NDArray[np.int32],
    sibling: npt.NDArray[np.int32],
    byte: npt.NDArray[np.uint8],
    order: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], int]:
    """A base for each node such that no two children share a slot, and how many slots there are."""
    used = np.zeros(_BLOCK, np.bool_)
    used[0] = True
    base = np.zeros(len(first_child), np.int64)
    free, begin = 0, 0  # no slot before `free` is free; several children are not tried for before `begin`
    for node in order:
        child = first_child[node]
        if child < 0:
            break
        while free < len(used) and used[free]:
            free += 1
        several = sibling[child] >= 0
        slot, tries = max(free, begin) if several else free, 0
        while True:
            if slot >= len(used):
                used = np.concatenate((used, np.zeros(len(used), np.bool_)))
            if not used[slot]:
                fits = True
                other = sibling[child]
                while other >= 0 and fits:
                    fits = not used[slot ^ byte[child] ^ byte[other]]
                    other = sibling[other]
                if fits:
                    break
                tries += 1
                if tries == _TRIES:
                    slot |= _BLOCK - 1
                    begin, tries = slot + 1, 0
            slot += 1
        base[node] = slot ^ byte[child]
        while child >= 0:
            used[base[node] ^ byte[child]] = True
            child = sibling[child]
    return base, len(used)


@numba.njit(nogil=True, cache=True)
def _fill(
    first_child: npt.NDArray[np.int32],
    sibling: npt.NDArray[np.int32],
    byte: npt.NDArray[np.uint8],
    entry: npt.NDArray[np.int64],
    base: npt.NDArray[np.int64],
    slots: int,
) -> npt.NDArray[np.uint64]:
    trie = np.full(slots, (1 << 64) - 1, np.uint64)
    slot_of = np.zeros(len(base), np.int64)
    trie[0] = np.uint64(base[0] << ENTRY_BITS)
    for node in range(len(base)):  # a node comes before its children
        child = first_child[node]
        while child >= 0:
            slot = base[node] ^ byte[child]
            slot_of[child] = slot
            trie[slot] = np.uint64(slot_of[node] << (SLOT_BITS + ENTRY_BITS) | base[child] << ENTRY_BITS) | np.uint64(
                entry[child] + 1
            )
            child = sibling[child]
    return trie
