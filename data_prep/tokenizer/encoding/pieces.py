"""Compiled division of a text into pieces: a bit for each byte, set where a piece begins.

A *piece* is a part of a text that no merge crosses, so that it is encoded by itself. Byte-level BPE has a pattern that
divides the text (`mark_by_pattern`). SentencePiece encodes whole documents, but no merge can cross two bytes that are
adjacent in no entry of the vocabulary (`mark_by_entries`), such as a letter and a space after it. Pieces that are still
long, such as a line of Chinese, are divided between characters that are adjacent in no entry (`cut_long_pieces`): short
pieces recur.

Bytes are processed 64 at a time, with a bit of one number for each.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from data_prep.kernels.kernel import inlined, kernel, read_only
from data_prep.kernels.machine_words import equal_of_64, first_bytes, load_eight, lowest, store_eight

PADDING = 80
"""Number of bytes after the text that may be read and are ignored."""

_SPACE, _LINE_FEED = 32, 10


def divided_documents(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], prefix: bytes
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Join documents with a separating line feed after each, `prefix` before each that is not empty, and `PADDING`
    zeros at the end; return them and where each ends.

    Args:
        data, offsets: see `Texts`.
    """
    count = len(offsets) - 1
    divided = np.empty(int(offsets[-1] - offsets[0]) + count * (len(prefix) + 1) + PADDING, np.uint8)
    ends = np.empty(count, np.int64)
    size = _divide(data, offsets, np.frombuffer(prefix, np.uint8), divided, ends)
    return read_only(divided[: size + PADDING]), ends


@kernel
def _divide(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    prefix: npt.NDArray[np.uint8],
    divided: npt.NDArray[np.uint8],
    ends: npt.NDArray[np.int64],
) -> int:
    place = 0
    for d in range(len(ends)):
        begin, size = offsets[d], offsets[d + 1] - offsets[d]
        if size:
            for byte in prefix:
                divided[place] = byte
                place += 1
        for i in range(0, size - 7, 8):
            store_eight(divided, place + i, load_eight(data, begin + i))
        rest = size & 7
        store_eight(divided, place + size - rest, first_bytes(data, begin + size - rest, rest))
        place += size
        ends[d] = place
        divided[place] = _LINE_FEED
        place += 1
    divided[place : place + PADDING] = 0
    return place


@inlined
def code_point(eight: np.uint64) -> tuple[np.int64, int]:
    """Return the first character of eight bytes of valid UTF-8, see `load_eight`, and its size.

    The argument is a number and not an array, because numba counts references to an array at each branch, which takes a
    fifth of the time.
    """
    lead = np.int64(eight & np.uint64(0xFF))
    code, size = lead, 1
    if lead >= 0x80:
        code, size = (lead & 0x1F) << 6 | np.int64(eight >> np.uint64(8)) & 0x3F, 2
        if lead >= 0xE0:
            code, size = (code & 0x3FF) << 6 | np.int64(eight >> np.uint64(16)) & 0x3F, 3
        if lead >= 0xF0:
            code, size = (code & 0x7FFF) << 6 | np.int64(eight >> np.uint64(24)) & 0x3F, 4
    return code, size


def excluded_tables(
    excluded: frozenset[str],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Make tables of the characters that a pattern excludes, all in the basic plane.

    Returns:
        The excluded ASCII characters; the pairs of bytes that others begin with, [pairs, 2]; and whether each code
        point below 2**16 is excluded.
    """
    code_points = np.zeros(1 << 16, np.bool_)
    code_points[[ord(character) for character in excluded]] = True
    longer = sorted({tuple(character.encode()[:2]) for character in excluded if not character.isascii()})
    ascii_ones = sorted(ord(character) for character in excluded if character.isascii())
    return np.array(ascii_ones, np.uint8), np.array(longer, np.uint8).reshape(-1, 2), code_points


@kernel
def mark_by_pattern(
    data: npt.NDArray[np.uint8],
    size: int,
    ascii_ones: npt.NDArray[np.uint8],
    longer: npt.NDArray[np.uint8],
    code_points: npt.NDArray[np.bool_],
) -> npt.NDArray[np.uint64]:
    """Mark where pieces begin by the pattern ` ?[^excluded]+`; text between two matches is a piece too.

    Args:
        data: valid UTF-8 and `PADDING` more bytes; documents are separated by an excluded byte other than a space, such
            as the line feed. Beginnings of documents may be unmarked: they are known.
        size: bytes of the text. ascii_ones, longer, code_points: see `excluded_tables`.

    Returns:
        A bit for each byte, [size // 64 + 1].
    """
    words = size // 64 + 1
    excluded = np.zeros(words + 1, np.uint64)
    for word in range(words):
        first = 64 * word
        found = np.uint64(0)
        for byte in ascii_ones:
            found |= equal_of_64(data, first, byte)
        excluded[word] |= found
        begun = np.uint64(0)
        for k in range(len(longer)):
            lead = equal_of_64(data, first, longer[k, 0])
            if lead:
                begun |= lead & equal_of_64(data, first + 1, longer[k, 1])
        while begun:
            place = first + np.int64(lowest(begun))
            begun &= begun - np.uint64(1)
            code, length = code_point(load_eight(data, place))
            if code_points[code]:
                for i in range(place, place + length):
                    excluded[i >> 6] |= np.uint64(1) << np.uint64(i & 63)
    one, last = np.uint64(1), np.uint64(63)
    starts = np.empty(words, np.uint64)
    before, space_before = np.uint64(0), np.uint64(0)
    for word in range(words):
        out = excluded[word]
        inside = ~out
        space = equal_of_64(data, 64 * word, np.uint8(_SPACE))
        out_before, after_space = out << one | before, space << one | space_before
        inside_next = inside >> one | (~excluded[word + 1] & one) << last
        starts[word] = inside & out_before & ~after_space | space & inside_next | out & ~out_before
        before, space_before = out >> last, space >> last
    return starts


@kernel
def holds_character(data: npt.NDArray[np.uint8], size: int, character: npt.NDArray[np.uint8]) -> bool:
    """Return whether three bytes occur among the first `size`; `data` has `PADDING` more."""
    for first in range(0, size, 64):
        found = equal_of_64(data, first, character[0])
        if found and found & equal_of_64(data, first + 1, character[1]) & equal_of_64(data, first + 2, character[2]):
            return True
    return False


@kernel
def mark_by_entries(data: npt.NDArray[np.uint8], size: int, joined: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Mark where characters begin that are adjacent in no entry to the byte before them.

    Args:
        data: valid UTF-8 and `PADDING` more bytes; size: bytes of the text.
        joined: [1 << 16], by two neighbouring bytes: whether some entry has them, or the second begins no character.

    Returns:
        A bit for each byte, [size // 64 + 1].
    """
    starts = np.zeros(size // 64 + 1, np.uint64)
    before = np.int64(0)
    for word in range(len(starts)):
        bits = np.uint64(0)
        for i in range(64):
            byte = np.int64(data[64 * word + i])
            bits |= np.uint64(not joined[before << 8 | byte]) << np.uint64(i)
            before = byte
        starts[word] = bits
    return starts


_PAIR_BITS = 20


@dataclass(frozen=True)
class Neighbours:
    """Characters that are adjacent in some entry of a vocabulary.

    Attributes:
        characters: a bit for each hash of two code points, [1 << 14].
        in_part: [1 << 16], by two bytes: whether an entry has them as the last byte of a character and the first of the
            next, without all bytes of both.
    """

    characters: npt.NDArray[np.uint64]
    in_part: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, entries: Iterable[bytes]) -> Neighbours:
        pairs: set[tuple[int, int]] = set()
        in_part = np.zeros(1 << 16, np.bool_)
        for entry in entries:
            text = entry.decode(errors="surrogateescape")
            for (left, right), at_byte in zip(pairwise(text), _bounds(text), strict=True):
                if "\udc80" <= left <= "\udcff" or "\udc80" <= right <= "\udcff":
                    in_part[entry[at_byte - 1] << 8 | entry[at_byte]] = True
                else:
                    pairs.add((ord(left), ord(right)))
        found = np.zeros(1 << (_PAIR_BITS - 6), np.uint64)
        _set_pairs(np.array(list(pairs), np.int64).reshape(-1, 2), found)
        return cls(found, in_part)


def _bounds(text: str) -> Iterable[int]:
    """Return where the characters of a text begin, in bytes, except the first."""
    return accumulate(len(character.encode(errors="surrogateescape")) for character in text[:-1])


@inlined
def _pair_slot(left: int | np.int64, right: int | np.int64) -> np.uint64:
    return np.uint64(left << 21 | right) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - _PAIR_BITS)


@kernel
def _set_pairs(pairs: npt.NDArray[np.int64], found: npt.NDArray[np.uint64]) -> None:
    for k in range(len(pairs)):
        slot = _pair_slot(pairs[k, 0], pairs[k, 1])
        found[slot >> np.uint64(6)] |= np.uint64(1) << (slot & np.uint64(63))


@kernel
def cut_long_pieces(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.uint64],
    longest: int,
    characters: npt.NDArray[np.uint64],
    in_part: npt.NDArray[np.bool_],
) -> None:
    """Divide pieces of more than `longest` bytes between characters that are adjacent in no entry.

    Args:
        data: valid UTF-8; starts: where pieces begin. characters, in_part: see `Neighbours`.
    """
    before = 0
    for word in range(len(starts)):
        bits = starts[word]
        while bits:
            stop = 64 * word + np.int64(lowest(bits))
            bits &= bits - np.uint64(1)
            if stop - before > longest:
                left, size = code_point(load_eight(data, before))
                i = before + size
                while i < stop:
                    right, size = code_point(load_eight(data, i))
                    slot = _pair_slot(left, right)
                    joined = characters[slot >> np.uint64(6)] >> (slot & np.uint64(63)) & np.uint64(1)
                    if not joined and not in_part[np.int64(data[i - 1]) << 8 | np.int64(data[i])]:
                        starts[i >> 6] |= np.uint64(1) << np.uint64(i & 63)
                    left = right
                    i += size
            before = stop
