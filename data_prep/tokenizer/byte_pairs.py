"""Byte-pair encoding without merging, compiled: the tokens of a piece are the one way to cover it in which no two
neighbours would have been merged otherwise.

Merging takes, again and again, the leftmost pair of the lowest rank. Look at two tokens side by side in the result, and
at what was merged inside of the two: each was the lowest of all pairs, so of theirs too, and the same two tokens alone
are merged in the same order to the same end. The other way round, if of each two neighbours it is true that together
they are merged into just these two, then no merge of the whole can be the first to cross a bound between tokens: it
would cross in those two alone. So a piece is encoded by finding tokens of which each two neighbours *fit*, in any order
of search, and there is only one such way.

The search takes the longest entry that begins at a place, then shorter ones, and goes back where none is left. Whether
two tokens fit is read off how each came about: undo what was merged last, and ask at every step whether the pair at the
bound had a lower rank than what was merged there instead. That holds if the merges of every entry, in the order in
which they are made, have rising ranks; a vocabulary in which that is not so is refused.

Pieces that were met before are remembered, and compared byte by byte. Everything is exact.

Sources: Berglund and van der Merwe 2023, "Formalizing BPE Tokenization", arXiv:2309.08715, for the definitions; that
valid neighbours are enough, and the search: Antwerpen and Neubeck 2024, the crate `bpe`, github.com/github/rust-gems.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from data_prep.machine_words import at, load_eight, lowest, mask_of, prefetch, store_eight
from data_prep.tokenizer.trie import ENTRY_BITS, SLOT_BITS

MEMORY_SETS = 1 << 18
"""Sets of two remembered pieces; a set takes 64 bytes, a line of the processor's cache."""
_REMEMBERED_BYTES = 15
_REMEMBERED_TOKENS = 4

LONG_MEMORY_SLOTS = 1 << 16
"""Remembered pieces that a set of the other memory has no room for; a slot takes two lines of the cache."""
_LONG_BYTES = 56
_LONG_WORDS = _LONG_BYTES // 8
_LONG_TOKENS = 16

_PIECES = 320
"""Ends of pieces that are found at a time, and sets that are on their way from memory."""

_KEPT = np.array(
    [[(1 << 8 * max(0, min(n - k, 8))) - 1 for k in (0, 8)] for n in range(_REMEMBERED_BYTES + 2)], np.uint64
)
"""By the length of a piece, the bits of its first eight bytes and of the next ones."""

RANK_BITS = 24
_FILTER_SHARE = 8
"""Bits of the filter for each pair."""

_LIMIT = 1 << (RANK_BITS + 1)
"""Above all ranks."""

UNREACHABLE, IRREGULAR = -1, -2
"""Of an entry: its own text is encoded otherwise; its merges have ranks that do not rise."""


@numba.njit(nogil=True, cache=True, inline="always")
def _scatter(left: int, right: int) -> np.uint64:
    return np.uint64(left << ENTRY_BITS | right) * np.uint64(0x9E3779B97F4A7C15)


def pair_table(pairs: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """A hash table of the merges, and a filter that says of most other pairs that they are not in it.

    Args:
        pairs: [merges, 2], entries of the two sides, in order of rank.

    Returns:
        table, [slots]: left 20 bits | right 20 bits | rank + 1: 24 bits; 0 where there is nothing.
        filter, [bits // 64]: a bit for each hash of a pair in the table.
    """
    bits = max(6, len(pairs).bit_length())
    table = np.zeros(1 << (bits + 2), np.int64)
    filter_ = np.zeros((_FILTER_SHARE << bits) // 64, np.uint64)
    _fill_pairs(pairs, table, filter_)
    return table, filter_


@numba.njit(nogil=True, cache=True, inline="always")
def _bits_of(size: int) -> np.uint64:
    """By how much a hash is shifted to be below `size`, a power of two."""
    bits = 0
    while 1 << bits < size:
        bits += 1
    return np.uint64(64 - bits)


@numba.njit(nogil=True, cache=True)
def _fill_pairs(pairs: npt.NDArray[np.int64], table: npt.NDArray[np.int64], filter_: npt.NDArray[np.uint64]) -> None:
    shift, filter_shift = _bits_of(len(table)), _bits_of(64 * len(filter_))
    for rank in range(len(pairs)):
        scattered = _scatter(pairs[rank, 0], pairs[rank, 1])
        bit = scattered >> filter_shift
        filter_[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))
        key = pairs[rank, 0] << ENTRY_BITS | pairs[rank, 1]
        slot = scattered >> shift
        while table[slot] != 0 and table[slot] >> RANK_BITS != key:
            slot = (slot + np.uint64(1)) & np.uint64(len(table) - 1)
        table[slot] = key << RANK_BITS | (rank + 1)


@numba.njit(nogil=True, cache=True, inline="always")
def _rank(
    left: int,
    right: int,
    table: npt.NDArray[np.int64],
    shift: np.uint64,
    filter_: npt.NDArray[np.uint64],
    filter_shift: np.uint64,
) -> int:
    """Rank + 1 of a pair, or `_LIMIT`."""
    scattered = _scatter(left, right)
    bit = scattered >> filter_shift
    found = np.int64(_LIMIT)
    if filter_[bit >> np.uint64(6)] >> (bit & np.uint64(63)) & np.uint64(1):
        key = np.int64(left) << ENTRY_BITS | np.int64(right)
        slot = scattered >> shift
        while table[slot] != 0:
            if table[slot] >> RANK_BITS == key:
                found = table[slot] & ((1 << RANK_BITS) - 1)
                break
            slot = (slot + np.uint64(1)) & np.uint64(len(table) - 1)
    return found


@numba.njit(nogil=True, cache=True)
def derive(
    symbols: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    entries: npt.NDArray[np.int64],
    merged: npt.NDArray[np.int64],
    table: npt.NDArray[np.int64],
    filter_: npt.NDArray[np.uint64],
    origins: npt.NDArray[np.int64],
) -> None:
    """How each entry comes about when its own text is encoded, by merging.

    Args:
        symbols: what the entries' texts begin as, one after another; ends: where each ends; entries: their ids.
        merged: [merges], what each pair becomes. table, filter_: see `pair_table`.
        origins: filled, [vocabulary]. Rank + 1 of the last merge 24 bits | its left side 20 bits | its right side 20
            bits; 0 of what is a symbol itself; or `UNREACHABLE` or `IRREGULAR`.
    """
    shift, filter_shift = _bits_of(len(table)), _bits_of(64 * len(filter_))
    start = 0
    for k in range(len(entries)):
        held = symbols[start : ends[k]].copy()
        start = ends[k]
        count, highest, rises, last = len(held), 0, True, np.int64(0)
        while count > 1:
            best, place = np.int64(_LIMIT), 0
            for i in range(count - 1):
                rank = _rank(held[i], held[i + 1], table, shift, filter_, filter_shift)
                if rank < best:
                    best, place = rank, i
            if best == _LIMIT:
                break
            rises = rises and best >= highest
            highest = best
            last = best << (2 * ENTRY_BITS) | held[place] << ENTRY_BITS | held[place + 1]
            held[place] = merged[best - 1]
            count -= 1
            for i in range(place + 1, count):
                held[i] = held[i + 1]
        if count > 1 or held[0] != entries[k]:
            origins[entries[k]] = UNREACHABLE
        else:
            origins[entries[k]] = last if rises else IRREGULAR


@numba.njit(nogil=True, cache=True, inline="always")
def _fit(
    one: int,
    two: int,
    origins: npt.NDArray[np.int64],
    table: npt.NDArray[np.int64],
    shift: np.uint64,
    filter_: npt.NDArray[np.uint64],
    filter_shift: np.uint64,
) -> bool:
    """Whether the texts of two tokens, one behind the other, are encoded as these two."""
    low = (1 << ENTRY_BITS) - 1
    limit = np.int64(_LIMIT)  # rank + 1 of what was merged in place of the pair, or one more where that stood behind it
    origin_one, origin_two = at(origins, one), at(origins, two)
    while True:
        if _rank(one, two, table, shift, filter_, filter_shift) < limit:
            return False
        made_one, made_two = origin_one >> (2 * ENTRY_BITS), origin_two >> (2 * ENTRY_BITS)
        if made_one > made_two:
            limit = made_one
            one = origin_one & low
            origin_one = at(origins, one)
        elif made_two > 0:
            limit = made_two + 1
            two = origin_two >> ENTRY_BITS & low
            origin_two = at(origins, two)
        else:
            return True


@numba.njit(nogil=True, cache=True, inline="always")
def _longest(start: int, stop: int, data: npt.NDArray[np.uint8], trie: npt.NDArray[np.uint64]) -> int:
    """The longest entry that bytes [start, stop) begin with, or -1."""
    slot = np.uint64(0)
    word = trie[0]
    found = -1
    for i in range(start, stop):
        child = word >> np.uint64(ENTRY_BITS) & np.uint64((1 << SLOT_BITS) - 1) ^ np.uint64(at(data, i))
        word = trie[child]
        if word >> np.uint64(ENTRY_BITS + SLOT_BITS) != slot:
            break
        slot = child
        entry = np.int64(word & np.uint64((1 << ENTRY_BITS) - 1)) - 1
        if entry >= 0:
            found = entry
    return found


@numba.njit(nogil=True, cache=True)
def prefixes(
    flat: npt.NDArray[np.uint8],
    ends: npt.NDArray[np.int64],
    entries: npt.NDArray[np.int64],
    trie: npt.NDArray[np.uint64],
    shorter: npt.NDArray[np.int32],
) -> None:
    """Fill `shorter`, [vocabulary]: the longest other entry that each one begins with, or -1."""
    start = 0
    for k in range(len(entries)):
        shorter[entries[k]] = _longest(start, ends[k] - 1, flat, trie)
        start = ends[k]


@numba.njit(nogil=True, cache=True, inline="always")
def _gather(data: npt.NDArray[np.uint8], start: int, length: int, held: npt.NDArray[np.uint64]) -> np.uint64:
    """Fill `held` with `length` bytes and zeros behind them; returns a hash of them."""
    scattered = np.uint64(length)
    full = length >> 3
    for k in range(_LONG_WORDS):
        word = np.uint64(0)
        if k < full:
            word = load_eight(data, start + 8 * k)
        elif k == full and length & 7:
            word = load_eight(data, start + 8 * k) & mask_of(length & 7)
        held[k] = word
        scattered = (scattered ^ word) * np.uint64(0x9E3779B97F4A7C15)
        scattered ^= scattered >> np.uint64(32)
    return scattered * np.uint64(0xC2B2AE3D27D4EB4F)


@numba.njit(nogil=True, cache=True, inline="always")
def _holds(long_memory: npt.NDArray[np.uint64], place: np.uint64, held: npt.NDArray[np.uint64]) -> bool:
    differs = np.uint64(0)
    for k in range(_LONG_WORDS):
        differs |= long_memory[place, k] ^ held[k]
    return differs == np.uint64(0)


@numba.njit(nogil=True, cache=True)
def encode_documents(
    data: npt.NDArray[np.uint8],
    bounds: npt.NDArray[np.int64],
    starts: npt.NDArray[np.uint64],
    end_of_document: int,
    byte_tokens: npt.NDArray[np.int64],
    trie: npt.NDArray[np.uint64],
    lengths: npt.NDArray[np.int32],
    shorter: npt.NDArray[np.int32],
    origins: npt.NDArray[np.int64],
    table: npt.NDArray[np.int64],
    filter_: npt.NDArray[np.uint64],
    memory: npt.NDArray[np.uint64],
    long_memory: npt.NDArray[np.uint64],
    tokens: npt.NDArray[np.uint32],
    sizes: npt.NDArray[np.int64],
) -> int:
    """Encode documents, an end-of-document token behind each.

    Args:
        data: valid UTF-8 and at least 64 bytes more. bounds: where each document begins and ends, [documents, 2].
        starts: where pieces begin, see `pieces`.
        byte_tokens: of each byte, for characters that no entry begins with.
        trie: of the reachable entries; lengths: their bytes; shorter: see `prefixes`; origins: see `derive`.
        table, filter_: see `pair_table`.
        memory: [sets, 8], zeros at first. Of each of two pieces: 15 bytes, their number (4 bits) and that of tokens
            less one (2 bits) in two numbers, and four tokens in two numbers.
        long_memory: [slots, 16], zeros at first. Of one piece: 56 bytes, their number and (from bit 8 on) that of
            tokens, and sixteen tokens in eight numbers.
        tokens: filled; at least bytes + documents + 16 long. sizes: filled, one for each document.

    Returns:
        How many tokens there are; -1 if a piece could not be covered, which the tables do not allow.
    """
    one, half, low_half = np.uint64(1), np.uint64(32), np.uint64(0xFFFFFFFF)
    counts = np.uint64(3) << np.uint64(62)
    shift, filter_shift = _bits_of(len(table)), _bits_of(64 * len(filter_))
    memory_shift, long_shift = _bits_of(len(memory)), _bits_of(len(long_memory))
    held = np.zeros(_LONG_WORDS, np.uint64)
    dead = np.zeros(len(data), np.bool_)  # places that no way through a piece leads on from
    stops, places = np.empty(_PIECES, np.int64), np.empty(_PIECES, np.uint64)
    keys, key_rests = np.empty(_PIECES, np.uint64), np.empty(_PIECES, np.uint64)
    written = 0
    for document in range(len(bounds)):
        first = written
        i, end = bounds[document]
        searched = i + 1
        while i < end:
            found = 0
            while found <= _PIECES - 65 and searched < end:
                word = searched >> 6
                bits = at(starts, word) & (~np.uint64(0) << np.uint64(searched & 63))
                while bits:
                    stops[np.uint64(found)] = word * 64 + np.int64(lowest(bits))
                    bits &= bits - one
                    found += 1
                searched = (word + 1) * 64
            while found and stops[found - 1] >= end:
                found -= 1
            if searched >= end:
                stops[found] = end
                found += 1
            start = i
            for piece in range(np.uint64(found)):
                length = stops[piece] - start
                kept = np.uint64(min(length, _REMEMBERED_BYTES + 1))
                key = load_eight(data, start) & _KEPT[kept, 0]
                key_rest = load_eight(data, start + 8) & _KEPT[kept, 1] | kept << np.uint64(56)
                place = key * np.uint64(0x9E3779B97F4A7C15) ^ key_rest * np.uint64(0xC2B2AE3D27D4EB4F)
                place = (place ^ place >> half) * np.uint64(0x9E3779B97F4A7C15) >> memory_shift
                prefetch(memory, place)
                keys[piece], key_rests[piece], places[piece] = key, key_rest, place
                start = stops[piece]
            for piece in range(np.uint64(found)):
                stop = stops[piece]
                length = stop - i
                long_place = np.uint64(0)
                if length <= _REMEMBERED_BYTES:
                    key, key_rest, place = keys[piece], key_rests[piece], places[piece]
                    is_first = (memory[place, 0] == key) & (memory[place, 1] & ~counts == key_rest)
                    is_second = (memory[place, 4] == key) & (memory[place, 5] & ~counts == key_rest)
                    if is_first | is_second:
                        way = np.uint64(4) * np.uint64(is_second)
                        # All four are copied; what is too much is written over.
                        store_eight(tokens, written, memory[place, way + np.uint64(2)])
                        store_eight(tokens, written + 2, memory[place, way + np.uint64(3)])
                        written += np.int64(memory[place, way + one] >> np.uint64(62)) + 1
                        i = stop
                        continue
                if length <= _LONG_BYTES:
                    long_place = _gather(data, i, length, held) >> long_shift
                    size = long_memory[long_place, _LONG_WORDS]
                    if size & np.uint64(0xFF) == np.uint64(length) and _holds(long_memory, long_place, held):
                        count = np.int64(size >> np.uint64(8))
                        for k in range((count + 1) // 2):
                            pair = long_memory[long_place, _LONG_WORDS + 1 + k]
                            tokens[np.uint64(written + 2 * k)] = pair & low_half
                            tokens[np.uint64(written + 2 * k + 1)] = pair >> half
                        written += count
                        i = stop
                        continue
                bottom = before = written
                last = -1
                token = _longest(i, stop, data, trie)
                while i < stop:
                    if token < 0 and _longest(i, stop, data, trie) < 0:
                        # A character without an entry: no merge goes beyond it.
                        tokens[np.uint64(written)] = at(byte_tokens, at(data, i))
                        written += 1
                        i += 1
                        while i < stop and at(data, i) & 0xC0 == 0x80:
                            tokens[np.uint64(written)] = at(byte_tokens, at(data, i))
                            written += 1
                            i += 1
                        bottom, last = written, -1
                        token = _longest(i, stop, data, trie)
                        continue
                    while token >= 0 and (
                        at(dead, i + at(lengths, token))
                        or (last >= 0 and not _fit(last, token, origins, table, shift, filter_, filter_shift))
                    ):
                        token = np.int64(at(shorter, token))
                    if token >= 0:
                        tokens[np.uint64(written)] = token
                        written += 1
                        i += at(lengths, token)
                        last = token
                        token = _longest(i, stop, data, trie)
                    elif written == bottom:
                        return -1
                    else:
                        dead[np.uint64(i)] = True
                        written -= 1
                        gone = np.int64(at(tokens, written))
                        i -= at(lengths, gone)
                        last = np.int64(at(tokens, written - 1)) if written > bottom else -1
                        token = np.int64(at(shorter, gone))
                count = written - before
                if length <= _REMEMBERED_BYTES and count <= _REMEMBERED_TOKENS:
                    # The newer of a set stands first, the older one is forgotten.
                    place = places[piece]
                    for k in range(4):
                        memory[place, 4 + k] = memory[place, k]
                    for k in range(count, _REMEMBERED_TOKENS):
                        tokens[np.uint64(written + k - count)] = 0
                    memory[place, 0] = keys[piece]
                    memory[place, 1] = key_rests[piece] | np.uint64(count - 1) << np.uint64(62)
                    memory[place, 2] = np.uint64(at(tokens, before)) | np.uint64(at(tokens, before + 1)) << half
                    memory[place, 3] = np.uint64(at(tokens, before + 2)) | np.uint64(at(tokens, before + 3)) << half
                elif length <= _LONG_BYTES and count <= _LONG_TOKENS:
                    for k in range(_LONG_WORDS):
                        long_memory[long_place, k] = held[k]
                    long_memory[long_place, _LONG_WORDS] = np.uint64(count << 8 | length)
                    tokens[np.uint64(written)] = 0
                    for k in range((count + 1) // 2):
                        pair = np.uint64(at(tokens, before + 2 * k)) | np.uint64(at(tokens, before + 2 * k + 1)) << half
                        long_memory[long_place, _LONG_WORDS + 1 + k] = pair
        tokens[np.uint64(written)] = end_of_document
        written += 1
        sizes[document] = written - first
    return written
