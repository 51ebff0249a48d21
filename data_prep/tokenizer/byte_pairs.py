"""Byte-pair encoding over UTF-8 bytes, compiled: pieces of a text, merges of a piece, and pieces seen before.

A *piece* is what the pre-tokenizer makes of a text; no merge crosses its ends, so each is encoded on its own and what
came out is remembered. Text repeats itself: most pieces are found in the memory and cost one look.

Everything is exact. Remembered pieces are compared byte by byte; a hash only says where to look.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

MEMORY_SETS = 1 << 15
"""Sets of two remembered pieces; a set takes 128 bytes."""
_REMEMBERED_BYTES = 23
_REMEMBERED_TOKENS = 8
"""Longer pieces are encoded each time: 1.4 % of the pieces of the demo's corpus."""

_PIECES = 512
PADDING = 24
"""Bytes that may be read, but do not count, behind the text."""

_SHORT = 64
"""Up to this many symbols the best pair is found by looking at all of them, beyond it by a heap."""

_HINT_BITS = 15
_NO_PAIR = np.int64(1) << 62

# Classes of bytes, see `byte_classes`.
_INSIDE, _EXCLUDED, _LOOK = 0, 1, 2


def byte_classes(excluded: frozenset[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Tables for characters that end a run: class of each first byte, and of each code point below 2**16.

    Args:
        excluded: characters of the basic plane.
    """
    code_points = np.zeros(1 << 16, np.bool_)
    first_bytes = np.zeros(256, np.uint8)
    for character in excluded:
        code_points[ord(character)] = True
        data = character.encode()
        first_bytes[data[0]] = _EXCLUDED if len(data) == 1 else _LOOK
    return first_bytes, code_points


def pair_table(
    pairs: npt.NDArray[np.int64], merged: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """A hash table of the merges.

    Args:
        pairs: [merges, 2], ids of the two sides, in order of rank.
        merged: [merges], id of the result.

    Returns:
        table, [slots, 2]: left << 32 | right, and rank << 32 | result; -1 where there is nothing.
        hints, [1 << 15]: False where no pair with that hash is in the table; small enough to be always at hand.
    """
    slots = 1 << max(4, int(len(pairs) * 3).bit_length())
    table = np.full((slots, 2), -1, np.int64)
    hints = np.zeros(1 << _HINT_BITS, np.bool_)
    _fill_pairs(pairs, merged, table, hints)
    return table, hints


def _generate_load(context: Any, data: Any, i: Any) -> Any:
    """The eight bytes from `data[i]` on as one number, wherever they begin."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(address, align=1)

    return numba.uint64(data, i), generate


_load: Any = intrinsic(_generate_load)


@numba.njit(nogil=True, cache=True, inline="always")
def _scatter(key: np.uint64) -> np.uint64:
    key = (key ^ (key >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return key ^ (key >> np.uint64(29))


@numba.njit(nogil=True, cache=True)
def _fill_pairs(
    pairs: npt.NDArray[np.int64],
    merged: npt.NDArray[np.int64],
    table: npt.NDArray[np.int64],
    hints: npt.NDArray[np.bool_],
) -> None:
    mask = np.uint64(len(table) - 1)
    for rank in range(len(pairs)):
        key = pairs[rank, 0] << np.int64(32) | pairs[rank, 1]
        scattered = _scatter(np.uint64(key))
        hints[scattered >> np.uint64(64 - _HINT_BITS)] = True
        slot = scattered & mask
        while table[slot, 0] != -1 and table[slot, 0] != key:
            slot = (slot + np.uint64(1)) & mask
        table[slot, 0] = key
        table[slot, 1] = np.int64(rank) << np.int64(32) | merged[rank]


@numba.njit(nogil=True, cache=True, inline="always")
def _find_pair(left: int, right: int, table: npt.NDArray[np.int64], hints: npt.NDArray[np.bool_]) -> int:
    """Rank << 32 | result of a pair, or `_NO_PAIR`."""
    key = np.int64(left) << np.int64(32) | np.int64(right)
    scattered = _scatter(np.uint64(key))
    found = _NO_PAIR
    if hints[scattered >> np.uint64(64 - _HINT_BITS)]:
        mask = np.uint64(len(table) - 1)
        slot = scattered & mask
        while table[slot, 0] != -1:
            if table[slot, 0] == key:
                found = table[slot, 1]
                break
            slot = (slot + np.uint64(1)) & mask
    return found


@numba.njit(nogil=True, cache=True)
def _merge_short(
    count: int,
    symbols: npt.NDArray[np.int64],
    found: npt.NDArray[np.int64],
    table: npt.NDArray[np.int64],
    hints: npt.NDArray[np.bool_],
) -> int:
    """Merge `symbols[:count]` in place, always the leftmost pair of the lowest rank; returns how many are left."""
    for i in range(count - 1):
        found[i] = _find_pair(symbols[i], symbols[i + 1], table, hints)
    while count > 1:
        best, place = _NO_PAIR, 0
        for i in range(count - 1):
            if found[i] < best:
                best, place = found[i], i
        if best == _NO_PAIR:
            break
        symbols[place] = best & np.int64(0xFFFFFFFF)
        count -= 1
        for i in range(place + 1, count):
            symbols[i] = symbols[i + 1]
            found[i] = found[i + 1]
        if place > 0:
            found[place - 1] = _find_pair(symbols[place - 1], symbols[place], table, hints)
        if place < count - 1:
            found[place] = _find_pair(symbols[place], symbols[place + 1], table, hints)
    return count


@numba.njit(nogil=True, cache=True)
def _push(heap: npt.NDArray[np.int64], size: int, entry: int) -> int:
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if heap[parent] <= entry:
            break
        heap[i] = heap[parent]
        i = parent
    heap[i] = entry
    return size + 1


@numba.njit(nogil=True, cache=True)
def _pop(heap: npt.NDArray[np.int64], size: int) -> int:
    """Remove the smallest entry, `heap[0]`; returns the new size."""
    size -= 1
    entry = heap[size]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= entry:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = entry
    return size


@numba.njit(nogil=True, cache=True)
def _merge_long(
    count: int, symbols: npt.NDArray[np.int64], table: npt.NDArray[np.int64], hints: npt.NDArray[np.bool_]
) -> int:
    """As `_merge_short`, in n log n: a heap of rank << 32 | place; entries that no longer hold are passed over."""
    found = np.empty(count, np.int64)
    following = np.arange(1, count + 1)
    previous = np.arange(-1, count - 1)
    heap = np.empty(3 * count, np.int64)  # each merge takes one entry away and adds at most two
    low = np.int64(0xFFFFFFFF)
    size = 0
    found[count - 1] = _NO_PAIR
    for i in range(count - 1):
        found[i] = _find_pair(symbols[i], symbols[i + 1], table, hints)
        if found[i] != _NO_PAIR:
            size = _push(heap, size, (found[i] & ~low) | i)
    while size:
        entry = heap[0]
        size = _pop(heap, size)
        place = entry & low
        if found[place] == _NO_PAIR or (found[place] & ~low) != (entry & ~low):
            continue
        gone = following[place]
        symbols[place] = found[place] & low
        found[gone] = _NO_PAIR
        after = following[gone]
        following[place] = after
        found[place] = _NO_PAIR
        if after < count:
            previous[after] = place
            found[place] = _find_pair(symbols[place], symbols[after], table, hints)
            if found[place] != _NO_PAIR:
                size = _push(heap, size, (found[place] & ~low) | place)
        before = previous[place]
        if before >= 0:
            found[before] = _find_pair(symbols[before], symbols[place], table, hints)
            if found[before] != _NO_PAIR:
                size = _push(heap, size, (found[before] & ~low) | before)
    left = 0
    i = 0
    while i < count:
        symbols[left] = symbols[i]
        left += 1
        i = following[i]
    return left


@numba.njit(nogil=True, cache=True)
def _code_point(i: int, data: npt.NDArray[np.uint8]) -> int:
    """The character of two or three bytes that begins at byte `i`."""
    first, second = np.int64(data[i]), np.int64(data[i + 1]) & 0x3F
    if first < 0xE0:
        return (first & 0x1F) << 6 | second
    return (first & 0x0F) << 12 | second << 6 | (np.int64(data[i + 2]) & 0x3F)


@numba.njit(nogil=True, cache=True)
def split_pieces(
    start: int,
    end: int,
    data: npt.NDArray[np.uint8],
    first_bytes: npt.NDArray[np.uint8],
    code_points: npt.NDArray[np.bool_],
    stops: npt.NDArray[np.int64],
) -> int:
    """Where the pieces of bytes [start, end) end, as many as fit into `stops`; returns how many.

    A piece is a run of characters that are not excluded, with one space before it if there is one, or what lies between
    two of these. Text is valid UTF-8.
    """
    count = 0
    while start < end and count < len(stops):
        begins = start
        if data[start] == 32 and start + 1 < end:
            begins = start + 1
        i = begins
        while i < end:
            kind = first_bytes[data[i]]
            if kind == _INSIDE:
                i += 1
            elif kind == _LOOK and not code_points[_code_point(i, data)]:
                i += 2 if data[i] < 0xE0 else 3
            else:
                break
        if i == begins:
            i = start
            while i < end:
                kind = first_bytes[data[i]]
                if kind == _EXCLUDED:
                    if data[i] == 32 and i > start and i + 1 < end:
                        following = first_bytes[data[i + 1]]
                        if following == _INSIDE or (following == _LOOK and not code_points[_code_point(i + 1, data)]):
                            break
                    i += 1
                elif kind == _LOOK and code_points[_code_point(i, data)]:
                    i += 2 if data[i] < 0xE0 else 3
                else:
                    break
        stops[count] = i
        count += 1
        start = i
    return count


def key_masks() -> npt.NDArray[np.uint64]:
    """[length, 3]: which bits of the 24 bytes from the beginning of a piece on are its own."""
    masks = np.zeros((_REMEMBERED_BYTES + 1, 3), np.uint64)
    for length in range(_REMEMBERED_BYTES + 1):
        for k in range(3):
            masks[length, k] = (1 << (8 * min(8, max(0, length - 8 * k)))) - 1
    return masks


@numba.njit(nogil=True, cache=True)
def encode_documents(
    data: npt.NDArray[np.uint8],
    ends: npt.NDArray[np.int64],
    end_of_document: int,
    first_bytes: npt.NDArray[np.uint8],
    code_points: npt.NDArray[np.bool_],
    byte_tokens: npt.NDArray[np.int64],
    table: npt.NDArray[np.int64],
    hints: npt.NDArray[np.bool_],
    masks: npt.NDArray[np.uint64],
    memory: npt.NDArray[np.uint64],
    tokens: npt.NDArray[np.uint32],
    sizes: npt.NDArray[np.int64],
) -> int:
    """Encode documents, an end-of-document token behind each.

    Pieces are found some hundreds at a time, and then looked up, so that the processor can wait for several at once.

    Args:
        data: the documents' bytes, one after another, and `PADDING` more; `ends`: where each document ends.
        first_bytes, code_points: see `byte_classes`; byte_tokens: token of each byte.
        table, hints: see `pair_table`; masks: see `key_masks`.
        memory: [sets, 2, 8], zeros at first. Of each piece: 24 bytes of key, the last of which is its length, the
            number of tokens, and up to `_REMEMBERED_TOKENS` tokens, two in each number.
        tokens: filled; at least bytes + documents + `PADDING` long. sizes: filled, one for each document.

    Returns:
        How many tokens there are.
    """
    mask = np.uint64(len(memory) - 1)
    low_half = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    symbols = np.empty(_SHORT, np.int64)
    found = np.empty(_SHORT, np.int64)
    stops = np.empty(_PIECES, np.int64)
    written = 0
    i = 0
    for document in range(len(ends)):
        first = written
        end = ends[document]
        while i < end:
            for piece in range(split_pieces(i, end, data, first_bytes, code_points, stops)):
                stop = stops[piece]
                length = stop - i
                a, b, c, place = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
                if length <= _REMEMBERED_BYTES:
                    a = _load(data, i) & masks[length, 0]
                    b = _load(data, i + 8) & masks[length, 1]
                    c = _load(data, i + 16) & masks[length, 2] | np.uint64(length) << np.uint64(56)
                    place = a * np.uint64(0x9E3779B97F4A7C15)
                    place ^= b * np.uint64(0xC2B2AE3D27D4EB4F) ^ c * np.uint64(0x165667B19E3779F9)
                    place = (place >> np.uint64(40)) & mask
                    way = -1
                    if memory[place, 0, 0] == a and memory[place, 0, 1] == b and memory[place, 0, 2] == c:
                        way = 0
                    elif memory[place, 1, 0] == a and memory[place, 1, 1] == b and memory[place, 1, 2] == c:
                        way = 1
                    if way >= 0:
                        count = np.int64(memory[place, way, 3])
                        pair = memory[place, way, 4]
                        tokens[written] = pair & low_half
                        tokens[written + 1] = pair >> half  # written over, if it is one too many
                        for k in range(1, (count + 1) >> 1):
                            pair = memory[place, way, 4 + k]
                            tokens[written + 2 * k] = pair & low_half
                            tokens[written + 2 * k + 1] = pair >> half
                        written += count
                        i = stop
                        continue
                if length <= _SHORT:
                    for k in range(length):
                        symbols[k] = byte_tokens[data[i + k]]
                    count = _merge_short(length, symbols, found, table, hints)
                    for k in range(count):
                        tokens[written + k] = symbols[k]
                else:
                    many = np.empty(length, np.int64)
                    for k in range(length):
                        many[k] = byte_tokens[data[i + k]]
                    count = _merge_long(length, many, table, hints)
                    for k in range(count):
                        tokens[written + k] = many[k]
                if length <= _REMEMBERED_BYTES and count <= _REMEMBERED_TOKENS:
                    # The newer of a set stands first, the older one is forgotten.
                    for k in range(8):
                        memory[place, 1, k] = memory[place, 0, k]
                    memory[place, 0, 0], memory[place, 0, 1], memory[place, 0, 2] = a, b, c
                    memory[place, 0, 3] = np.uint64(count)
                    for k in range((count + 1) >> 1):
                        memory[place, 0, 4 + k] = np.uint64(tokens[written + 2 * k])
                        if 2 * k + 1 < count:
                            memory[place, 0, 4 + k] |= np.uint64(tokens[written + 2 * k + 1]) << half
                written += count
                i = stop
        tokens[written] = end_of_document
        written += 1
        sizes[document] = written - first
    return written
