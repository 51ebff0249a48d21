"""Byte-pair encoding, compiled: merge, again and again, the leftmost pair of the lowest rank.

Pieces that were met before are remembered, and compared byte by byte. A few hundred are looked up at a time, while
their places are on the way from memory. Those that are new are merged by turns, a step of one and a step of the next:
a step waits for tables most of its time, and the processor goes on with other pieces meanwhile. Everything is exact.

Source: Sennrich, Haddow and Birch 2016, "Neural Machine Translation of Rare Words with Subword Units",
arXiv:1508.07909, section 3.2, for the merging.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.kernels.kernel import Bytes, Hashes, Places, Points, allocating_part, inlined, kernel, part
from data_prep.kernels.machine_words import (
    at,
    highest,
    load_eight,
    lowest,
    mask_of,
    prefetch,
    smallest_of_64,
    store_eight,
)
from data_prep.tokenizer.encoding.pieces import code_point

ENTRY_BITS = 20
RANK_BITS = 24
"""Bits of an entry's id and of a merge's rank."""

MEMORY_SETS = 1 << 19
"""Sets of two remembered pieces, or of one with many tokens; a set takes 64 bytes, a line of the processor's cache."""
REMEMBERED_BYTES = 15
_REMEMBERED_TOKENS = 4
_WIDE_TOKENS = 12
"""Of a piece that takes a set of its own."""

LONG_MEMORY_SLOTS = 1 << 17
"""Remembered pieces that a set of the other memory has no room for; a slot takes two lines of the cache."""
_LONG_BYTES = 56
_LONG_WORDS = _LONG_BYTES // 8
_LONG_TOKENS = 16

_PIECES = 128
"""Pieces that are looked up at a time."""
_LANES = 4
"""Pieces that are merged by turns."""
_POSITIONS = 64
"""Of a lane: symbols of a piece, and one at either end that no merge takes."""

_KEPT = np.array(
    [[(1 << 8 * max(0, min(n - k, 8))) - 1 for k in (0, 8)] for n in range(REMEMBERED_BYTES + 1)], np.uint64
)
"""By the length of a piece, the bits of its first eight bytes and of the next ones."""

_GROUP_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_NO_RANK = (1 << RANK_BITS) - 1
"""Of a pair that is not merged."""
_PAIRS_OF_A_GROUP = 4
_EMPTY = (1 << 64) - 1
_EDGE = (1 << ENTRY_BITS) - 1
"""An entry that stands in no pair."""


def pair_table(pairs: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """A hash table of the merges in which each pair has a slot of its own, so that one look is enough.

    Source: Belazzougui, Botelho and Dietzfelbinger 2009, "Hash, displace, and compress", section 3: pairs are divided
    into groups, and a number is found for each group, the largest first, that sends its pairs to free slots.

    Args:
        pairs: [merges, 2], entries of the two sides, in order of rank, no two alike.

    Returns:
        table, a ninth larger than needed: left 20 bits | right 20 bits | rank 24 bits, or all bits set.
        numbers, [groups, a power of two].
    """
    groups = 64
    while groups < len(pairs) // _PAIRS_OF_A_GROUP:
        groups *= 2
    numbers = np.zeros(groups, np.uint32)
    table = np.full(len(pairs) * 10 // 9 + 16, _EMPTY, np.uint64)
    keys = (pairs[:, 0] << ENTRY_BITS | pairs[:, 1]).astype(np.uint64)
    group_of = (keys * _GROUP_FACTOR >> np.uint64(32) & np.uint64(groups - 1)).astype(np.int64)
    sizes = np.bincount(group_of, minlength=groups)
    ranks = np.argsort(group_of, kind="stable")
    _place_pairs(keys, ranks, np.cumsum(sizes) - sizes, sizes, np.argsort(-sizes, kind="stable"), table, numbers)
    return table, numbers


@kernel
def _place_pairs(
    keys: Hashes, ranks: Places, firsts: Places, sizes: Places, order: Places, table: Hashes, numbers: Points
) -> None:
    """Fill table and numbers in this order of groups; group g is ranks[firsts[g] : firsts[g] + sizes[g]]."""
    slots = np.empty(keys.shape[0], np.int64)
    for group in order:
        first, number, placed = firsts[group], np.uint32(0), 0
        while placed < sizes[group]:
            rank = ranks[first + placed]
            slot = _slot(keys[rank], number, table)
            if table[slot] == np.uint64(_EMPTY):
                table[slot] = keys[rank] << np.uint64(RANK_BITS) | np.uint64(rank)
                slots[placed] = slot
                placed += 1
            else:
                for k in range(placed):
                    table[slots[k]] = np.uint64(_EMPTY)
                number, placed = np.uint32(number + np.uint32(1)), 0
        numbers[group] = number


@inlined
def _group(pair: np.uint64, numbers: npt.NDArray[np.uint32]) -> np.uint64:
    return (pair * _GROUP_FACTOR >> np.uint64(32)) & np.uint64(len(numbers) - 1)


@inlined
def _slot(pair: np.uint64, number: np.uint32, table: npt.NDArray[np.uint64]) -> np.uint64:
    scattered = (pair ^ np.uint64(number) * np.uint64(0xD6E8FEB86659FD93)) * np.uint64(0xC2B2AE3D27D4EB4F)
    return (scattered >> np.uint64(32)) * np.uint64(len(table)) >> np.uint64(32)


@inlined
def _bits_of(slots: int) -> np.uint64:
    """By how many bits a hash is shifted to be a slot."""
    return np.uint64(64) - lowest(np.uint64(slots))


@inlined
def _rank(
    left: np.uint64, right: np.uint64, table: npt.NDArray[np.uint64], numbers: npt.NDArray[np.uint32]
) -> np.uint64:
    """Rank of a pair, or `_NO_RANK`."""
    pair = left << np.uint64(ENTRY_BITS) | right
    entry = table[_slot(pair, numbers[_group(pair, numbers)], table)]
    rank = entry & np.uint64(_NO_RANK)
    return rank if entry >> np.uint64(RANK_BITS) == pair else np.uint64(_NO_RANK)


@inlined
def _spell(
    start: int,
    stop: int,
    data: npt.NDArray[np.uint8],
    pages: npt.NDArray[np.int32],
    characters: npt.NDArray[np.int32],
    byte_tokens: npt.NDArray[np.int32],
    symbols: npt.NDArray[np.uint32],
    first: int,
) -> int:
    """Write what bytes [start, stop) begin as, before anything is merged, from `symbols[first]` on; how many."""
    i, place = start, np.uint64(first)
    while i < stop:
        code, size = code_point(load_eight(data, i))
        token = at(characters, np.int64(at(pages, code >> 8)) << 8 | code & 0xFF)
        if token >= 0:
            symbols[place] = token
            place += np.uint64(1)
            i += size
        else:
            for _ in range(size):
                symbols[place] = at(byte_tokens, at(data, i))
                place += np.uint64(1)
                i += 1
    return np.int64(place) - first


@inlined
def _lowest_of_block(keys: npt.NDArray[np.uint64], first: int) -> np.uint64:
    found = keys[np.uint64(first)]
    for k in range(1, 64):
        found = min(found, keys[np.uint64(first + k)])
    return found


@inlined
def _key(
    i: int,
    behind: int,
    symbols: npt.NDArray[np.uint32],
    table: npt.NDArray[np.uint64],
    numbers: npt.NDArray[np.uint32],
) -> np.uint64:
    rank = _rank(np.uint64(symbols[i]), np.uint64(symbols[behind]), table, numbers)
    return rank << np.uint64(40) | np.uint64(i) if rank != np.uint64(_NO_RANK) else np.uint64(_EMPTY)


@allocating_part
def _merge_many(
    symbols: npt.NDArray[np.uint32],
    count: int,
    table: npt.NDArray[np.uint64],
    numbers: npt.NDArray[np.uint32],
    merged: npt.NDArray[np.uint32],
) -> int:
    """Merge the first `count` symbols in place; how many are left.

    Of every 64 pairs the lowest is kept, and of every 64 of those, until there are no more than 64.
    """
    nothing = np.uint64(_EMPTY)
    firsts, size, room = [0], count, (count + 63) // 64 * 64
    while size > 64:
        size = (size + 63) // 64
        firsts.append(room)
        room += (size + 63) // 64 * 64
    keys = np.full(room, nothing, np.uint64)  # rank 24 bits | place 40 bits
    for i in range(count - 1):
        keys[i] = _key(i, i + 1, symbols, table, numbers)
    for level in range(1, len(firsts)):
        for block in range((firsts[level] - firsts[level - 1]) // 64):
            keys[firsts[level] + block] = _lowest_of_block(keys, firsts[level - 1] + 64 * block)
    before, behind = np.arange(count) - 1, np.arange(count) + 1
    while True:
        best = _lowest_of_block(keys, firsts[-1])
        if best == nothing:
            break
        i = np.int64(best & np.uint64((1 << 40) - 1))
        symbols[i] = merged[best >> np.uint64(40)]
        gone, left = behind[i], max(before[i], 0)
        behind[i] = right = behind[gone]
        keys[gone] = keys[i] = nothing
        if right < count:
            before[right] = i
            keys[i] = _key(i, right, symbols, table, numbers)
        if left < i:
            keys[left] = _key(left, i, symbols, table, numbers)
        for level in range(1, len(firsts)):
            left, gone = left >> 6, gone >> 6
            for block in range(left, gone + 1):
                keys[firsts[level] + block] = _lowest_of_block(keys, firsts[level - 1] + 64 * block)
    kept, i = 0, 0
    while i < count:
        symbols[kept] = symbols[i]
        kept += 1
        i = behind[i]
    return kept


@inlined
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


@inlined
def _holds(long_memory: npt.NDArray[np.uint64], place: np.uint64, held: npt.NDArray[np.uint64]) -> bool:
    differs = np.uint64(0)
    for k in range(_LONG_WORDS):
        differs |= long_memory[place, k] ^ held[k]
    return differs == np.uint64(0)


class Vocabulary(NamedTuple):
    """What texts are encoded by."""

    pages: npt.NDArray[np.int32]
    characters: npt.NDArray[np.int32]
    """What code point c begins as is `characters[pages[c >> 8] << 8 | c & 255]`; -1: as its bytes."""
    byte_tokens: npt.NDArray[np.int32]
    """Of each byte, [256]."""
    table: Hashes
    numbers: Points
    """See `pair_table`."""
    merged: Points
    """What each pair becomes, by rank."""


class Memory(NamedTuple):
    """Pieces that were met before, zeros at first."""

    short: Hashes
    """[sets, 8]. Of each of two pieces: 15 bytes, their number (4 bits) and that of tokens less one (4 bits) in two
    numbers, and four tokens in two numbers. A piece of more has all six."""
    long: Hashes
    """[2 slots, 8]. Of one piece, in two rows: 56 bytes, their number and (from bit 8 on) that of tokens, and sixteen
    tokens in eight numbers."""


class _Round(NamedTuple):
    """The pieces that are looked up at a time: piece k is bytes [begins[k], begins[k + 1])."""

    begins: Places
    places: Hashes
    """In the memory that is asked for it."""
    keys: Hashes
    key_rests: Hashes
    """The bytes of a short one, see `Memory`."""
    held: Hashes
    """The bytes of one long one."""
    new: Places
    """Pieces that were not met before, and the ends of documents."""
    new_counts: Places
    """Tokens of each of these."""
    rooms: Places
    """Where in the output room for each of these begins."""


class _Lanes(NamedTuple):
    """Pieces that are merged by turns, [lanes, 64] each, flat: what they are made of, and the rank of each symbol and
    the next one; [lanes]: which symbols are left; [lanes, 2]: which piece it is, and where it is to go."""

    symbols: Points
    ranks: Points
    alive: Hashes
    of_lane: Places


@kernel
def encode_documents(
    data: Bytes,
    ends: Places,
    starts: Hashes,
    end_of_document: int,
    vocabulary: Vocabulary,
    memory: Memory,
    tokens: Points,
    sizes: Places,
) -> int:
    """Encode documents, an end-of-document token behind each.

    Args:
        data: valid UTF-8, a byte between documents and behind the last that belongs to none, and at least 64 bytes
            more. ends: where each document ends.
        starts: where pieces begin, see `pieces`; bounds of documents are added.
        tokens: filled; at least bytes + documents + 16 long. sizes: filled, one for each document.

    Returns:
        How many tokens there are.
    """
    one = np.uint64(1)
    room = _PIECES + 65  # a word of `starts` is taken whole
    pieces = _Round(
        np.empty(room, np.int64),
        np.empty(room, np.uint64),
        np.empty(room, np.uint64),
        np.empty(room, np.uint64),
        np.empty(_LONG_WORDS, np.uint64),
        np.empty(room, np.int64),
        np.empty(room, np.int64),
        np.empty(room, np.int64),
    )
    lanes = _Lanes(
        np.empty(_LANES * _POSITIONS, np.uint32),
        np.empty(_LANES * _POSITIONS, np.uint32),
        np.empty(_LANES, np.uint64),
        np.empty((_LANES, 2), np.int64),
    )
    begins = pieces.begins
    new_tokens = np.empty(1 << 14, np.uint32)
    _mark_documents(starts, ends)
    written, first, document, ended, word, count = (
        np.int64(0),
        np.int64(0),
        np.int64(0),
        np.int64(0),
        np.int64(0),
        np.int64(0),
    )
    while True:
        while word < len(starts) and count <= _PIECES:
            bits = starts[word]
            while bits:
                begins[count] = word * 64 + np.int64(lowest(bits))
                count += 1
                bits &= bits - one
            word += 1
        if count < 2:
            break
        _look_ahead(data, count - 1, pieces, memory)
        written, news, new_bytes, ended = _recall(data, ends, ended, count - 1, pieces, memory, tokens, written)
        if new_bytes + _LONG_TOKENS > len(new_tokens):
            new_tokens = np.empty(2 * new_bytes, np.uint32)
        if news:
            _merge_new(data, news, pieces, lanes, vocabulary, new_tokens)
            pieces.rooms[news] = written
            written, first, document = _close_rooms(
                ends, ended, news, end_of_document, pieces, new_tokens, tokens, sizes, first, document
            )
            _remember(data, news, pieces, memory, new_tokens)
        begins[0] = begins[count - 1]
        count = np.int64(1)
    return written


@part
def _look_ahead(data: Bytes, count: int, pieces: _Round, memory: Memory) -> None:
    """Find where each of the pieces would be remembered, and let these places come from memory."""
    begins, places, keys, key_rests = pieces.begins, pieces.places, pieces.keys, pieces.key_rests
    one, half = np.uint64(1), np.uint64(32)
    short_shift, long_shift = _bits_of(len(memory.short)), _bits_of(len(memory.long) // 2)
    for k in range(np.uint64(count)):
        start = begins[k]
        length = begins[k + one] - start
        if length <= REMEMBERED_BYTES:
            key = load_eight(data, start) & _KEPT[np.uint64(length), 0]
            key_rest = load_eight(data, start + 8) & _KEPT[np.uint64(length), 1] | np.uint64(length << 56)
            place = key * np.uint64(0x9E3779B97F4A7C15) ^ key_rest * np.uint64(0xC2B2AE3D27D4EB4F)
            place = (place ^ place >> half) * np.uint64(0x9E3779B97F4A7C15) >> short_shift
            prefetch(memory.short, place)
            keys[k], key_rests[k], places[k] = key, key_rest, place
        elif length <= _LONG_BYTES:
            place = (_gather(data, start, length, pieces.held) >> long_shift) * np.uint64(2)
            prefetch(memory.long, place)
            prefetch(memory.long, place + one)
            places[k] = place


@part
def _recall(
    data: Bytes, ends: Places, ended: int, count: int, pieces: _Round, memory: Memory, tokens: Points, written: int
) -> tuple[int, int, int, int]:
    """Write the tokens of the pieces that are remembered, and leave room for the others: a token for each byte.

    Returns:
        Tokens and room so far, how many pieces are new, their bytes, and the documents that have ended.
    """
    begins, places, keys, key_rests = pieces.begins, pieces.places, pieces.keys, pieces.key_rests
    new, rooms, held, short, long = pieces.new, pieces.rooms, pieces.held, memory.short, memory.long
    one, counts = np.uint64(1), np.uint64(15) << np.uint64(60)
    end = ends[ended] if ended < len(ends) else -1
    news, new_bytes = np.int64(0), np.int64(0)
    for k in range(np.uint64(count)):
        start = begins[k]
        length = begins[k + one] - start
        if length <= REMEMBERED_BYTES:
            key, key_rest, place = keys[k], key_rests[k], places[k]
            is_first = (short[place, 0] == key) & (short[place, 1] & ~counts == key_rest)
            is_second = (short[place, 4] == key) & (short[place, 5] & ~counts == key_rest)
            if (is_first | is_second) & (start != end):
                way = np.uint64(0) if is_first else np.uint64(4)
                # All four are copied; what is too much is written over.
                store_eight(tokens, written, short[place, way + np.uint64(2)])
                store_eight(tokens, written + 2, short[place, way + np.uint64(3)])
                size = np.int64(short[place, way + one] >> np.uint64(60)) + 1
                if size > _REMEMBERED_TOKENS:
                    for i in range(4):
                        store_eight(tokens, written + 4 + 2 * i, short[place, 4 + i])
                written += size
                continue
        elif length <= _LONG_BYTES:
            place = places[k]
            _gather(data, start, length, held)
            if long[place, _LONG_WORDS] & np.uint64(0xFF) == np.uint64(length) and _holds(long, place, held):
                size = np.int64(long[place, _LONG_WORDS] >> np.uint64(8))
                for i in range(np.uint64((size + 1) // 2)):
                    store_eight(tokens, written + 2 * np.int64(i), long[place + one, i])
                written += size
                continue
        new[news], rooms[news] = k, written
        news += 1
        written += length
        new_bytes += length
        if start == end:
            ended += 1
            end = ends[ended] if ended < len(ends) else -1
    return written, news, new_bytes, ended


@part
def _close_rooms(
    ends: Places,
    ended: int,
    news: int,
    end_of_document: int,
    pieces: _Round,
    new_tokens: Points,
    tokens: Points,
    sizes: Places,
    first: int,
    document: int,
) -> tuple[int, int, int]:
    """Put the tokens of new pieces into the rooms that were left, and move up what stands behind.

    Returns:
        How many tokens there are, where the current document begins, and which it is.
    """
    begins, rooms, one = pieces.begins, pieces.rooms, np.uint64(1)
    written, new_place = rooms[0], np.int64(0)
    for j in range(news):
        k = np.uint64(pieces.new[j])
        length = begins[k + one] - begins[k]
        if document < ended and begins[k] == ends[document]:
            tokens[written] = end_of_document
            written += 1
            sizes[document] = written - first
            first = written
            document += 1
        else:
            for i in range(np.uint64(pieces.new_counts[j])):
                tokens[np.uint64(written) + i] = new_tokens[np.uint64(new_place) + i]
            written += pieces.new_counts[j]
        new_place += length
        moved = rooms[j] + length
        for i in range(0, rooms[j + 1] - moved, 2):
            store_eight(tokens, written + i, load_eight(tokens, moved + i))
        written += rooms[j + 1] - moved
    return written, first, document


@part
def _remember(data: Bytes, news: int, pieces: _Round, memory: Memory, new_tokens: Points) -> None:
    """Write new pieces down, as far as there is room for their bytes and tokens."""
    begins, held, short, long = pieces.begins, pieces.held, memory.short, memory.long
    one, new_place = np.uint64(1), np.int64(0)
    for j in range(news):
        k = np.uint64(pieces.new[j])
        length, size, place = begins[k + one] - begins[k], pieces.new_counts[j], pieces.places[k]
        if length <= REMEMBERED_BYTES and size <= _WIDE_TOKENS:
            # The newer of a set stands first, the older one is forgotten.
            was_wide = short[place, 1] >> np.uint64(60) >= np.uint64(_REMEMBERED_TOKENS)
            for i in range(4):
                short[place, 4 + i] = np.uint64(0) if was_wide else short[place, i]
            short[place, 0] = pieces.keys[k]
            short[place, 1] = pieces.key_rests[k] | np.uint64(size - 1) << np.uint64(60)
            for i in range(2 if size <= _REMEMBERED_TOKENS else 6):
                short[place, 2 + i] = load_eight(new_tokens, new_place + 2 * i)
        elif REMEMBERED_BYTES < length <= _LONG_BYTES and size <= _LONG_TOKENS:
            _gather(data, begins[k], length, held)
            for i in range(_LONG_WORDS):
                long[place, i] = held[i]
            long[place, _LONG_WORDS] = np.uint64(size << 8 | length)
            for i in range(8):
                long[place + one, i] = load_eight(new_tokens, new_place + 2 * i)
        new_place += length


@part
def _mark_documents(starts: npt.NDArray[np.uint64], ends: npt.NDArray[np.int64]) -> None:
    """Let a piece begin with every document and with what stands between two, and none behind the last."""
    one = np.uint64(1)
    starts[0] |= one
    for d in range(len(ends)):
        for place in (ends[d], ends[d] + 1):
            starts[place >> 6] |= one << np.uint64(place & 63)
    last = ends[-1] + 1
    starts[last >> 6] &= ~np.uint64(0) >> np.uint64(63 - (last & 63))
    starts[(last >> 6) + 1 :] = 0


@part
def _merge_new(
    data: Bytes, news: int, pieces: _Round, lanes: _Lanes, vocabulary: Vocabulary, new_tokens: Points
) -> None:
    """Encode new pieces; the tokens of each begin as far into `new_tokens` as the pieces before it have bytes."""
    begins, new, new_counts = pieces.begins, pieces.new, pieces.new_counts
    symbols, ranks, alive, of_lane = lanes.symbols, lanes.ranks, lanes.alive, lanes.of_lane
    pages, characters, byte_tokens = vocabulary.pages, vocabulary.characters, vocabulary.byte_tokens
    table, numbers, merged = vocabulary.table, vocabulary.numbers, vocabulary.merged
    one = np.uint64(1)
    nothing = np.uint32(_NO_RANK << 6)  # rank 24 bits | position 6 bits, or above
    for lane in range(_LANES):
        of_lane[lane, 0] = -1
    taken, place, running = np.int64(0), np.int64(0), 0
    while True:
        for lane in range(_LANES):
            base = lane * _POSITIONS
            if of_lane[lane, 0] >= 0:
                best = np.uint64(smallest_of_64(ranks, base))
                if best < nothing:
                    i = best & np.uint64(63)
                    living = alive[lane]
                    later = living & (~one << i)
                    gone = lowest(later)
                    behind = lowest(later & (later - one))
                    before = highest(living & ((one << i) - one))
                    alive[lane] = living ^ (one << gone)
                    token = np.uint64(merged[best >> np.uint64(6)])
                    b = np.uint64(base)
                    symbols[b + i] = token
                    ranks[b + gone] = nothing
                    ranks[b + i] = _rank(token, np.uint64(symbols[b + behind]), table, numbers) << np.uint64(6) | i
                    ranks[b + before] = (
                        _rank(np.uint64(symbols[b + before]), token, table, numbers) << np.uint64(6) | before
                    )
                    continue
                living, size = alive[lane] & ~one, 0
                while living & (living - one):
                    new_tokens[np.uint64(of_lane[lane, 1] + size)] = symbols[np.uint64(base) + lowest(living)]
                    living &= living - one
                    size += 1
                new_counts[of_lane[lane, 0]] = size
                of_lane[lane, 0] = -1
                running -= 1
            while taken < news:
                start, stop = begins[new[taken]], begins[new[taken] + 1]
                if stop - start > _POSITIONS - 2:
                    size = _spell(start, stop, data, pages, characters, byte_tokens, new_tokens, place)
                    new_counts[taken] = _merge_many(new_tokens[place : place + size], size, table, numbers, merged)
                    place += stop - start
                    taken += 1
                    continue
                size = _spell(start, stop, data, pages, characters, byte_tokens, symbols, base + 1)
                symbols[base] = _EDGE
                symbols[base + size + 1] = _EDGE
                for i in range(np.uint64(base), np.uint64(base + _POSITIONS)):
                    ranks[i] = nothing
                for i in range(np.uint64(base + 1), np.uint64(base + size)):
                    rank = _rank(np.uint64(symbols[i]), np.uint64(symbols[i + one]), table, numbers)
                    ranks[i] = rank << np.uint64(6) | (i - np.uint64(base))
                alive[lane] = ~np.uint64(0) >> np.uint64(_POSITIONS - 2 - size)
                of_lane[lane, 0], of_lane[lane, 1] = taken, place
                place += stop - start
                taken += 1
                running += 1
                break
        if running == 0 and taken == news:
            break
