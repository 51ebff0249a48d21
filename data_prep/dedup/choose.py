"""Which documents stay: proposed pairs are verified exactly, and nothing goes because of a chain.

Documents are taken in the order of preference. Each is compared with those before it that stay and that share a bucket
with it. It goes as a near-duplicate if the exact Jaccard similarity of the shingles with one of these is high enough,
as contained if nearly all of its shingles occur in one of these, and else it stays. So what goes is itself that similar
to one that stays; similarity is never passed on by a chain. And a large crowd of copies costs one comparison a
document, because only what stays is compared with.

Before the exact comparison two bounds save most of the work: sets whose sizes differ too much cannot be similar, and a
signature that agrees in fewer minima than the similarity asked for less `SCREENING_DEVIATIONS` standard deviations is
not (one in 30,000 at the threshold, fewer above it). A contained document of size a in one of size b has a Jaccard
similarity of at least ca / (a + b - ca), c being the containment: that is then what is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.kernel import kernel, part, read_only
from data_prep.signals.fingerprints import shared_shingles

SCREENING_DEVIATIONS = 4.0
CONTAINED_SHINGLES = 64
"""A document of fewer shingles is not looked for inside of others: a proverb in a book is no copy, and a sample of one
shingle in 16 of so few would find only some of them."""
_NO_CONTAINMENT = 2.0
_DOCUMENTS_PER_CALL = 4096


@dataclass(frozen=True)
class Similar:
    """What `choose` has found; documents by their position in the order of preference."""

    duplicate_of: npt.NDArray[np.int64]
    """The most similar document that stays, or -1 for a document that stays itself; near comes before contained."""
    jaccard: npt.NDArray[np.float64]
    """Exact similarity with it."""
    containment: npt.NDArray[np.float64]
    """The share of its shingles that the other one has."""
    pairs: npt.NDArray[np.int64]
    """`int64[pairs, 2]`: each document that stays, and one that goes, that were found similar enough."""
    pair_jaccard: npt.NDArray[np.float64]
    pair_containment: npt.NDArray[np.float64]
    proposed: int
    """Pairs that share a bucket, of documents with others that stay."""
    verified: int
    """Pairs whose exact similarity was computed."""


@part
def _least_jaccard(size, other_size, minimum_jaccard, minimum_containment):  # type: ignore[no-untyped-def]
    """The Jaccard similarity that a pair must have for its later document to go, as near or as contained."""
    least = minimum_jaccard
    shared = minimum_containment * size
    if size >= CONTAINED_SHINGLES and shared <= other_size:
        least = min(least, shared / (size + other_size - shared))
    return least


@kernel
def _choose(  # type: ignore[no-untyped-def]
    start,
    stop,
    entry_starts,
    entry_documents,
    buckets,
    heads,
    following,
    last_compared,
    minima,
    rows,
    minimum_jaccard,
    minimum_containment,
    deviations,
    shingles,
    starts,
    sizes,
    duplicate_of,
    measures,
    pairs,
    pair_measures,
    tallies,
):
    """Take documents [start, stop); return the first one not taken, which is earlier when the room for pairs ran out.

    heads[bucket] is the latest staying entry of a bucket, following[entry] the one before. measures: Jaccard
    similarity and containment. tallies: pairs written, proposed, verified, attempts.
    """
    permutations = minima.shape[1]
    for d in range(start, stop):
        tallies[3] += 1
        attempt = tallies[3]
        written, proposed, verified = tallies[0], tallies[1], tallies[2]
        size = sizes[d]
        mine = shingles[starts[d] : starts[d] + size]
        best, best_jaccard, best_containment = np.int64(-1), 0.0, 0.0
        for mine_entry in range(entry_starts[d], entry_starts[d + 1]):
            entry = heads[buckets[mine_entry]]
            while entry >= 0:
                other = entry_documents[entry]
                entry = following[entry]
                if last_compared[other] == attempt:
                    continue
                last_compared[other] = attempt
                proposed += 1
                other_size = sizes[other]
                least = _least_jaccard(size, other_size, minimum_jaccard, minimum_containment)
                if min(size, other_size) < least * max(size, other_size):
                    continue
                asked = (least - deviations * np.sqrt(least * (1 - least) / permutations)) * permutations - 1e-9
                agreeing = 0
                for k in range(permutations):
                    agreeing += minima[rows[d], k] == minima[rows[other], k]
                if agreeing < asked:
                    continue
                verified += 1
                shared = shared_shingles(mine, shingles[starts[other] : starts[other] + other_size])
                jaccard = shared / (size + other_size - shared)
                containment = shared / size
                is_near = jaccard >= minimum_jaccard
                if not is_near and (size < CONTAINED_SHINGLES or containment < minimum_containment):
                    continue
                if written == pairs.shape[0]:
                    return d
                pairs[written, 0], pairs[written, 1] = other, d
                pair_measures[written, 0], pair_measures[written, 1] = jaccard, containment
                written += 1
                if best >= 0 and is_near != (best_jaccard >= minimum_jaccard):
                    is_better = is_near
                else:
                    gain = jaccard - best_jaccard if is_near else containment - best_containment
                    is_better = gain > 0 or (gain == 0 and other < best)
                if best < 0 or is_better:
                    best, best_jaccard, best_containment = other, jaccard, containment
        tallies[0], tallies[1], tallies[2] = written, proposed, verified
        if best >= 0:
            duplicate_of[d] = best
            measures[d, 0], measures[d, 1] = best_jaccard, best_containment
        else:
            for entry in range(entry_starts[d], entry_starts[d + 1]):
                following[entry] = heads[buckets[entry]]
                heads[buckets[entry]] = entry
    return stop


def choose(
    entry_starts: npt.NDArray[np.int64],
    buckets: npt.NDArray[np.int64],
    minima: npt.NDArray[np.uint32],
    rows: npt.NDArray[np.int64],
    shingles: npt.NDArray[np.uint64],
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    minimum_jaccard: float,
    minimum_containment: float | None,
    advance: Callable[[int], None] = lambda count: None,
) -> Similar:
    """Choose which documents stay.

    Args:
        entry_starts, buckets: document d has the buckets buckets[entry_starts[d] : entry_starts[d + 1]], numbered from
            0; documents in the order of preference.
        minima, rows: signatures, `uint32[any, permutations]`, and which one is that of document d.
        shingles: shingle sets, each sorted and without repeats.
        starts, sizes: the set of document d is shingles[starts[d] : starts[d] + sizes[d]]; none is empty.
        minimum_jaccard: exact similarity from which a document goes, more than 0 and at most 1.
        minimum_containment: share of a document's shingles in another one from which it goes; None: none goes so.
        advance: called with the number of documents done since the last call.
    """
    documents = len(entry_starts) - 1
    heads = np.full(int(buckets.max(initial=-1)) + 1, -1, dtype=np.int64)
    following = np.full(len(buckets), -1, dtype=np.int64)
    entry_documents = np.repeat(np.arange(documents, dtype=np.int64), np.diff(entry_starts))
    last_compared = np.zeros(documents, dtype=np.int64)
    duplicate_of = np.full(documents, -1, dtype=np.int64)
    measures = np.zeros((documents, 2), dtype=np.float64)
    pairs = np.empty((1024, 2), dtype=np.int64)
    pair_measures = np.empty((1024, 2), dtype=np.float64)
    tallies = np.zeros(4, dtype=np.int64)
    done = 0
    while done < documents:
        stop = min(done + _DOCUMENTS_PER_CALL, documents)
        reached = _choose(
            done,
            stop,
            read_only(entry_starts),
            entry_documents,
            read_only(buckets),
            heads,
            following,
            last_compared,
            read_only(minima),
            read_only(rows),
            minimum_jaccard,
            _NO_CONTAINMENT if minimum_containment is None else minimum_containment,
            SCREENING_DEVIATIONS,
            read_only(shingles),
            read_only(starts),
            read_only(sizes),
            duplicate_of,
            measures,
            pairs,
            pair_measures,
            tallies,
        )
        if reached < stop:
            pairs = np.concatenate((pairs, np.empty_like(pairs)))
            pair_measures = np.concatenate((pair_measures, np.empty_like(pair_measures)))
        advance(reached - done)
        done = reached
    written, proposed, verified, _ = tallies.tolist()
    return Similar(
        duplicate_of,
        measures[:, 0],
        measures[:, 1],
        pairs[:written],
        pair_measures[:written, 0],
        pair_measures[:written, 1],
        proposed,
        verified,
    )
