"""Proposals: buckets of documents that may be similar, and clusters of documents linked by shared buckets.

A bucket is a set of documents that may all be similar to one another: those that agree in a band of the signature, or
one that may be contained in another. Documents linked by shared buckets, directly or through others, are a cluster.
Clusters are independent, so each is decided by itself, as many at a time as fit in memory. Members of a cluster need
not be similar: `choose` compares the pairs.

Properties of each document (its cluster, its batch, whether it has any bucket) are in memory-mapped files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.dedup.spill import DOCUMENTS_AT_A_TIME, Spill, mapped_numbers, mapped_zeros, parts_for
from data_prep.kernels.kernel import Places, kernel, part, read_only
from foundation.atomic_files import room_for

_ENTRY_FIELDS = (("document", "<i8"), ("bucket", "<i8"))
_ENTRY_BYTES = 16


@part
def _root(parent: Places, document: int) -> int:
    while parent[document] != document:
        parent[document] = parent[parent[document]]  # halve the path
        document = parent[document]
    return document


@kernel
def _unite(parent: Places, documents: Places, starts: Places) -> None:
    """Link the documents [starts[b], starts[b + 1]) of each bucket; the smallest number identifies a cluster."""
    for bucket in range(starts.shape[0] - 1):
        first = _root(parent, documents[starts[bucket]])
        for k in range(starts[bucket] + 1, starts[bucket + 1]):
            other = _root(parent, documents[k])
            if other < first:
                first, other = other, first
            parent[other] = first


@kernel
def _divide(
    parent: Places,
    candidates: Places,
    shingle_counts: Places,
    shingle_bytes: int,
    document_bytes: int,
    room: int,
    batch: Places,
) -> int:
    """Fill the batch of each candidate, initially zero, with clusters in the order of their first documents; return the
    number of batches."""
    for document in candidates:
        batch[_root(parent, document)] += shingle_counts[document] * shingle_bytes + document_bytes
    number, used = 0, 0
    for document in candidates:
        first = _root(parent, document)
        if first == document:
            size = batch[document]
            if used and used + size > room:
                number, used = number + 1, 0
            used += size
            batch[document] = number
        else:
            batch[document] = batch[first]
    return number + 1


@dataclass(frozen=True)
class Batch:
    """Some complete clusters; documents in the order of preference."""

    documents: npt.NDArray[np.int64]
    entry_starts: npt.NDArray[np.int64]
    """Document d has the buckets buckets[entry_starts[d] : entry_starts[d + 1]]."""
    buckets: npt.NDArray[np.int64]
    """Numbered from 0 in each batch."""


class Groups:
    """Collector of buckets, which then yields batches of clusters.

    Args:
        folder: folder for temporary files.
        documents: number of documents in the corpus.
        expected_entries: estimated number of entries (documents of buckets); affects the number of files only.
    """

    def __init__(self, folder: Path, documents: int, expected_entries: int, memory_bytes: int) -> None:
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._parent = mapped_numbers(folder / "groups", documents)
        self._is_candidate = mapped_zeros(folder / "is_candidate", np.bool_, documents)
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
        """Return the documents of any bucket, in the order of the corpus."""
        path = self._folder / "candidates"
        count = 0
        with room_for(path), open(path, "wb") as file:
            for start in range(0, len(self._is_candidate), DOCUMENTS_AT_A_TIME):
                found = start + np.flatnonzero(self._is_candidate[start : start + DOCUMENTS_AT_A_TIME])
                file.write(found.astype(np.int64).tobytes())
                count += len(found)
        return np.asarray(np.memmap(path, dtype=np.int64, mode="r")) if count else np.zeros(0, np.int64)

    def batches(
        self,
        candidates: npt.NDArray[np.int64],
        rank: npt.NDArray[np.int64],
        shingle_counts: npt.NDArray[np.int64],
        shingle_bytes: int,
        document_bytes: int,
    ) -> Iterator[Batch]:
        """Yield every cluster once, as many in a batch as fit in memory; a larger cluster is its own batch.

        Args:
            candidates: result of `candidates`.
            rank, shingle_counts: position in the order of preference and number of shingles of each document of the
                corpus.
            shingle_bytes, document_bytes: memory for each shingle and each document during comparison.
        """
        batch_of = mapped_zeros(self._folder / "batch_of", np.int64, len(self._parent))
        batches = _divide(
            self._parent,
            read_only(candidates),
            shingle_counts,
            shingle_bytes,
            document_bytes,
            self._memory_bytes,
            batch_of,
        )
        by_batch = Spill(self._folder, "batches", _ENTRY_FIELDS, batches, self._memory_bytes)
        for records in self._entries.read():
            by_batch.add(batch_of[records["document"]], records["document"], records["bucket"])
        for records in by_batch.read():
            yield _batch(records["document"], records["bucket"], rank)


def _batch(documents: npt.NDArray[np.int64], buckets: npt.NDArray[np.int64], rank: npt.NDArray[np.int64]) -> Batch:
    order = np.argsort(rank[documents], kind="stable")
    documents, buckets = documents[order], buckets[order]
    begins = np.ones(len(documents), dtype=bool)
    begins[1:] = documents[1:] != documents[:-1]
    starts = np.append(np.flatnonzero(begins), len(documents)).astype(np.int64)
    _, numbers = np.unique(buckets, return_inverse=True)
    return Batch(documents[begins], starts, numbers.astype(np.int64))
