"""Character classes of code points, and decoding of UTF-8 in compiled code.

The tables come from Python's own Unicode database, so their version is `unicodedata.unidata_version`; the measure stage
records that version in its settings, because another version may divide words differently.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from data_prep.kernels.kernel import Bytes, inlined, part
from data_prep.kernels.machine_words import EACH_BYTE, at, bytes_equal, load_eight, lowest, mask_of

SPACE = 1
LETTER = 2
NUMBER = 4
MARK = 8
UNSPACED = 16
"""Flag of letters of scripts that are written without spaces between words."""
WORD = LETTER | NUMBER | MARK
TERMINAL = 32
"""Flag of characters that end a sentence."""

TABLE_SIZE = 0x40000
"""Number of code points in planes 0 to 3; higher planes contain no letters, and their code points have no flags."""

UNSPACED_RANGES = (
    (0x0E00, 0x0E80),  # Thai
    (0x0E80, 0x0F00),  # Lao
    (0x0F00, 0x1000),  # Tibetan
    (0x1000, 0x10A0),  # Myanmar
    (0x1780, 0x1800),  # Khmer
    (0x1950, 0x19E0),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AB0),  # Tai Tham
    (0x2E80, 0x2FE0),  # Han radicals
    (0x3005, 0x3008),  # Han iteration mark, closing mark, zero
    (0x3040, 0x3100),  # Hiragana, Katakana
    (0x31F0, 0x3200),  # Katakana extension
    (0x3400, 0x4DC0),  # Han extension A
    (0x4E00, 0xA000),  # Han
    (0xA9E0, 0xAA00),  # Myanmar extension B
    (0xAA60, 0xAAE0),  # Myanmar extension A, Tai Viet
    (0xF900, 0xFB00),  # Han compatibility
    (0xFF66, 0xFF9E),  # Katakana, half width
    (0x1B000, 0x1B170),  # Kana supplements
    (0x20000, 0x323B0),  # Han extensions B to H
)
"""Half-open ranges of code points of scripts without spaces, in which `segmentation` finds words."""

# fmt: off
TERMINAL_RANGES = (
    (0x21, 0x22), (0x2E, 0x2F), (0x3F, 0x40), (0x589, 0x58A), (0x61D, 0x620), (0x6D4, 0x6D5), (0x700, 0x703),
    (0x7F9, 0x7FA), (0x837, 0x838), (0x839, 0x83A), (0x83D, 0x83F), (0x964, 0x966), (0x104A, 0x104C),
    (0x1362, 0x1363), (0x1367, 0x1369), (0x166E, 0x166F), (0x1735, 0x1737), (0x17D4, 0x17D7), (0x17D9, 0x17DB),
    (0x1803, 0x1804), (0x1809, 0x180A), (0x1944, 0x1946), (0x1AA8, 0x1AAC), (0x1B5A, 0x1B5C), (0x1B5E, 0x1B60),
    (0x1B7D, 0x1B7F), (0x1C3B, 0x1C3D), (0x1C7E, 0x1C80), (0x203C, 0x203E), (0x2047, 0x204A), (0x2E2E, 0x2E2F),
    (0x2E3C, 0x2E3D), (0x2E53, 0x2E55), (0x3002, 0x3003), (0xA4FF, 0xA500), (0xA60E, 0xA610), (0xA6F3, 0xA6F4),
    (0xA6F7, 0xA6F8), (0xA876, 0xA878), (0xA8CE, 0xA8D0), (0xA92F, 0xA930), (0xA9C8, 0xA9CA), (0xAA5D, 0xAA60),
    (0xAAF0, 0xAAF2), (0xABEB, 0xABEC), (0xFE52, 0xFE53), (0xFE56, 0xFE58), (0xFF01, 0xFF02), (0xFF0E, 0xFF0F),
    (0xFF1F, 0xFF20), (0xFF61, 0xFF62), (0x10A56, 0x10A58), (0x10F55, 0x10F5A), (0x10F86, 0x10F8A),
    (0x11047, 0x11049), (0x110BE, 0x110C2), (0x11141, 0x11144), (0x111C5, 0x111C7), (0x111CD, 0x111CE),
    (0x111DE, 0x111E0), (0x11238, 0x1123A), (0x1123B, 0x1123D), (0x112A9, 0x112AA), (0x1144B, 0x1144D),
    (0x115C2, 0x115C4), (0x115C9, 0x115D8), (0x11641, 0x11643), (0x1173C, 0x1173F), (0x11944, 0x11945),
    (0x11946, 0x11947), (0x11A42, 0x11A44), (0x11A9B, 0x11A9D), (0x11C41, 0x11C43), (0x11EF7, 0x11EF9),
    (0x11F43, 0x11F45), (0x16A6E, 0x16A70), (0x16AF5, 0x16AF6), (0x16B37, 0x16B39), (0x16B44, 0x16B45),
    (0x16E98, 0x16E99), (0x1BC9F, 0x1BCA0), (0x1DA88, 0x1DA89),
)
# fmt: on
"""Half-open ranges of code points that end a sentence: Unicode's property Sentence_Terminal, as FineWeb's code
(datatrove 0.10, utils/text.py, TERMINAL_PUNCTUATION) has it."""

UNSPACED_LANGUAGES = ("bo", "dz", "ja", "km", "lo", "my", "shn", "th", "wuu", "yue", "zh")
"""ISO 639 codes of languages written in these scripts, as fastText's lid.176 names them."""
UNDIVIDED_LANGUAGES = ("bo", "dz", "lo", "my", "shn")
"""Those of them without a model in `segmentation`: each letter is taken for a word."""


@lru_cache(maxsize=1)
def character_flags() -> npt.NDArray[np.uint8]:
    """Return the flags of each code point: `uint8[TABLE_SIZE]`, built in about 40 ms on first use."""
    by_category = {"L": LETTER, "N": NUMBER, "M": MARK}
    category = unicodedata.category
    flags = np.fromiter(
        (by_category.get(category(chr(point))[0], 0) for point in range(TABLE_SIZE)), dtype=np.uint8, count=TABLE_SIZE
    )
    for point in range(0x3001):  # the last space is U+3000
        if chr(point).isspace():
            flags[point] = SPACE
    for start, stop in UNSPACED_RANGES:
        letters = (flags[start:stop] & LETTER) != 0
        flags[start:stop][letters] |= UNSPACED
    for start, stop in TERMINAL_RANGES:
        flags[start:stop] |= TERMINAL
    flags.flags.writeable = False
    return flags


@lru_cache(maxsize=1)
def lower_case() -> npt.NDArray[np.uint32]:
    """Return the lower case of each code point, `uint32[TABLE_SIZE]`; the first character if it lowers to several."""
    lower = np.arange(TABLE_SIZE, dtype=np.uint32)
    for point in range(0x20000):  # no script above plane 1 has two cases
        lower[point] = ord(chr(point).lower()[0])
    lower.flags.writeable = False
    return lower


@inlined
def decode(data: Bytes, i: int, end: int) -> tuple[int, int]:
    """Return the code point at byte `i` and its size in bytes; an incomplete or invalid character decodes as U+FFFD of
    size 1.

    Reads no byte at or after `end`, whatever the bytes are.
    """
    # All bytes are read before any branch: numba counts references to an array that a branch uses,
    # with two locked instructions for each character.
    last = end - 1
    return _character(
        at(data, i),
        at(data, min(i + 1, last)),
        at(data, min(i + 2, last)),
        at(data, min(i + 3, last)),
        end - i,
    )


@inlined
def _character(lead: int, second: int, third: int, fourth: int, size: int) -> tuple[int, int]:
    """Decode four bytes, of which `size` are part of the text."""
    if lead < 0x80:
        return lead, 1
    if 0xC0 <= lead < 0xE0 and size > 1:
        return (lead & 0x1F) << 6 | second & 0x3F, 2
    if 0xE0 <= lead < 0xF0 and size > 2:
        return (lead & 0x0F) << 12 | (second & 0x3F) << 6 | third & 0x3F, 3
    if 0xF0 <= lead < 0xF8 and size > 3:
        return (lead & 0x07) << 18 | (second & 0x3F) << 12 | (third & 0x3F) << 6 | fourth & 0x3F, 4
    return 0xFFFD, 1


@inlined
def is_ascii_letter(byte: np.uint8) -> bool:
    return 0x61 <= (byte | 0x20) <= 0x7A


@inlined
def _continuing(eight: np.uint64) -> np.int64:
    """Return how many of eight bytes continue a character."""
    bits = (eight >> np.uint64(7)) & ~(eight >> np.uint64(6)) & EACH_BYTE
    return np.int64((bits * EACH_BYTE) >> np.uint64(56))


@part
def next_line(data: Bytes, start: int, end: int) -> tuple[int, int, bool]:
    """Return where the line ends, its number of characters without a carriage return, and whether it contains `[`."""
    stop, continuing, brackets = start, 0, np.uint64(0)
    while stop < end:
        if stop + 8 > data.shape[0]:
            byte = at(data, stop)
            if byte == 0x0A:
                break
            continuing += (byte & 0xC0) == 0x80
            brackets |= np.uint64(byte == 0x5B)
            stop += 1
            continue
        eight = load_eight(data, stop)
        size = min(end - stop, 8)
        feeds = bytes_equal(eight, 0x0A)
        if feeds:
            size = min(size, np.int64(lowest(feeds)) >> 3)
        inside = mask_of(size)
        continuing += _continuing(eight & inside)
        brackets |= bytes_equal(eight, 0x5B) & inside
        stop += size
        if size < 8:
            break
    returns = stop > start and at(data, stop - 1) == 0x0D
    return stop, stop - start - continuing - returns, brackets != 0


@part
def character_count(data: Bytes, start: int, stop: int) -> int:
    """Count the characters of bytes [start, stop)."""
    i, continuing = start, 0
    while i + 8 <= stop:
        continuing += _continuing(load_eight(data, i))
        i += 8
    while i < stop:
        continuing += (at(data, i) & 0xC0) == 0x80
        i += 1
    return stop - start - continuing


@part
def trimmed(data: Bytes, first: int, last: int, flags: Bytes) -> tuple[int, int]:
    """Return [first, last) without white space at its ends."""
    while first < last:
        point, size = decode(data, first, last)
        if point >= flags.shape[0] or (at(flags, point) & SPACE) == 0:
            break
        first += size
    while first < last:
        lead = last - 1
        while lead > first and (at(data, lead) & 0xC0) == 0x80:
            lead -= 1
        point, size = decode(data, lead, last)
        if lead + size != last or point >= flags.shape[0] or (at(flags, point) & SPACE) == 0:
            break
        last = lead
    return first, last
