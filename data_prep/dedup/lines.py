"""Lines that stand in many documents: menus, notices, templates.

A line is compared as CCNet does (Wenzek et al. 2020, arXiv:1911.00359, section 3.1; cc_net/text_normalizer.py):
without white space at its ends, in lower case, each digit as 0, without punctuation and symbols; a line of which
nothing is left is never a repeat. Only documents that stay are compared, or the lines of a document would go because of
a copy of it that goes itself.

Hashes (64 bits) lie in a file in the order of the corpus; repeats are found in parts of the values, one after the
other, so that no more than `memory_bytes` of them are held at once, at the price of reading the file once a part.
"""

from __future__ import annotations

from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt

from data_prep.signals.characters import SPACE, WORD, character_flags, decode, lower_case, read_only

_READ = 4_000_000
_BYTES_PER_HELD_LINE = 64
"""A hash, its place, and what sorting them takes."""


@numba.njit(nogil=True, cache=True)
def _hash_lines(data, begin, end, flags, lower, hashes, starts, stops):  # type: ignore[no-untyped-def]
    lines = 0
    start = begin
    while start < end:
        value = np.uint64(0xCBF29CE484222325)
        pending, is_empty = False, True
        i = start
        while i < end and data[i] != 0x0A:
            point, size = decode(data, i, end)
            i += size
            flag = flags[point] if point < flags.shape[0] else np.uint8(0)
            if flag & SPACE:
                pending = not is_empty
                continue
            if not flag & WORD:
                continue
            if pending:  # white space in a row is one blank
                value = (value ^ np.uint64(0x20)) * np.uint64(0x00000100000001B3)
                pending = False
            folded = np.uint64(lower[point]) if point < lower.shape[0] else np.uint64(point)
            if 0x30 <= point <= 0x39:
                folded = np.uint64(0x30)
            value = (value ^ folded) * np.uint64(0x00000100000001B3)
            is_empty = False
        value ^= value >> np.uint64(32)
        value *= np.uint64(0xD6E8FEB86659FD93)
        value ^= value >> np.uint64(32)
        hashes[lines] = np.uint64(0) if is_empty else value | np.uint64(1)
        starts[lines] = start - begin
        stops[lines] = min(i + 1, end) - begin
        lines += 1
        start = i + 1
    return lines


def hash_lines(
    data: npt.NDArray[np.uint8], start: int, stop: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Hash of each line of the text at bytes [start, stop), 0 for an empty one; where in the text it lies."""
    most = int(np.count_nonzero(data[start:stop] == 0x0A)) + 1
    hashes = np.empty(most, dtype=np.uint64)
    starts, stops = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    lines = _hash_lines(read_only(data), start, stop, character_flags(), lower_case(), hashes, starts, stops)
    return hashes[:lines], starts[:lines], stops[:lines]


def find_repeats(
    path: Path, groups: npt.NDArray[np.int64], minimum: int, keeps_first: bool, memory_bytes: int
) -> npt.NDArray[np.bool_]:
    """For each line of a file of hashes whether it goes.

    Args:
        path: `uint64` hashes in the order of the corpus; 0 never goes.
        groups: the document of each line: what one document repeats by itself counts once.
        minimum: documents in which a line must stand to be a repeat.
        keeps_first: the lines of the first of these documents stay.
        memory_bytes: bound of what is held beside one bit for each line.
    """
    hashes = np.memmap(path, dtype=np.uint64, mode="r") if len(groups) else np.empty(0, dtype=np.uint64)
    goes = np.zeros(len(hashes), dtype=bool)
    parts = max(1, -(-len(hashes) * _BYTES_PER_HELD_LINE // memory_bytes))
    for part in range(parts):
        places = np.concatenate(
            [
                first + np.flatnonzero((chunk != 0) & ((chunk >> np.uint64(1)) % np.uint64(parts) == part))
                for first in range(0, len(hashes), _READ)
                for chunk in (hashes[first : first + _READ],)
            ]
            or [np.empty(0, dtype=np.int64)]
        )
        order = places[np.argsort(hashes[places], kind="stable")]  # equal ones in the order of the corpus
        if not len(order):
            continue
        values, owners = hashes[order], groups[order]
        begins = np.ones(len(order), dtype=bool)
        begins[1:] = values[1:] != values[:-1]
        run = np.cumsum(begins) - 1
        is_new_document = begins.copy()
        is_new_document[1:] |= owners[1:] != owners[:-1]
        documents = np.bincount(run, weights=is_new_document)
        repeated = documents[run] >= minimum
        if keeps_first:
            repeated &= owners != owners[begins][run]
        goes[order[repeated]] = True
    return goes
