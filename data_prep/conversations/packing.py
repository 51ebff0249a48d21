"""Packing: whole conversations are put together so that they fill packs of equal length.

Best-fit decreasing: conversations are taken from the longest to the shortest, and each goes to the pack with the least
room that it fits into (Johnson 1974, "Fast algorithms for bin packing", Journal of Computer and System Sciences 8,
section 1). The packs with each amount of room are a list, and a bitmap of the amounts that occur finds the least one
that is enough: a million conversations take about a second.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.kernels.kernel import kernel
from data_prep.kernels.machine_words import lowest

Integers = npt.NDArray[np.int64]


def pack_of_each(sizes: Integers, length: int) -> tuple[Integers, int]:
    """Assign conversations to packs.

    Args:
        sizes: tokens of each, [conversations].
        length: tokens of a pack.

    Returns:
        The pack of each conversation, [conversations], and the number of packs.

    Raises:
        ValueError: a conversation is empty or longer than a pack.
    """
    if len(sizes) and not 0 < int(sizes.min()) <= int(sizes.max()) <= length:
        wrong = int(sizes.min()) if sizes.min() <= 0 else int(sizes.max())
        raise ValueError(f"a conversation of {wrong} tokens does not fit into a pack of {length}")
    packs = np.empty(len(sizes), np.int64)
    longest_first = np.argsort(-sizes, kind="stable")
    heads = np.full(length + 1, -1, np.int64)
    following = np.empty(len(sizes), np.int64)
    rooms = np.zeros(length // 64 + 1, np.uint64)
    count = _best_fit(np.ascontiguousarray(sizes, np.int64), longest_first, length, heads, following, rooms, packs)
    return packs, int(count)


@kernel
def _best_fit(
    sizes: Integers,
    longest_first: Integers,
    length: int,
    heads: Integers,
    following: Integers,
    rooms: npt.NDArray[np.uint64],
    packs: Integers,
) -> int:
    """Fill `packs`; return their number.

    Args:
        heads: first pack with each amount of room, -1: none, [length + 1].
        following: next pack with the same room, [packs].
        rooms: bit r is set if a pack has room for exactly r tokens.
    """
    one = np.uint64(1)
    count = 0
    for k in range(len(longest_first)):
        conversation = longest_first[k]
        size = sizes[conversation]
        word = size >> 6
        found = rooms[word] & ~((one << np.uint64(size & 63)) - one)
        while found == 0 and word + 1 < len(rooms):
            word += 1
            found = rooms[word]
        if found == 0:
            pack, room = count, length
            count += 1
        else:
            room = (word << 6) + np.int64(lowest(found))
            pack = heads[room]
            heads[room] = following[pack]
            if heads[room] < 0:
                rooms[room >> 6] &= ~(one << np.uint64(room & 63))
        packs[conversation] = pack
        room -= size
        if room > 0:
            following[pack] = heads[room]
            heads[room] = pack
            rooms[room >> 6] |= one << np.uint64(room & 63)
    return count
