"""Choice of the documents that are kept: proposed pairs are verified exactly, and no document is removed because of a
chain of similar ones.

Documents are processed in the order of preference. Each is compared with the kept documents before it that share a
bucket with it. It is removed as a near-duplicate if the exact Jaccard similarity of its shingles with one of them is
high enough, and as contained if nearly all of its shingles occur in one of them; otherwise it is kept. So every removed
document is itself that similar to a kept one; similarity is not transitive. A large cluster of copies costs one
comparison a document, because documents are compared with kept ones only; for a large cluster of documents that are
all kept, see `crowds`.

Two bounds save most exact comparisons: sets whose sizes differ too much cannot be similar, and signatures that agree in
fewer minima than the required similarity less `SCREENING_DEVIATIONS` standard deviations are taken for dissimilar
(which misses one pair in 30,000 at the threshold, fewer above it). A contained document of size a in one of size b has
a Jaccard similarity of at least ca / (a + b - ca), where c is the containment: that is then the required similarity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.dedup.crowds import find_crowds
from data_prep.kernels.kernel import Flags, Hashes, Places, Shares, kernel, part, read_only
from data_prep.signals.fingerprints import shared_shingles

SCREENING_DEVIATIONS = 4.0
CONTAINED_SHINGLES = 64
"""Least number of shingles of a document that is searched for inside others: a proverb in a book is no copy, and a
sample of one shingle in 16 would find only some of the shorter ones."""
_NO_CONTAINMENT = 2.0
_DOCUMENTS_PER_CALL = 4096


@dataclass(frozen=True)
class Similar:
    """Result of `choose`; documents are numbered in the order of preference."""

    duplicate_of: npt.NDArray[np.int64]
    """The most similar kept document, or -1 for a document that is kept itself; near comes before contained."""
    jaccard: npt.NDArray[np.float64]
    """Exact similarity with that document."""
    containment: npt.NDArray[np.float64]
    """Share of its shingles that the other document has."""
    pairs: npt.NDArray[np.int64]
    """`int64[pairs, 2]`: pairs of a kept and a removed document that are similar enough."""
    pair_jaccard: npt.NDArray[np.float64]
    pair_containment: npt.NDArray[np.float64]
    proposed: int
    """Number of pairs of a document and a kept one that share a bucket or, in a crowd, a shingle of their prefixes."""
    verified: int
    """Number of pairs whose exact similarity was computed."""


_WRITTEN, _PROPOSED, _VERIFIED, _ATTEMPTS = range(4)
"""Columns of tallies: pairs written, proposed and verified; documents processed, counting repetitions."""
_JACCARD, _CONTAINMENT = range(2)
"""Columns of measures."""


class _Documents(NamedTuple):
    """Properties of the documents, see `choose`."""

    entry_starts: Places
    entry_documents: Places
    """Document of each entry."""
    buckets: Places
    minima: npt.NDArray[np.uint32]
    rows: Places
    shingles: Hashes
    starts: Places
    sizes: Places


class _Staying(NamedTuple):
    """Documents kept so far, by bucket."""

    heads: Places
    """Latest entry of each bucket, or -1."""
    following: Places
    """Previous entry of the same bucket for each entry, or -1."""
    last_compared: Places
    """Last attempt that met each document, so that no pair is compared twice."""


class _Meeting(NamedTuple):
    """Documents of crowds kept so far, by the shingles of their prefixes, see `crowds`."""

    is_crowd: Flags
    """Of each bucket; the documents of a crowd meet by shingles instead."""
    starts: Places
    short_stops: Places
    lists: Places
    entry_documents: Places
    short_heads: Places
    """Latest entry of each list that belongs to a short prefix, or -1."""
    long_heads: Places
    """Latest entry of each list, or -1."""
    short_following: Places
    """Previous entry of the same list for each entry of a short prefix, or -1."""
    long_following: Places


class _Asked(NamedTuple):
    """Required similarities for a document to be removed."""

    jaccard: float
    containment: float
    deviations: float


class _Found(NamedTuple):
    """Arrays that are filled."""

    duplicate_of: Places
    measures: Shares
    pairs: Places
    pair_measures: Shares
    tallies: Places


@part
def _least_jaccard(size: int, other_size: int, asked: _Asked) -> float:
    """Return the least Jaccard similarity of a pair whose later document is removed, as near or as contained."""
    least = asked.jaccard
    shared = asked.containment * size
    if size >= CONTAINED_SHINGLES and shared <= other_size:
        least = min(least, shared / (size + other_size - shared))
    return least


@part
def _may_be_similar(d: int, other: int, documents: _Documents, asked: _Asked) -> bool:
    """Return whether a pair passes the two bounds, of sizes and signatures."""
    size, other_size = documents.sizes[d], documents.sizes[other]
    least = _least_jaccard(size, other_size, asked)
    if min(size, other_size) < least * max(size, other_size):
        return False
    permutations = documents.minima.shape[1]
    deviation = np.sqrt(least * (1 - least) / permutations)
    one, two = documents.rows[d], documents.rows[other]
    agreeing = 0
    for k in range(permutations):
        agreeing += documents.minima[one, k] == documents.minima[two, k]
    return bool(agreeing >= (least - asked.deviations * deviation) * permutations - 1e-9)


@part
def _follow(
    entry: int, following: Places, owners: Places, attempt: int, last_compared: Places, others: Places, count: int
) -> int:
    """Append the documents of a list of entries to `others`, each once in an attempt; return their number."""
    while entry >= 0:
        other = owners[entry]
        entry = following[entry]
        if last_compared[other] != attempt:
            last_compared[other] = attempt
            others[count] = other
            count += 1
    return count


@part
def _meet(
    d: int, documents: _Documents, staying: _Staying, meeting: _Meeting, attempt: int, others: Places
) -> tuple[int, int]:
    """Fill `others` with the kept documents that may be similar to d; return how many come from buckets, and how many
    there are."""
    count, last = 0, staying.last_compared
    is_in_crowd = False
    for entry in range(documents.entry_starts[d], documents.entry_starts[d + 1]):
        bucket = documents.buckets[entry]
        if meeting.is_crowd[bucket]:
            is_in_crowd = True
        else:
            head = staying.heads[bucket]
            count = _follow(head, staying.following, documents.entry_documents, attempt, last, others, count)
    by_bucket = count
    if is_in_crowd:
        for entry in range(meeting.starts[d], meeting.starts[d + 1]):
            head = meeting.short_heads[meeting.lists[entry]]
            count = _follow(head, meeting.short_following, meeting.entry_documents, attempt, last, others, count)
        for entry in range(meeting.starts[d], meeting.short_stops[d]):
            head = meeting.long_heads[meeting.lists[entry]]
            count = _follow(head, meeting.long_following, meeting.entry_documents, attempt, last, others, count)
    return by_bucket, count


@part
def _share_bucket(d: int, other: int, documents: _Documents) -> bool:
    for mine in range(documents.entry_starts[d], documents.entry_starts[d + 1]):
        for theirs in range(documents.entry_starts[other], documents.entry_starts[other + 1]):
            if documents.buckets[mine] == documents.buckets[theirs]:
                return True
    return False


@part
def _keep(d: int, documents: _Documents, staying: _Staying, meeting: _Meeting) -> None:
    """Add a kept document to the lists of its buckets and of its prefix."""
    for entry in range(documents.entry_starts[d], documents.entry_starts[d + 1]):
        staying.following[entry] = staying.heads[documents.buckets[entry]]
        staying.heads[documents.buckets[entry]] = entry
    for entry in range(meeting.starts[d], meeting.starts[d + 1]):
        key = meeting.lists[entry]
        meeting.long_following[entry] = meeting.long_heads[key]
        meeting.long_heads[key] = entry
        if entry < meeting.short_stops[d]:
            meeting.short_following[entry] = meeting.short_heads[key]
            meeting.short_heads[key] = entry


@kernel
def _choose(
    start: int,
    stop: int,
    documents: _Documents,
    staying: _Staying,
    meeting: _Meeting,
    others: Places,
    asked: _Asked,
    found: _Found,
) -> int | np.int64:
    """Process documents [start, stop); return the first one not processed, before `stop` if the room for pairs ran
    out.

    `others` is scratch, with room for every document: `last_compared` lets each in once.
    """
    starts, sizes, shingles, tallies = documents.starts, documents.sizes, documents.shingles, found.tallies
    for d in range(start, stop):
        tallies[_ATTEMPTS] += 1
        attempt = tallies[_ATTEMPTS]
        written, proposed, verified = tallies[_WRITTEN], tallies[_PROPOSED], tallies[_VERIFIED]
        size = sizes[d]
        mine = shingles[starts[d] : starts[d] + size]
        best, best_jaccard, best_containment = np.int64(-1), 0.0, 0.0
        by_bucket, count = _meet(d, documents, staying, meeting, attempt, others)
        proposed += count
        for k in range(count):
            other = others[k]
            if not _may_be_similar(d, other, documents, asked):
                continue
            verified += 1
            other_size = sizes[other]
            shared = shared_shingles(mine, shingles[starts[other] : starts[other] + other_size])
            jaccard, containment = shared / (size + other_size - shared), shared / size
            is_near = jaccard >= asked.jaccard
            if not is_near and (size < CONTAINED_SHINGLES or containment < asked.containment):
                continue
            if k >= by_bucket and not _share_bucket(d, other, documents):
                continue  # the same pairs, whether a bucket is a crowd or not
            if written == found.pairs.shape[0]:
                return d
            found.pairs[written, 0], found.pairs[written, 1] = other, d
            found.pair_measures[written, _JACCARD] = jaccard
            found.pair_measures[written, _CONTAINMENT] = containment
            written += 1
            if best >= 0 and is_near != (best_jaccard >= asked.jaccard):
                is_better = is_near
            else:
                gain = jaccard - best_jaccard if is_near else containment - best_containment
                is_better = gain > 0 or (gain == 0 and other < best)
            if best < 0 or is_better:
                best, best_jaccard, best_containment = other, jaccard, containment
        tallies[_WRITTEN], tallies[_PROPOSED], tallies[_VERIFIED] = written, proposed, verified
        if best >= 0:
            found.duplicate_of[d] = best
            found.measures[d, _JACCARD], found.measures[d, _CONTAINMENT] = best_jaccard, best_containment
        else:
            _keep(d, documents, staying, meeting)
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
    """Choose which documents are kept.

    Args:
        entry_starts, buckets: document d has the buckets buckets[entry_starts[d] : entry_starts[d + 1]], numbered from
            0; documents in the order of preference.
        minima, rows: signatures, `uint32[any, permutations]`, and the row of document d.
        shingles: shingle sets, each sorted and without repeats.
        starts, sizes: the set of document d is shingles[starts[d] : starts[d] + sizes[d]]; none is empty.
        minimum_jaccard: exact similarity from which a document is removed, more than 0 and at most 1.
        minimum_containment: share of a document's shingles in another one from which it is removed; None: contained
            documents are kept.
        advance: called with the number of documents done since the last call.
    """
    count = len(entry_starts) - 1
    entry_documents = np.repeat(np.arange(count, dtype=np.int64), np.diff(entry_starts))
    documents = _Documents(
        read_only(entry_starts),
        read_only(entry_documents),
        read_only(buckets),
        read_only(minima),
        read_only(rows),
        read_only(shingles),
        read_only(starts),
        read_only(sizes),
    )
    asked = _Asked(
        minimum_jaccard, _NO_CONTAINMENT if minimum_containment is None else minimum_containment, SCREENING_DEVIATIONS
    )
    staying = _Staying(
        np.full(int(buckets.max(initial=-1)) + 1, -1, dtype=np.int64),
        np.full(len(buckets), -1, dtype=np.int64),
        np.zeros(count, dtype=np.int64),
    )
    crowds = find_crowds(entry_starts, buckets, shingles, starts, sizes, minimum_jaccard, minimum_containment)
    meeting = _Meeting(
        read_only(crowds.is_crowd),
        read_only(crowds.starts),
        read_only(crowds.short_stops),
        read_only(crowds.lists),
        read_only(np.repeat(np.arange(count, dtype=np.int64), np.diff(crowds.starts))),
        np.full(crowds.count, -1, dtype=np.int64),
        np.full(crowds.count, -1, dtype=np.int64),
        np.full(len(crowds.lists), -1, dtype=np.int64),
        np.full(len(crowds.lists), -1, dtype=np.int64),
    )
    others = np.empty(count, dtype=np.int64)
    duplicate_of = np.full(count, -1, dtype=np.int64)
    measures = np.zeros((count, 2), dtype=np.float64)
    pairs = np.empty((1024, 2), dtype=np.int64)
    pair_measures = np.empty((1024, 2), dtype=np.float64)
    tallies = np.zeros(4, dtype=np.int64)
    done = 0
    while done < count:
        stop = min(done + _DOCUMENTS_PER_CALL, count)
        found = _Found(duplicate_of, measures, pairs, pair_measures, tallies)
        reached = int(_choose(done, stop, documents, staying, meeting, others, asked, found))
        if reached < stop:
            pairs = np.concatenate((pairs, np.empty_like(pairs)))
            pair_measures = np.concatenate((pair_measures, np.empty_like(pair_measures)))
        advance(reached - done)
        done = reached
    written, proposed, verified, _ = tallies.tolist()
    return Similar(
        duplicate_of,
        measures[:, _JACCARD],
        measures[:, _CONTAINMENT],
        pairs[:written],
        pair_measures[:written, _JACCARD],
        pair_measures[:written, _CONTAINMENT],
        proposed,
        verified,
    )
