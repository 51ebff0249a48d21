"""Crowds: buckets of many documents that are similar to one another, such as the pages of one template.

If they are less similar than the threshold, all of them are kept, and comparing each with every kept one before it
costs the square of their number. Their rare shingles tell which pairs can be similar at all: put the shingles of every
document in one order, rare ones first. Two documents that share `overlap` shingles share at least one of the first
`size - overlap + 1` shingles of each (the prefix filter: Chaudhuri, Ganti, Kaushik 2006, doi:10.1109/ICDE.2006.9;
Bayardo, Ma, Srikant 2007, doi:10.1145/1242572.1242591; the bounds for Jaccard similarity: Xiao, Wang, Lin, Yu 2008,
doi:10.1145/1367497.1367516, section 2). The shingles of the template are the most frequent ones and come last, so that
its pages do not meet there. Any order is right, so no pair is missed; a good order makes the lists short.

For a pair of sizes a >= b and a similarity of at least t, the overlap is at least t · a and at least 2t / (1 + t) · b.
Hence the *long* prefix of the larger document, a - ⌈t · a⌉ + 1 shingles, and the *short* one of the smaller,
b - ⌈2t / (1 + t) · b⌉ + 1, share a shingle. A document of size a that has the share c of its shingles in a larger one
of size b shares one of its short prefix, where 2t / (1 + t) is at most c, with any of the b shingles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CROWD = 128
"""Number of documents in a bucket from which it is a crowd; below it, comparing all of them is cheaper than ordering
their shingles."""
_FREQUENCY_BITS = 24
_MOST_FREQUENT = (1 << 16) - 1
_KEY_SHIFT = np.uint64(16)
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Crowds:
    """Prefixes of the documents of crowds, as entries of lists: document d has the entries [starts[d], starts[d + 1]).

    Attributes:
        is_crowd: of each bucket, whether it is a crowd.
        starts: `int64[documents + 1]`.
        short_stops: the entries of d before short_stops[d] belong to its short prefix too.
        lists: list of each entry; a list stands for a shingle in the prefix of several documents.
        count: number of lists.
    """

    is_crowd: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]
    short_stops: npt.NDArray[np.int64]
    lists: npt.NDArray[np.int64]
    count: int


def find_crowds(
    entry_starts: npt.NDArray[np.int64],
    buckets: npt.NDArray[np.int64],
    shingles: npt.NDArray[np.uint64],
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    minimum_jaccard: float,
    minimum_containment: float | None,
) -> Crowds:
    """Find the crowds among buckets, and the prefixes of their documents; the arguments are those of `choose`."""
    documents = len(entry_starts) - 1
    is_crowd = np.bincount(buckets, minlength=int(buckets.max(initial=-1)) + 1) > CROWD
    entry_documents = np.repeat(np.arange(documents, dtype=np.int64), np.diff(entry_starts))
    members = np.unique(entry_documents[is_crowd[buckets]])
    sets = [shingles[start : start + size] for start, size in zip(starts[members], sizes[members], strict=True)]
    frequency = _frequencies(sets)
    least = minimum_jaccard
    if minimum_containment is not None:
        # a pair in which the contained document is the larger one is at least that similar
        least = min(least, minimum_containment / (2 - minimum_containment))
    keys, lengths, short_lengths = [], np.zeros(documents, dtype=np.int64), np.zeros(documents, dtype=np.int64)
    for document, values in zip(members.tolist(), sets, strict=True):
        size = len(values)
        short = size - int(np.ceil(2 * least / (1 + least) * size - _ROUNDING)) + 1
        long = size - int(np.ceil(least * size - _ROUNDING)) + 1 if minimum_containment is None else size
        ordered = _order_keys(values, frequency)
        if long < size:
            ordered = np.partition(ordered, (short - 1, long - 1))[:long]
        elif short < size:
            ordered = np.partition(ordered, short - 1)
        keys.append(ordered)
        lengths[document], short_lengths[document] = len(ordered), short
    flat = np.concatenate([np.empty(0, dtype=np.uint64), *keys])
    _, lists, members_of_list = np.unique(flat, return_inverse=True, return_counts=True)
    is_shared = members_of_list > 1  # a shingle of one document leads to no other
    number = np.cumsum(is_shared) - 1
    kept = is_shared[lists]
    ends = np.cumsum(lengths)
    begins = ends - lengths
    kept_before = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(kept)))
    return Crowds(
        is_crowd,
        np.concatenate((np.zeros(1, dtype=np.int64), kept_before[ends])),
        kept_before[begins + short_lengths],
        number[lists[kept]].astype(np.int64),
        int(is_shared.sum()),
    )


def _frequencies(sets: list[npt.NDArray[np.uint64]]) -> npt.NDArray[np.int64]:
    """Count shingles by their last bits, which is exact enough for an order."""
    frequency = np.zeros(1 << _FREQUENCY_BITS if sets else 0, dtype=np.int64)
    for values in sets:
        frequency[_slots(values)] += 1
    return frequency


def _slots(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    return (values & np.uint64((1 << _FREQUENCY_BITS) - 1)).astype(np.int64)


def _order_keys(values: npt.NDArray[np.uint64], frequency: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Return numbers by which shingles are ordered, rare ones first. Two shingles of one number are one shingle here,
    which can only make more pairs meet."""
    seldom = np.minimum(frequency[_slots(values)], _MOST_FREQUENT).astype(np.uint64)
    return (seldom << np.uint64(48)) | (values >> _KEY_SHIFT)
