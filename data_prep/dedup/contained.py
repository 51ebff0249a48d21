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

from data_prep.dedup.choose import SCREENING_DEVIATIONS
from data_prep.dedup.groups import Groups
from data_prep.dedup.spill import Spill
from data_prep.kernels.kernel import Bytes, Flags, Places, kernel

ANCHORS = 16
COMMON_DOCUMENTS = 32
SAMPLE_FIELDS = (("key", "<u8"), ("document", "<i8"), ("asks", "?"))
"""Fields of a record: a sampled shingle of a document, and whether it is one of its anchors."""
PAIR_FIELDS = (("inner", "<i8"), ("outer", "<i8"))
"""Fields of a record: an anchor of `inner` that `outer` shares."""


@kernel
def _meet(
    documents: Places,
    asks: Flags,
    starts: Places,
    inner: Places,
    outer: Places,
    anchors: Bytes,
    is_filling: bool,
) -> int:
    """Count or fill the pairs of each run of equal keys; return their number.

    Documents of a run are in the order of preference, so an inner one follows its outer one. Anchors that are too
    common are subtracted from the count of their document.
    """
    found = 0
    for group in range(starts.shape[0] - 1):
        first, last = starts[group], starts[group + 1]
        is_common = last - first > COMMON_DOCUMENTS
        for k in range(first, last):
            if not asks[k]:
                continue
            if is_common:
                anchors[documents[k]] -= is_filling
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


def pair_by_anchors(
    samples: Spill,
    first: npt.NDArray[np.int64],
    rank: npt.NDArray[np.int64],
    anchors: npt.NDArray[np.uint8],
    pairs: Spill,
) -> None:
    """Write the pairs of documents that share an anchor.

    Args:
        samples: records of `SAMPLE_FIELDS`, equal keys in one part.
        first: see `exact`; copies of other documents are ignored.
        rank: position of each document in the order of preference.
        anchors: number of anchors of each document, from which too common ones are subtracted.
        pairs: receives records of `PAIR_FIELDS`, divided by the inner document.
    """
    for records in samples.read():
        records = records[first[records["document"]] == records["document"]]
        records = records[np.lexsort((rank[records["document"]], records["key"]))]
        if not len(records):
            continue
        begins = np.flatnonzero(np.append(True, records["key"][1:] != records["key"][:-1]))
        starts = np.append(begins, len(records)).astype(np.int64)
        documents = np.ascontiguousarray(records["document"])
        asks = np.ascontiguousarray(records["asks"])
        nothing = np.empty(0, dtype=np.int64)
        room = _meet(documents, asks, starts, nothing, nothing, anchors, False)
        inner, outer = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
        _meet(documents, asks, starts, inner, outer, anchors, True)
        pairs.add(inner * pairs.parts // len(rank), inner, outer)


def propose_by_anchors(
    pairs: Spill, anchors: npt.NDArray[np.uint8], minimum_containment: float, groups: Groups
) -> None:
    """Put each pair that shares enough anchors into a bucket of its own."""
    for records in pairs.read():
        records = records[np.lexsort((records["outer"], records["inner"]))]
        is_new = (records["inner"][1:] != records["inner"][:-1]) | (records["outer"][1:] != records["outer"][:-1])
        begins = np.flatnonzero(np.append(True, is_new))
        shared = np.diff(np.append(begins, len(records)))
        inner, outer = records["inner"][begins], records["outer"][begins]
        is_enough = shared >= least_shared(anchors[inner].astype(np.int64), minimum_containment)
        documents = np.stack((inner[is_enough], outer[is_enough]), axis=1).ravel()
        groups.add(documents, np.full(len(documents) // 2, 2, dtype=np.int64))
