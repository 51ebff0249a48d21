"""Which documents are left: those that pass their rules and that no earlier step removes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.dedup.evidence import read_removals
from data_prep.dedup.records import OVER
from data_prep.dedup.texts import read_texts
from data_prep.dedup.work import Work
from data_prep.run.manifest import Shard


@dataclass(frozen=True)
class LeftText:
    """Text of a document that is left.

    Attributes:
        document: its number in the corpus; row: in the shard.
    """

    shard: Shard
    document: int
    row: int
    text: bytes
    url: str


def left_after_removals(work: Work, bundle: int) -> npt.NDArray[np.bool_]:
    """Return which documents of a bundle pass their rules and are no copies of others."""
    left = ~work.signed(bundle)["fails_rules"]
    first, _ = work.plan.documents_of(bundle)
    left[read_removals(work, bundle)["document"] - first] = False
    return left


def left_documents(work: Work, bundle: int) -> npt.NDArray[np.bool_]:
    """Return which documents of a bundle are kept, unless all of their text is cut."""
    left = left_after_removals(work, bundle)
    if work.capped_sources:
        first, _ = work.plan.documents_of(bundle)
        for over in work.by_bundle([("over", work.plan.domain_ranges)], OVER, bundle):
            left[over["document"] - first] = False
    return left


def left_texts(work: Work, bundle: int) -> Iterator[LeftText]:
    """Yield the texts of the documents of a bundle that are left."""
    left = left_documents(work, bundle)
    first, _ = work.plan.documents_of(bundle)
    for shard, start, stop in work.shards_of(bundle):
        rows = np.flatnonzero(left[start - first : stop - first])
        for row, (text, url) in zip(rows.tolist(), read_texts(work.stage.run, shard, rows), strict=True):
            yield LeftText(shard, start + row, row, text, url)
