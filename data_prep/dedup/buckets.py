"""Proposals: buckets of documents that may all be similar to one another.

A bucket has the documents that agree in a band of the signature, or one that may be contained in another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from data_prep.dedup.records import EDGES, ENTRIES
from data_prep.dedup.work import Unit
from data_prep.run.shuffle import Grouped, Run

_NUMBERED_PER_UNIT = 1 << 40
"""Numbers of buckets that each unit has for its own."""


class Buckets:
    """Buckets that a unit finds; made by `new_buckets`."""

    def __init__(self, entries: Run, edges: Run, start: int) -> None:
        self._entries, self._edges = entries, edges
        self._number = start
        self._first = np.int64(-1)
        """Number of the bucket that was added last, and its first document."""

    def add(self, groups: Grouped) -> None:
        """Add each group of several records as a bucket of their `document`."""
        sizes, documents = groups.sizes, groups.records["document"]
        if not len(sizes):
            return
        firsts = documents[groups.starts[:-1]]
        numbers = self._number + 1 + np.arange(len(sizes), dtype=np.int64)
        is_shared, is_linked = sizes > 1, np.ones(len(documents), dtype=bool)
        is_linked[groups.starts[:-1]] = False
        if groups.continues:
            firsts[0], is_shared[0], is_linked[0] = self._first, True, True
            numbers -= 1
        self._number, self._first = int(numbers[-1]), firsts[-1]
        in_bucket = np.repeat(is_shared, sizes)
        is_linked &= in_bucket
        self._entries.add(documents[in_bucket], np.repeat(numbers, sizes)[in_bucket])
        self._edges.add(np.repeat(firsts, sizes)[is_linked], documents[is_linked])


@contextmanager
def new_buckets(unit: Unit, kind: str, place: int) -> Iterator[Buckets]:
    """Yield the buckets that a unit adds to; they are spread as `<kind>_entries` and `<kind>_edges`.

    Args:
        place: a number of its own for each unit that finds buckets.
    """
    with (
        unit.spread_by_bundle(f"{kind}_entries", ENTRIES) as entries,
        unit.spread(f"{kind}_edges", EDGES, np.empty(0, np.int64)) as edges,
    ):
        yield Buckets(entries, edges, place * _NUMBERED_PER_UNIT)
