"""Near-duplicates: bands of the signature propose pairs, exact Jaccard similarity decides.

Documents are taken in the order of preference. Each is compared with those before it that stay and that agree with
it in all rows of at least one band. It goes if the exact Jaccard similarity of the shingles with one of these is high
enough, and else it stays. So what goes is itself that similar to one that stays; similarity is never passed on by a
chain. And a large group of copies costs one comparison a document, because only what stays is compared with.

Before the exact comparison two bounds save most of the work: sets whose sizes differ too much cannot be similar, and a
signature that agrees in fewer minima than the threshold less `SCREENING_DEVIATIONS` standard deviations is not (one in
30,000 at the threshold, fewer above it).

Source of the bands: Broder 1997, doi:10.1109/SEQUEN.1997.666900; Leskovec, Rajaraman, Ullman, Mining of Massive
Datasets, section 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from data_prep.signals.characters import read_only
from data_prep.signals.fingerprints import shared_shingles

SCREENING_DEVIATIONS = 4.0
_DOCUMENTS_PER_CALL = 4096


@numba.njit(nogil=True, cache=True)
def _hash_bands(minima, rows, keys):  # type: ignore[no-untyped-def]
    for d in range(keys.shape[0]):
        for band in range(keys.shape[1]):
            value = np.uint64(band + 1)
            for row in range(rows):
                value = (value ^ np.uint64(minima[d, band * rows + row])) * np.uint64(0x9E3779B97F4A7C15)
                value ^= value >> np.uint64(29)
            keys[d, band] = value


def buckets(minima: npt.NDArray[np.uint32], bands: int, rows: int) -> npt.NDArray[np.int64]:
    """Which documents agree in a whole band: `int64[documents, bands]`, equal numbers for equal bands.

    A band that no other document shares is -1. Numbers are unique over all bands.

    Args:
        minima: signatures, `uint32[documents, bands * rows]`.
    """
    if minima.shape[1] != bands * rows:
        raise ValueError(f"signatures of {minima.shape[1]} minima cannot be {bands} bands of {rows} rows")
    keys = np.empty((len(minima), bands), dtype=np.uint64)
    _hash_bands(read_only(minima), rows, keys)
    result = np.full(keys.shape, -1, dtype=np.int64)
    used = 0
    for band in range(bands):
        _, number, size = np.unique(keys[:, band], return_inverse=True, return_counts=True)
        is_shared = size > 1
        renumbered = np.where(is_shared, used + np.cumsum(is_shared) - 1, -1)
        result[:, band] = renumbered[number]
        used += int(is_shared.sum())
    return result


@dataclass(frozen=True)
class NearDuplicates:
    """What `find_near_duplicates` has found; documents by their position in the order of preference."""

    duplicate_of: npt.NDArray[np.int64]
    """The most similar document that stays, or -1 for a document that stays itself."""
    jaccard: npt.NDArray[np.float64]
    """Exact similarity with it."""
    pairs: npt.NDArray[np.int64]
    """`int64[pairs, 2]`: each document that stays, and one that goes, that were found similar enough."""
    pair_jaccard: npt.NDArray[np.float64]
    proposed: int
    """Pairs that agree in a band, of documents with others that stay."""
    verified: int
    """Pairs whose exact similarity was computed."""


@numba.njit(nogil=True, cache=True)
def _choose(  # type: ignore[no-untyped-def]
    start,
    stop,
    bucket_of,
    heads,
    following,
    last_compared,
    minima,
    least_agreeing,
    minimum_jaccard,
    shingles,
    starts,
    stops,
    duplicate_of,
    similarity,
    pairs,
    pair_similarity,
    tallies,
):
    """Take documents [start, stop); return the first one not taken, which is earlier when the room for pairs ran out.

    heads[bucket] is the latest staying entry of a bucket, following[entry] the one before; entry = document * bands +
    band. tallies: pairs written, proposed, verified, attempts.
    """
    bands = bucket_of.shape[1]
    for d in range(start, stop):
        tallies[3] += 1
        attempt = tallies[3]
        written, proposed, verified = tallies[0], tallies[1], tallies[2]
        size = stops[d] - starts[d]
        best, best_similarity = np.int64(-1), 0.0
        for band in range(bands):
            bucket = bucket_of[d, band]
            entry = heads[bucket] if bucket >= 0 else np.int64(-1)
            while entry >= 0:
                other = entry // bands
                entry = following[entry]
                if last_compared[other] == attempt:
                    continue
                last_compared[other] = attempt
                proposed += 1
                other_size = stops[other] - starts[other]
                if min(size, other_size) < minimum_jaccard * max(size, other_size):
                    continue
                agreeing = 0
                for k in range(minima.shape[1]):
                    agreeing += minima[d, k] == minima[other, k]
                if agreeing < least_agreeing:
                    continue
                verified += 1
                shared = shared_shingles(shingles[starts[d] : stops[d]], shingles[starts[other] : stops[other]])
                exact = shared / (size + other_size - shared)
                if exact < minimum_jaccard:
                    continue
                if written == pairs.shape[0]:
                    return d
                pairs[written, 0], pairs[written, 1] = other, d
                pair_similarity[written] = exact
                written += 1
                if exact > best_similarity or (exact == best_similarity and other < best):
                    best, best_similarity = other, exact
        tallies[0], tallies[1], tallies[2] = written, proposed, verified
        if best >= 0:
            duplicate_of[d], similarity[d] = best, best_similarity
        else:
            for band in range(bands):
                bucket = bucket_of[d, band]
                if bucket >= 0:
                    following[d * bands + band] = heads[bucket]
                    heads[bucket] = d * bands + band
    return stop


def find_near_duplicates(
    bucket_of: npt.NDArray[np.int64],
    minima: npt.NDArray[np.uint32],
    shingles: npt.NDArray[np.uint64],
    starts: npt.NDArray[np.int64],
    stops: npt.NDArray[np.int64],
    minimum_jaccard: float,
    advance: Callable[[int], None] = lambda count: None,
) -> NearDuplicates:
    """Choose which documents stay.

    Args:
        bucket_of: of `buckets`, `int64[documents, bands]`; documents in the order of preference.
        minima: signatures, `uint32[documents, permutations]`.
        shingles: the shingle sets of all documents, each sorted and without repeats.
        starts, stops: the set of document d is shingles[starts[d] : stops[d]]; none is empty.
        minimum_jaccard: exact similarity from which a document goes, more than 0 and at most 1.
        advance: called with the number of documents done since the last call.
    """
    documents, bands = bucket_of.shape
    permutations = minima.shape[1]
    deviation = math.sqrt(minimum_jaccard * (1 - minimum_jaccard) / permutations)
    least_agreeing = math.ceil((minimum_jaccard - SCREENING_DEVIATIONS * deviation) * permutations - 1e-9)
    heads = np.full(int(bucket_of.max(initial=-1)) + 1, -1, dtype=np.int64)
    following = np.full(documents * bands, -1, dtype=np.int64)
    last_compared = np.zeros(documents, dtype=np.int64)
    duplicate_of = np.full(documents, -1, dtype=np.int64)
    similarity = np.zeros(documents, dtype=np.float64)
    pairs = np.empty((1024, 2), dtype=np.int64)
    pair_similarity = np.empty(1024, dtype=np.float64)
    tallies = np.zeros(4, dtype=np.int64)
    done = 0
    while done < documents:
        stop = min(done + _DOCUMENTS_PER_CALL, documents)
        reached = _choose(
            done,
            stop,
            read_only(bucket_of),
            heads,
            following,
            last_compared,
            read_only(minima),
            least_agreeing,
            minimum_jaccard,
            read_only(shingles),
            read_only(starts),
            read_only(stops),
            duplicate_of,
            similarity,
            pairs,
            pair_similarity,
            tallies,
        )
        if reached < stop:
            pairs = np.concatenate((pairs, np.empty_like(pairs)))
            pair_similarity = np.concatenate((pair_similarity, np.empty_like(pair_similarity)))
        advance(reached - done)
        done = reached
    written, proposed, verified, _ = tallies.tolist()
    return NearDuplicates(duplicate_of, similarity, pairs[:written], pair_similarity[:written], proposed, verified)
