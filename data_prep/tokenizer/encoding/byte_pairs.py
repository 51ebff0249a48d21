"""Compiled byte-pair encoding: repeatedly merge the leftmost pair of the lowest rank.

Pieces are cached, and compared byte by byte. A few hundred are looked up at a time, after their cache slots have been
prefetched. New pieces are merged in an interleaved way, a step of one and a step of the next: a step mostly waits for
memory, and the processor works on other pieces meanwhile. The result is exact.

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
"""Number of bits of an entry's id and of a merge's rank."""

MEMORY_SETS = 1 << 19
"""Number of sets of the cache of short pieces. A set is two pieces, or one with many tokens, in 64 bytes, a cache line
of the processor."""
REMEMBERED_BYTES = 15
_REMEMBERED_TOKENS = 4
_WIDE_TOKENS = 12
"""Largest number of tokens of a piece that takes a whole set."""

LONG_MEMORY_SLOTS = 1 << 17
"""Number of slots of the cache of longer pieces; a slot takes two cache lines."""
_LONG_BYTES = 56
_LONG_WORDS = _LONG_BYTES // 8
_LONG_TOKENS = 16

_PIECES = 128
"""Number of pieces that are looked up together."""
_LANES = 4
"""Number of pieces whose merging is interleaved."""
_POSITIONS = 64
"""Size of a lane: the symbols of a piece, and a sentinel at either end."""

_KEPT = np.array(
    [[(1 << 8 * max(0, min(n - k, 8))) - 1 for k in (0, 8)] for n in range(REMEMBERED_BYTES + 1)], np.uint64
)
"""Masks of the first eight bytes of a piece and of the next ones, by its length."""

_GROUP_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_NO_RANK = (1 << RANK_BITS) - 1
"""Rank of a pair that is not merged."""
_PAIRS_OF_A_GROUP = 4
_EMPTY = (1 << 64) - 1
_EDGE = (1 << ENTRY_BITS) - 1
"""Sentinel entry, which is in no pair."""


def pair_table(pairs: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """Build a perfect hash table of the merges: each pair has its own slot, so that one lookup is enough.

    Source: Belazzougui, Botelho and Dietzfelbinger 2009, "Hash, displace, and compress", section 3: pairs are divided
    into groups, and for each group, the largest first, a number is found that maps its pairs to free slots.

    Args:
        pairs: [merges, 2], entries of the two sides, in order of rank, without repeats.

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
    """Return by how many bits a hash is shifted to get a slot."""
    return np.uint64(64) - lowest(np.uint64(slots))


@inlined
def _rank(
    left: np.uint64, right: np.uint64, table: npt.NDArray[np.uint64], numbers: npt.NDArray[np.uint32]
) -> np.uint64:
    """Return the rank of a pair, or `_NO_RANK`."""
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
    """Write the initial symbols of bytes [start, stop), before any merge, from `symbols[first]` on; return their
    number."""
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
    """Merge the first `count` symbols in place; return how many are left.

    A tree of minima is kept: the lowest rank of every 64 pairs, then of every 64 of those, until there are at most 64.
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
    """Fill `held` with `length` bytes, padded with zeros; return a hash of them."""
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
    """Tables of a vocabulary for encoding."""

    pages: npt.NDArray[np.int32]
    characters: npt.NDArray[np.int32]
    """Initial entry of each code point c: `characters[pages[c >> 8] << 8 | c & 255]`; -1: its bytes."""
    byte_tokens: npt.NDArray[np.int32]
    """Entry of each byte, [256]."""
    table: Hashes
    numbers: Points
    """See `pair_table`."""
    merged: Points
    """Merged entry of each pair, by rank."""


class Memory(NamedTuple):
    """Caches of encoded pieces, initially zeros."""

    short: Hashes
    """[sets, 8]. Each of two pieces has two numbers with 15 bytes, the number of bytes (4 bits) and that of tokens less
    one (4 bits), and two numbers with four tokens. A piece with more tokens uses all six."""
    long: Hashes
    """[2 slots, 8]. A piece has two rows: 56 bytes, the number of bytes and (from bit 8 on) that of tokens, and sixteen
    tokens in eight numbers."""


class _Round(NamedTuple):
    """Pieces that are looked up together: piece k is bytes [begins[k], begins[k + 1])."""

    begins: Places
    places: Hashes
    """Index into the cache in which the piece is looked up."""
    keys: Hashes
    key_rests: Hashes
    """Bytes of short pieces, see `Memory`."""
    held: Hashes
    """Bytes of a long piece."""
    new: Places
    """Pieces that are not cached, and the ends of documents."""
    new_counts: Places
    """Number of tokens of each."""
    rooms: Places
    """Position in the output that is reserved for each."""


class _Lanes(NamedTuple):
    """State of the interleaved merging. [lanes, 64] each, flat: symbols, and the rank of each symbol with the next one;
    [lanes]: which symbols are left; [lanes, 2]: number of the piece, and where its tokens are written."""

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
    """Encode documents, with an end-of-document token after each.

    Args:
        data: valid UTF-8, with a separator byte after each document, and at least 64 more bytes. ends: where each
            document ends.
        starts: where pieces begin, see `pieces`; boundaries of documents are added.
        tokens: filled; at least bytes + documents + 16 long. sizes: filled, one for each document.

    Returns:
        Number of tokens.
    """
    one = np.uint64(1)
    room = _PIECES + 65  # a word of `starts` is read at once
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
    """Compute the cache index of each piece, and prefetch it."""
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
    """Write the tokens of cached pieces, and reserve room for the others: a token for each byte.

    Returns:
        Number of tokens including reserved room, of new pieces, of their bytes, and of documents that have ended.
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
                # All four are copied; excess ones are overwritten.
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
    """Insert the tokens of new pieces into the reserved room, and close the gaps.

    Returns:
        Number of tokens, and start and index of the current document.
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
    """Cache new pieces, if a slot has room for their bytes and tokens."""
    begins, held, short, long = pieces.begins, pieces.held, memory.short, memory.long
    one, new_place = np.uint64(1), np.int64(0)
    for j in range(news):
        k = np.uint64(pieces.new[j])
        length, size, place = begins[k + one] - begins[k], pieces.new_counts[j], pieces.places[k]
        if length <= REMEMBERED_BYTES and size <= _WIDE_TOKENS:
            # The newer piece of a set is first; the older one is evicted.
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
    """Mark the start of a piece at every document and every separator, and none after the last."""
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
    """Encode new pieces; the tokens of each start in `new_tokens` at the number of bytes of the pieces before it."""
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
