"""Fingerprints that duplicates are found by: an exact hash, and MinHash over shingles of words.

**Exact hash.** xxh3, 128 bits, of the UTF-8 bytes: equal hashes mean identical texts. Copies that differ in case or
white space only are near-duplicates with a Jaccard similarity of 1.

**Unit.** A maximal run of characters without white space, in lower case, punctuation included (a changed comma is a
change of the text). If a fifth or more of the letters of a text belong to scripts without spaces, its units are
characters, in lower case, with consecutive white space as one blank. **Shingle.** `shingle_words` consecutive units, as
a 64-bit hash; a text with fewer units is one shingle; a text without units has none.

**MinHash.** The smallest value of each of bands x rows random functions over the shingles. Two texts agree in a
function's minimum with the probability of their Jaccard similarity (Broder 1997, doi:10.1109/SEQUEN.1997.666900).
Function j is the upper half of `multiplier[j] * shingle + offset[j]` modulo 2^64 (multiply-shift).

**Sample.** The distinct shingles whose hash is below 2^64 / `sample_every`: the same ones in every text that contains
them, so that a short text inside a long one can be found (`dedup/contained.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import xxhash

from data_prep.config import FingerprintConfig
from data_prep.kernels.characters import LETTER, SPACE, UNSPACED, character_flags, decode, lower_case
from data_prep.kernels.counting import sort
from data_prep.kernels.kernel import Bytes, Hashes, Places, Points, kernel, longest_text, part, read_only, scratch_size

_UNSPACED_PART = 5
_SEARCHED_RATIO = 32


def exact_hash(data: bytes | memoryview) -> bytes:
    """Return the 128-bit hash of a text's UTF-8 bytes, without normalisation."""
    return xxhash.xxh3_128_digest(data)


@lru_cache(maxsize=8)
def minhash_functions(permutations: int, seed: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return odd multipliers and offsets of the random functions, from splitmix64, so that they are the same
    everywhere."""
    values = np.empty(2 * permutations, dtype=np.uint64)
    state = seed & 0xFFFFFFFFFFFFFFFF
    for k in range(2 * permutations):
        state = (state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        values[k] = mixed ^ (mixed >> 31)
    multipliers, offsets = values[:permutations] | np.uint64(1), values[permutations:].copy()
    multipliers.flags.writeable = offsets.flags.writeable = False
    return multipliers, offsets


@part
def _is_unspaced(data: Bytes, begin: int, end: int, flags: Bytes) -> bool:
    """Return whether a fifth of the letters belong to scripts without spaces, which begin at U+0E00, so with byte
    E0."""
    letters, unspaced = 0, 0
    i = begin
    while i < end and data[i] < 0xE0:
        i += 1
    if i == end:
        return False
    i = begin
    while i < end:
        point, size = decode(data, i, end)
        if point < flags.shape[0]:
            letters += (flags[point] & LETTER) != 0
            unspaced += (flags[point] & UNSPACED) != 0
        i += size
    return unspaced * _UNSPACED_PART >= letters and unspaced > 0


@kernel
def _shingle(
    data: Bytes,
    begin: int,
    end: int,
    shingle_words: int,
    flags: Bytes,
    lower: Points,
    units: Hashes,
    shingles: Hashes,
) -> int:
    """Fill the shingles of a document, including repeated ones; return their number. `units` is scratch."""
    by_character = _is_unspaced(data, begin, end, flags)
    count = 0
    in_word = False
    value = np.uint64(0)
    i = begin
    while i < end:
        if data[i] < 0x80:  # a predictable branch, which does not depend on the size from `decode`
            point = np.int64(data[i])
            i += 1
        else:
            point, size = decode(data, i, end)
            i += size
        if point < flags.shape[0] and (flags[point] & SPACE) != 0:
            if in_word:
                in_word = False
                if by_character:
                    value = np.uint64(0x20)
                units[count] = value
                count += 1
            continue
        folded = np.uint64(lower[point]) if point < lower.shape[0] else np.uint64(point)
        if by_character:
            units[count] = folded
            count += 1
        elif in_word:
            value = (value ^ folded) * np.uint64(0x00000100000001B3)
        else:
            value = (np.uint64(0xCBF29CE484222325) ^ folded) * np.uint64(0x00000100000001B3)
        in_word = True
    if in_word and not by_character:
        units[count] = value
        count += 1
    elif by_character and not in_word and count:
        count -= 1  # the blank at the end
    if count == 0:
        return 0
    length = min(count, shingle_words)
    for first in range(count - length + 1):
        value = np.uint64(length)
        for k in range(first, first + length):
            unit = (units[k] ^ (units[k] >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
            unit ^= unit >> np.uint64(32)
            value = (value ^ (value >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15) + unit
        value ^= value >> np.uint64(32)
        value *= np.uint64(0xD6E8FEB86659FD93)
        value ^= value >> np.uint64(32)
        shingles[first] = value | np.uint64(1)  # 0 marks an empty slot below
    return count - length + 1


@part
def _distinct(
    shingles: Hashes,
    found: int,
    table: Hashes,
    multipliers: Hashes,
    additions: Hashes,
    smallest: Hashes,
) -> int:
    """Remove repeats from shingles[:found], in order, and fill the minima; return the number of distinct ones. `table`
    is scratch."""
    used = np.int64(4)
    while used < 2 * found:
        used *= 2
    for slot in range(used):
        table[slot] = np.uint64(0)
    for j in range(smallest.shape[0]):
        smallest[j] = np.uint64(0xFFFFFFFF)
    distinct = 0
    for k in range(found):
        shingle = shingles[k]
        slot = np.int64(shingle >> np.uint64(20)) & (used - 1)
        while table[slot] != shingle and table[slot] != np.uint64(0):
            slot = (slot + 1) & (used - 1)
        if table[slot] == np.uint64(0):
            table[slot] = shingle
            shingles[distinct] = shingle
            distinct += 1
            for j in range(smallest.shape[0]):
                value = (multipliers[j] * shingle + additions[j]) >> np.uint64(32)
                smallest[j] = value if value < smallest[j] else smallest[j]
    return distinct


@kernel
def _fingerprint_documents(
    data: Bytes,
    offsets: Places,
    shingle_words: int,
    flags: Bytes,
    lower: Points,
    functions: tuple[Hashes, Hashes],
    sampled_below: np.uint64,
    room: int,
    counts: Places,
    minima: npt.NDArray[np.uint32],
    samples: Hashes,
    sample_bounds: Places,
) -> None:
    multipliers, additions = functions
    units, shingles, table = np.empty(room, np.uint64), np.empty(room, np.uint64), np.empty(4 * room, np.uint64)
    smallest = np.empty(multipliers.shape[0], np.uint64)
    for d in range(counts.shape[0]):
        found = _shingle(data, offsets[d], offsets[d + 1], shingle_words, flags, lower, units, shingles)
        distinct = _distinct(shingles, found, table, multipliers, additions, smallest)
        sampled = sample_bounds[d]
        for k in range(distinct):
            if shingles[k] < sampled_below:
                samples[sampled] = shingles[k]
                sampled += 1
        counts[d] = distinct
        sort(samples, sample_bounds[d], sampled)
        sample_bounds[d + 1] = sampled
        for j in range(multipliers.shape[0]):
            minima[d, j] = np.uint32(smallest[j])


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints of documents."""

    counts: npt.NDArray[np.int64]
    """Number of distinct shingles of each document."""
    minima: npt.NDArray[np.uint32]
    """`uint32[documents, permutations]`; all 2^32 - 1, and meaningless, for a document without shingles."""
    samples: npt.NDArray[np.uint64]
    sample_bounds: npt.NDArray[np.int64]
    """The sample of document d is samples[sample_bounds[d] : sample_bounds[d + 1]], ascending."""


def fingerprint_text(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    settings: FingerprintConfig,
) -> Fingerprints:
    """Compute shingle counts, MinHash signatures and samples of documents, concatenated as in an Arrow string column.

    Args:
        data: UTF-8 bytes of all documents.
        offsets: document d is bytes [offsets[d], offsets[d + 1]).
    """
    counts = np.zeros(len(offsets) - 1, dtype=np.int64)
    minima = np.empty((len(offsets) - 1, settings.permutations), dtype=np.uint32)
    samples = np.empty(int(offsets[-1] - offsets[0]) + len(counts), dtype=np.uint64)  # mostly untouched
    sample_bounds = np.zeros(len(offsets), dtype=np.int64)
    _fingerprint_documents(
        read_only(data),
        read_only(offsets),
        settings.shingle_words,
        character_flags(),
        lower_case(),
        minhash_functions(settings.permutations, settings.seed),
        np.uint64((2**64 - 1) // settings.sample_every),
        scratch_size(longest_text(offsets)),
        counts,
        minima,
        samples,
        sample_bounds,
    )
    return Fingerprints(counts, minima, samples[: sample_bounds[-1]].copy(), sample_bounds)


def shingle_set(data: bytes, shingle_words: int) -> npt.NDArray[np.uint64]:
    """Return the distinct shingles of a text, sorted: the hashes that signatures are minima of."""
    units, shingles = np.empty(scratch_size(len(data)), np.uint64), np.empty(scratch_size(len(data)), np.uint64)
    view = read_only(np.frombuffer(data, dtype=np.uint8))
    found = _shingle(view, 0, len(data), shingle_words, character_flags(), lower_case(), units, shingles)
    return np.unique(shingles[:found])


@kernel
def shared_shingles(a: Hashes, b: Hashes) -> int:
    """Count the values that two sorted arrays without repeats have in common."""
    i, j, shared = 0, 0, 0
    if len(a) > len(b):
        a, b = b, a
    if len(a) * _SEARCHED_RATIO < len(b):  # such as a page and a book: binary search for each value
        for i in range(len(a)):
            beyond = len(b)
            while j < beyond:
                middle = (j + beyond) // 2
                if b[middle] < a[i]:
                    j = middle + 1
                else:
                    beyond = middle
            if j == len(b):
                break
            shared += b[j] == a[i]
        return shared
    while i < len(a) and j < len(b):
        x, y = a[i], b[j]
        shared += x == y
        i += x <= y
        j += y <= x
    return shared


def jaccard(a: npt.NDArray[np.uint64], b: npt.NDArray[np.uint64]) -> float:
    """Return the exact Jaccard similarity of two shingle sets, 0 to 1; 0 for two empty sets, which have nothing in
    common."""
    shared = int(shared_shingles(read_only(a), read_only(b)))
    union = len(a) + len(b) - shared
    return shared / union if union else 0.0
