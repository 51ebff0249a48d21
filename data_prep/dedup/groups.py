"""Which documents may be similar: buckets that propose pairs, and groups of documents that no bucket joins to others.

A bucket is a set of documents of which each may be similar to each: those that agree in a band of the signature, or one
that may be contained in another. Documents that buckets join, directly or through others, make a group; groups have
nothing to do with one another, so that each is decided by itself, as many at a time as fit in memory. To belong to a
group decides nothing: it is loose, and `choose` compares the pairs.

Held for each document: its group, 8 bytes, and whether it has any bucket.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt

from data_prep.dedup.spill import Spill, parts_for

_ENTRY_FIELDS = (("document", "<i8"), ("bucket", "<i8"))
_ENTRY_BYTES = 16


@numba.njit(nogil=True, cache=True)
def _root(parent, document):  # type: ignore[no-untyped-def]
    while parent[document] != document:
        parent[document] = parent[parent[document]]  # halve the path
        document = parent[document]
    return document


@numba.njit(nogil=True, cache=True)
def _unite(parent, documents, starts):  # type: ignore[no-untyped-def]
    """Join the documents [starts[b], starts[b + 1]) of each bucket; the smallest number stands for a group."""
    for bucket in range(starts.shape[0] - 1):
        first = _root(parent, documents[starts[bucket]])
        for k in range(starts[bucket] + 1, starts[bucket + 1]):
            other = _root(parent, documents[k])
            if other < first:
                first, other = other, first
            parent[other] = first


@numba.njit(nogil=True, cache=True)
def _roots(parent, documents, roots):  # type: ignore[no-untyped-def]
    for k in range(documents.shape[0]):
        roots[k] = _root(parent, documents[k])


@dataclass(frozen=True)
class Batch:
    """Some whole groups; documents in the order of preference."""

    documents: npt.NDArray[np.int64]
    entry_starts: npt.NDArray[np.int64]
    """Document d has the buckets buckets[entry_starts[d] : entry_starts[d + 1]]."""
    buckets: npt.NDArray[np.int64]
    """Numbered from 0 in each batch."""


class Groups:
    """Collects buckets, then hands out batches.

    Args:
        folder: where entries wait.
        documents: in the corpus.
        expected_entries: about how many documents of buckets there will be; decides the number of files only.
    """

    def __init__(self, folder: Path, documents: int, expected_entries: int, memory_bytes: int) -> None:
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._parent = np.arange(documents, dtype=np.int64)
        self._is_candidate = np.zeros(documents, dtype=bool)
        self._buckets = 0
        parts = parts_for(expected_entries, _ENTRY_BYTES, memory_bytes)
        self._entries = Spill(folder, "entries", _ENTRY_FIELDS, parts, memory_bytes)

    def add(self, documents: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> None:
        """Add buckets of `sizes` documents, one after the other."""
        if not len(documents):
            return
        starts = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(sizes, dtype=np.int64)))
        _unite(self._parent, np.ascontiguousarray(documents), starts)
        self._is_candidate[documents] = True
        buckets = self._buckets + np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
        self._buckets += len(sizes)
        self._entries.add(documents * self._entries.parts // len(self._parent), documents, buckets)

    def candidates(self) -> npt.NDArray[np.int64]:
        """Documents of any bucket, in the order of the corpus."""
        return np.flatnonzero(self._is_candidate)

    def batches(self, rank: npt.NDArray[np.int64], document_bytes: npt.NDArray[np.int64]) -> Iterator[Batch]:
        """Every group once, as many in a batch as the memory holds; one that is larger is a batch of its own.

        Args:
            rank: place of each document of the corpus in the order of preference.
            document_bytes: what each candidate takes while it is compared.
        """
        candidates = self.candidates()
        roots = np.empty(len(candidates), dtype=np.int64)
        _roots(self._parent, candidates, roots)
        _, group = np.unique(roots, return_inverse=True)
        group_bytes = np.bincount(group, weights=document_bytes)
        batch_of_group = _fill(group_bytes.astype(np.float64), self._memory_bytes)
        batches = int(batch_of_group.max(initial=-1)) + 1
        batch_of = np.zeros(len(candidates), dtype=np.int64)
        batch_of[:] = batch_of_group[group]
        by_batch = Spill(self._folder, "batches", _ENTRY_FIELDS, batches, self._memory_bytes)
        for records in self._entries.read():
            place = np.searchsorted(candidates, records["document"])
            by_batch.add(batch_of[place], records["document"], records["bucket"])
        for records in by_batch.read():
            yield _batch(records["document"], records["bucket"], rank)


def _fill(sizes: npt.NDArray[np.float64], room: int) -> npt.NDArray[np.int64]:
    """A number for each item, in order, so that those of one number fit in the room, if they fit at all."""
    result = np.empty(len(sizes), dtype=np.int64)
    number, used = 0, 0.0
    for k, size in enumerate(sizes.tolist()):
        if used and used + size > room:
            number, used = number + 1, 0.0
        used += size
        result[k] = number
    return result


def _batch(documents: npt.NDArray[np.int64], buckets: npt.NDArray[np.int64], rank: npt.NDArray[np.int64]) -> Batch:
    order = np.argsort(rank[documents], kind="stable")
    documents, buckets = documents[order], buckets[order]
    begins = np.ones(len(documents), dtype=bool)
    begins[1:] = documents[1:] != documents[:-1]
    starts = np.append(np.flatnonzero(begins), len(documents)).astype(np.int64)
    _, numbers = np.unique(buckets, return_inverse=True)
    return Batch(documents[begins], starts, numbers.astype(np.int64))
