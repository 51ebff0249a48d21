"""Clusters: documents linked by shared buckets, directly or through others, and batches of clusters.

Clusters are independent, so each is decided by itself, as many in a batch as fit in memory. Members of a cluster need
not be similar: `choose` compares the pairs.

This is one unit. It needs a bit for each document of the corpus and 24 bytes for each candidate, in memory-mapped
files: the system caches as much of them as it has memory for.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.dedup.records import BATCHES, EDGES
from data_prep.dedup.work import Unit
from data_prep.kernels.kernel import Hashes, Places, kernel, part
from data_prep.run.shuffle import Records, collect
from foundation.atomic_files import room_for

_SHINGLE_BYTES = 8
_BYTES_PER_ENTRY = 40
_BYTES_PER_CANDIDATE = 64
"""Memory of `choose` for each candidate besides shingles and signature."""
_LEAST_BATCH = 1 << 26
"""Bytes of a batch below which it costs more to start than to compare."""
_BATCHES = 256
"""Number of batches that keeps many workers busy."""


def mapped_zeros(path: Path, dtype: type, count: int) -> npt.NDArray[Any]:
    """Map a new file of zeros.

    Raises:
        NoRoomError: the disk is full.
    """
    if count == 0:
        return np.zeros(0, dtype)
    with room_for(path), open(path, "wb") as file:
        # allocated now, while a full disk raises an error: writing to an unallocated page of a map kills the process
        os.posix_fallocate(file.fileno(), 0, count * np.dtype(dtype).itemsize)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r+"))


@part
def _ones(word: np.uint64) -> np.int64:
    """Count the bits that are set. Source: Warren, Hacker's Delight, section 5-1."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@kernel
def _mark(bits: Hashes, documents: Places) -> None:
    for document in documents:
        bits[document >> 6] |= np.uint64(1) << np.uint64(document & 63)


@kernel
def _count(bits: Hashes, before: Places) -> None:
    """Fill the number of bits that are set before each word."""
    for word in range(bits.shape[0]):
        before[word + 1] = before[word] + _ones(bits[word])


@part
def _index(bits: Hashes, before: Places, document: int) -> int:
    """Return the number of a document among the candidates."""
    word = document >> 6
    lower = (np.uint64(1) << np.uint64(document & 63)) - np.uint64(1)
    index: int = before[word] + _ones(bits[word] & lower)
    return index


@kernel
def _list(bits: Hashes, start: int, stop: int, documents: Places) -> int:
    """Fill the candidates among the documents [start, stop); return their number."""
    count = 0
    for document in range(start, stop):
        if (bits[document >> 6] >> np.uint64(document & 63)) & np.uint64(1):
            documents[count] = document
            count += 1
    return count


@part
def _root(parent: Places, candidate: int) -> int:
    while parent[candidate] != candidate:
        parent[candidate] = parent[parent[candidate]]  # halve the path
        candidate = parent[candidate]
    return candidate


@kernel
def _unite(bits: Hashes, before: Places, parent: Places, firsts: Places, others: Places) -> None:
    """Link documents; the smallest number identifies a cluster."""
    for k in range(firsts.shape[0]):
        first = _root(parent, _index(bits, before, firsts[k]))
        other = _root(parent, _index(bits, before, others[k]))
        if other < first:
            first, other = other, first
        parent[other] = first


@kernel
def _number(numbers: Places) -> None:
    for k in range(numbers.shape[0]):
        numbers[k] = k


@kernel
def _divide(parent: Places, sizes: Places, room: int, batch: Places) -> int:
    """Fill the batch of each candidate, initially zero, with clusters in the order of their first documents; return the
    number of batches."""
    for candidate in range(parent.shape[0]):
        batch[_root(parent, candidate)] += sizes[candidate]
    number, used = 0, 0
    for candidate in range(parent.shape[0]):
        first = _root(parent, candidate)
        if first == candidate:
            size = batch[candidate]
            if used and used + size > room:
                number, used = number + 1, 0
            used += size
            batch[candidate] = number
        else:
            batch[candidate] = batch[first]
    return number + 1 if parent.shape[0] else 0


def make_batches(unit: Unit) -> None:
    """Spread the batch of each candidate: of each document of any bucket."""
    work = unit.work
    with tempfile.TemporaryDirectory(dir=work.folder) as temporary:
        folder = Path(temporary)
        bits = mapped_zeros(folder / "is_candidate", np.uint64, work.plan.documents // 64 + 1)
        for edges in _edges(unit):
            _mark(bits, edges["first"].copy())
            _mark(bits, edges["other"].copy())
        before = mapped_zeros(folder / "before", np.int64, len(bits) + 1)
        _count(bits, before)
        candidates = int(before[-1])
        parent, sizes, batch = (
            mapped_zeros(folder / name, np.int64, candidates) for name in ("parent", "sizes", "batch")
        )
        _number(parent)
        for edges in _edges(unit):
            _unite(bits, before, parent, edges["first"].copy(), edges["other"].copy())
        for bundle, documents, place in _candidates(unit, bits):
            shingles = work.signed(bundle)["shingle_count"][documents - work.plan.documents_of(bundle)[0]]
            sizes[place : place + len(documents)] = shingles * _SHINGLE_BYTES + _document_bytes(unit)
        room = min(work.config.dedup.memory_bytes, max(int(sizes.sum()) // _BATCHES, _LEAST_BATCH))
        batches = int(_divide(parent, sizes, room, batch))
        with unit.spread_by_bundle("batches", BATCHES) as run:
            for _, documents, place in _candidates(unit, bits):
                run.add(documents, batch[place : place + len(documents)])
    unit.counts.update(candidates=candidates, batches=batches)


def _edges(unit: Unit) -> Iterator[Records]:
    """Yield all edges, in any order."""
    work = unit.work
    for kind, count in work.finders_of_buckets():
        for path in work.paths(f"{kind}_edges", count):
            yield from collect([path], EDGES, 1, 0, work.memory_bytes)


def _candidates(unit: Unit, bits: npt.NDArray[np.uint64]) -> Iterator[tuple[int, npt.NDArray[np.int64], int]]:
    """Yield each bundle with its candidates and the number of candidates before them."""
    place = 0
    for bundle in range(unit.work.plan.bundle_count):
        start, stop = unit.work.plan.documents_of(bundle)
        documents = np.empty(stop - start, dtype=np.int64)
        documents = documents[: _list(bits, start, stop, documents)]
        yield bundle, documents, place
        place += len(documents)


def _document_bytes(unit: Unit) -> int:
    fingerprints = unit.work.config.fingerprints
    return 4 * fingerprints.permutations + _BYTES_PER_CANDIDATE + _BYTES_PER_ENTRY * fingerprints.bands
