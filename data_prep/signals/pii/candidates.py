"""Candidates for personal data: one compiled pass over the bytes, so that most of the text needs no further search.

A candidate is a byte position and a kind, which other modules of this package verify. The pass finds too many, never
too few.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.kernels.kernel import Bytes, Places, kernel, part, read_only

AT_SIGN = 1
"""`@` after a character that can end the local part of an address."""
DOTTED_NUMBERS = 2
"""The first of at most three digits without a point before them, and with a point and a digit after them."""
COLONS = 3
"""The first byte of a run of hexadecimal digits and colons with two or more colons and at least one digit."""
DIGITS = 4
"""The beginning of a run of 7 or more digits, separated by at most two of blank, `-`, `.`, `/`, `(`, `)`."""
ACCOUNT = 5
"""Two capitals and two digits at the beginning of a word."""
TOKEN = 6
"""The beginning of a run of 16 or more of letters, digits, `_`, `-`, `.`, `/`, `+`, `=` with a digit among them."""
DASHES = 7
"""`-----BEGIN`."""

_DIGIT, _UPPER, _LOWER, _HEXADECIMAL, _TOKEN, _NUMBER = 1, 2, 4, 8, 16, 32


def _byte_classes() -> npt.NDArray[np.uint8]:
    classes = np.zeros(256, dtype=np.uint8)
    for characters, flag in (
        (b"0123456789", _DIGIT),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", _UPPER),
        (b"abcdefghijklmnopqrstuvwxyz", _LOWER),
        (b"0123456789abcdefABCDEF", _HEXADECIMAL),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./+=", _TOKEN),
        (b" -./()", _NUMBER),
    ):
        for byte in characters:
            classes[byte] |= flag
    classes.flags.writeable = False
    return classes


_CLASSES = _byte_classes()
_MINIMUM_TOKEN_BYTES = 16
_MINIMUM_DIGITS = 7


@part
def _find(data: Bytes, begin: int, end: int, classes: Bytes, kinds: Bytes, positions: Places, found: int) -> int:
    """Append candidates of one document from `found` on; return their number, which may exceed the room for them."""
    room = positions.shape[0]
    digits, gap, digits_from = 0, 0, np.int64(-1)
    token_from, token_has_digit = np.int64(-1), False
    colons, colons_from, colons_has_digit = 0, np.int64(-1), False
    i = begin
    while i <= end:
        at_end = i == end
        byte = np.uint8(0x0A) if at_end else data[i]
        kind = np.uint8(0) if at_end else classes[byte]
        # digits with separators
        if kind & 1:
            if digits == 0:
                digits_from = i
            digits += 1
            gap = 0
            if digits == _MINIMUM_DIGITS:
                if found < room:
                    kinds[found], positions[found] = DIGITS, digits_from
                found += 1
            if i + 2 < end and data[i + 1] == 0x2E and classes[data[i + 2]] & 1:
                first = i
                while first > begin and i - first < 3 and classes[data[first - 1]] & 1:
                    first -= 1
                if i - first < 3 and (first == begin or data[first - 1] != 0x2E):
                    if found < room:
                        kinds[found], positions[found] = DOTTED_NUMBERS, first
                    found += 1
        elif digits:
            gap += 1
            if gap > 2 or not (kind & 32):
                digits, gap = 0, 0
        # tokens
        if kind & 16:
            if token_from < 0:
                token_from, token_has_digit = i, False
            token_has_digit |= (kind & 1) != 0
        elif token_from >= 0:
            if token_has_digit and i - token_from >= _MINIMUM_TOKEN_BYTES:
                if found < room:
                    kinds[found], positions[found] = TOKEN, token_from
                found += 1
            token_from = -1
        # hexadecimal digits with colons
        if kind & 8 or byte == 0x3A:
            if colons_from < 0:
                colons, colons_from, colons_has_digit = 0, i, False
            colons += byte == 0x3A
            colons_has_digit |= (kind & 1) != 0
        elif colons_from >= 0:
            if colons >= 2 and colons_has_digit:
                if found < room:
                    kinds[found], positions[found] = COLONS, colons_from
                found += 1
            colons_from = -1
        if byte == 0x40 and i > begin and i + 1 < end and classes[data[i - 1]] & 23:
            if found < room:
                kinds[found], positions[found] = AT_SIGN, i
            found += 1
        elif (
            kind & 2
            and i + 4 < end
            and classes[data[i + 1]] & 2
            and classes[data[i + 2]] & 1
            and classes[data[i + 3]] & 1
            and (i == begin or not (classes[data[i - 1]] & 7))
        ):
            if found < room:
                kinds[found], positions[found] = ACCOUNT, i
            found += 1
        elif (
            byte == 0x2D
            and i + 10 < end
            and data[i + 5] == 0x42
            and data[i + 6] == 0x45
            and data[i + 7] == 0x47
            and data[i + 4] == 0x2D
        ):
            if found < room:
                kinds[found], positions[found] = DASHES, i
            found += 1
        i += 1
    return found


@kernel
def _find_in_documents(
    data: Bytes, offsets: Places, classes: Bytes, kinds: Bytes, positions: Places, bounds: Places
) -> int:
    found = np.int64(0)
    for d in range(bounds.shape[0] - 1):
        bounds[d] = found
        found = _find(data, offsets[d], offsets[d + 1], classes, kinds, positions, found)
    bounds[bounds.shape[0] - 1] = found
    return found


def find_candidates(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find candidates in documents, concatenated as in an Arrow string column.

    Returns:
        Kinds and byte positions in `data`, and bounds: document d has candidates [bounds[d], bounds[d + 1]).
    """
    bounds = np.empty(len(offsets), dtype=np.int64)
    room = 1024 + len(data) // 32
    while True:
        kinds, positions = np.empty(room, dtype=np.uint8), np.empty(room, dtype=np.int64)
        found = _find_in_documents(read_only(data), read_only(offsets), _CLASSES, kinds, positions, bounds)
        if found <= room:
            return kinds[:found], positions[:found], bounds
        room = int(found)
