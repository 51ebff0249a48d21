"""Units of a text that repeated spans are made of: sentences and tokens, each with a hash and its place."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.kernels.characters import SPACE, UNSPACED, WORD, character_flags, decode, lower_case, next_line, trimmed
from data_prep.kernels.kernel import Bytes, Hashes, Places, Points, kernel, part, read_only, scratch_size
from data_prep.signals.web_statistics import end_of_sentence

Units = tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Hashes of units, and where each starts and stops."""


@part
def _mixed(value: np.uint64) -> np.uint64:
    value ^= value >> np.uint64(32)
    value *= np.uint64(0xD6E8FEB86659FD93)
    value ^= value >> np.uint64(32)
    return value


@kernel
def _sentences(
    data: Bytes, flags: Bytes, lower: Points, hashes: Hashes, starts: Places, stops: Places
) -> int | np.int64:
    """Fill the sentences of a text, line by line; return their number."""
    units = 0
    start, end = np.int64(0), np.int64(data.shape[0])
    while start < end:
        stop, _, _ = next_line(data, start, end)
        first, last = trimmed(data, start, stop, flags)
        place = first
        while place < last:
            done = end_of_sentence(data, first, place, last, flags)
            value, pending = np.uint64(0xCBF29CE484222325), False
            begin, i = np.int64(-1), place
            while i < done:
                point, size = decode(data, i, done)
                if point < flags.shape[0] and flags[point] & np.uint8(SPACE):
                    pending = begin >= 0
                else:
                    if begin < 0:
                        begin = i
                    if pending:  # white space in a row is one blank
                        value = (value ^ np.uint64(0x20)) * np.uint64(0x00000100000001B3)
                        pending = False
                    folded = np.uint64(lower[point]) if point < lower.shape[0] else np.uint64(point)
                    value = (value ^ folded) * np.uint64(0x00000100000001B3)
                i += size
            if begin >= 0:
                hashes[units], starts[units], stops[units] = _mixed(value), begin, done
                units += 1
            place = done
        start = stop + 1
    return units


@kernel
def _tokens(data: Bytes, flags: Bytes, lower: Points, hashes: Hashes, starts: Places, stops: Places) -> int | np.int64:
    """Fill the tokens of a text; return their number. An empty table `lower` leaves the case as it is."""
    units = 0
    i, end = np.int64(0), np.int64(data.shape[0])
    while i < end:
        point, size = decode(data, i, end)
        flag = flags[point] if point < flags.shape[0] else np.uint8(0)
        if flag & np.uint8(SPACE):
            i += size
            continue
        begin = i
        folded = np.uint64(lower[point]) if point < lower.shape[0] else np.uint64(point)
        value = (np.uint64(0xCBF29CE484222325) ^ folded) * np.uint64(0x00000100000001B3)
        i += size
        if flag & np.uint8(WORD) and not flag & np.uint8(UNSPACED):
            while i < end:
                point, size = decode(data, i, end)
                flag = flags[point] if point < flags.shape[0] else np.uint8(0)
                if not flag & np.uint8(WORD) or flag & np.uint8(UNSPACED):
                    break
                folded = np.uint64(lower[point]) if point < lower.shape[0] else np.uint64(point)
                value = (value ^ folded) * np.uint64(0x00000100000001B3)
                i += size
        hashes[units], starts[units], stops[units] = _mixed(value), begin, i
        units += 1
    return units


@kernel
def _roll(hashes: Hashes, length: int, spans: Hashes) -> None:
    """Fill the hash of each `length` consecutive units."""
    factor, power = np.uint64(0x9E3779B97F4A7C15), np.uint64(1)
    for _ in range(length):
        power *= factor
    value = np.uint64(0)
    for k in range(hashes.shape[0]):
        value = value * factor + hashes[k]
        if k >= length:
            value -= power * hashes[k - length]
        if k >= length - 1:
            spans[k - length + 1] = _mixed(value) | np.uint64(1)


def sentences_of(text: bytes) -> Units:
    """Return the sentences of a text, as C4's rules count them (`signals/web_statistics.py`), in lower case with white
    space in a row as one blank; a line ends a sentence."""
    data, hashes, starts, stops = _scratch(text)
    count = _sentences(data, character_flags(), lower_case(), hashes, starts, stops)
    return hashes[:count], starts[:count], stops[:count]


def tokens_of(text: bytes, folded: bool = False) -> Units:
    """Return the tokens of a text: words (letters, digits and marks in a row), letters of scripts without spaces, and
    each other character; white space is none.

    Args:
        folded: compare in lower case.
    """
    data, hashes, starts, stops = _scratch(text)
    lower = lower_case()
    count = _tokens(data, character_flags(), lower if folded else lower[:0], hashes, starts, stops)
    return hashes[:count], starts[:count], stops[:count]


def spans_of(units: Units, length: int) -> Units:
    """Return the spans of `length` consecutive units."""
    hashes, starts, stops = units
    count = max(len(hashes) - length + 1, 0)
    spans = np.empty(count, np.uint64)
    if count:
        _roll(hashes, length, spans)
    return spans, starts[:count], stops[length - 1 :][:count]


def _scratch(text: bytes) -> tuple[Bytes, Hashes, Places, Places]:
    room = scratch_size(len(text))
    data = read_only(np.frombuffer(text, dtype=np.uint8))
    return data, np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.int64)
