"""Contained documents: nearly all shingles of one occur in another, which may be much longer.

Signatures cannot find them (a page has next to no similarity with its book); a sample of the shingles can. Each
document keeps the shingles whose hash is below a fixed share of all hashes (`fingerprints.sample_every`), so that
shingles sampled from the short document are sampled from the long one too. Source: Broder 1997,
doi:10.1109/SEQUEN.1997.666900, which defines containment and estimates it by the shingles with hashes of one residue.

The anchors of a document are its `ANCHORS` smallest sampled hashes. Those that more than `COMMON_DOCUMENTS` documents
share are ignored. The share of the remaining anchors that a candidate has must be at least the threshold less
`choose.SCREENING_DEVIATIONS` standard deviations. `choose` decides by the exact containment.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.dedup.buckets import new_buckets
from data_prep.dedup.choose import CONTAINED_SHINGLES, SCREENING_DEVIATIONS
from data_prep.dedup.preference import preferences
from data_prep.dedup.records import ANCHOR_PAIRS, ENTRIES, SAMPLES
from data_prep.dedup.signatures import read_samples
from data_prep.dedup.work import Unit, Work
from data_prep.kernels.kernel import Flags, Places, kernel
from data_prep.run.shuffle import Grouped, grouped, hash_bounds

ANCHORS = 16
COMMON_DOCUMENTS = 32
_TOO_COMMON = -1
"""Outer document of a pair for an anchor that is too common."""


def spread_samples(unit: Unit) -> None:
    """Spread the sampled shingles of a bundle, but for copies, and write how many anchors each document has."""
    work, start_of_bundle = unit.work, unit.work.plan.documents_of(unit.number)[0]
    signed, is_copy = work.signed(unit.number), work.is_copy(unit.number)
    rank = preferences(signed, larger_first=True)
    with (
        unit.scratch_file("anchors") as path,
        open(path, "wb") as file,
        unit.spread("samples", SAMPLES, _sample_bounds(work)) as samples,
    ):
        for shard, start, stop in work.shards_of(unit.number):
            values, lengths = read_samples(work.stage.run, shard)
            file.write(np.minimum(lengths, ANCHORS).astype(np.uint8).tobytes())
            rows = np.repeat(np.arange(start - start_of_bundle, stop - start_of_bundle), lengths)
            place = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            asks = (place < ANCHORS) & (signed["shingle_count"][rows] >= CONTAINED_SHINGLES)
            is_first = ~is_copy[rows]
            rows = rows[is_first]
            samples.add(values[is_first], rank[rows], start_of_bundle + rows, asks[is_first])


def _sample_bounds(work: Work) -> npt.NDArray[np.uint64]:
    return hash_bounds(work.plan.sample_ranges, (1 << 64) // work.config.fingerprints.sample_every)


@kernel
def _meet(
    documents: Places, asks: Flags, starts: Places, is_common: Flags, inner: Places, outer: Places, is_filling: bool
) -> int:
    """Count or fill the pairs of each group of equal keys; return their number.

    Documents of a group are in the order of preference, so an inner one follows its outer one.
    """
    found = 0
    for group in range(starts.shape[0] - 1):
        first = starts[group]
        for k in range(first, starts[group + 1]):
            if not asks[k]:
                continue
            if is_common[group]:
                if is_filling:
                    inner[found], outer[found] = documents[k], _TOO_COMMON
                found += 1
                continue
            if is_filling:
                for j in range(first, k):
                    inner[found], outer[found] = documents[k], documents[j]
                    found += 1
            else:
                found += k - first
    return found


def least_shared(anchors: npt.NDArray[np.int64], minimum_containment: float) -> npt.NDArray[np.int64]:
    """Return the least number of these anchors that a document must share to be taken for the containing one."""
    asked = np.maximum(anchors, 1)
    deviation = np.sqrt(minimum_containment * (1 - minimum_containment) / asked)
    shares = (minimum_containment - SCREENING_DEVIATIONS * deviation) * asked
    return np.maximum(np.ceil(shares - 1e-9), 1).astype(np.int64)


def find_anchor_pairs(unit: Unit) -> None:
    """Spread the pairs of documents that share an anchor, for a range of sampled shingles."""
    work = unit.work
    blocks = work.collect([("samples", work.plan.bundle_count)], SAMPLES, work.plan.sample_ranges, unit.number)
    with unit.spread_by_bundle("anchor_pairs", ANCHOR_PAIRS) as pairs:
        for groups in grouped(blocks, ("key",), work.most_in_group(SAMPLES)):
            pairs.add(*_pairs(groups))


def _pairs(groups: Grouped) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the inner and outer documents of the pairs of some groups."""
    is_common = groups.sizes > COMMON_DOCUMENTS
    is_common[0] |= groups.continues  # a group in pieces has many documents
    is_common[-1] |= groups.is_open
    documents = np.ascontiguousarray(groups.records["document"])
    asks = np.ascontiguousarray(groups.records["asks"])
    nothing = np.empty(0, dtype=np.int64)
    room = _meet(documents, asks, groups.starts, is_common, nothing, nothing, False)
    inner, outer = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
    _meet(documents, asks, groups.starts, is_common, inner, outer, True)
    return inner, outer


def find_containers(unit: Unit) -> None:
    """Put each pair that shares enough anchors into a bucket of its own, for the inner documents of a bundle."""
    work, minimum = unit.work, unit.work.config.dedup.minimum_containment
    assert minimum is not None
    start, _ = work.plan.documents_of(unit.number)
    anchors = np.fromfile(work.path("anchors", unit.number), dtype=np.uint8).astype(np.int64)
    blocks = work.by_bundle([("anchor_pairs", work.plan.sample_ranges)], ANCHOR_PAIRS, unit.number)
    with new_buckets(unit, "contained", work.plan.band_ranges + unit.number) as buckets:
        for groups in grouped(blocks, ("inner", "outer"), work.most_in_group(ANCHOR_PAIRS)):
            pairs = groups.records[groups.starts[:-1]]
            is_common = pairs["outer"] == _TOO_COMMON  # comes before the pairs of the same document
            anchors[pairs["inner"][is_common] - start] -= groups.sizes[is_common]
            shared = np.where(is_common, 0, groups.sizes)
            proposed = pairs[shared >= least_shared(anchors[pairs["inner"] - start], minimum)]
            documents = np.stack((proposed["inner"], proposed["outer"]), axis=1).ravel()
            entries = ENTRIES.of(documents, np.zeros(len(documents), np.int64))
            buckets.add(Grouped(entries, np.arange(0, len(documents) + 1, 2), False, False))
