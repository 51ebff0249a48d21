"""Evidence for each removal, and its two tables."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.config import DedupConfig
from data_prep.dedup.choose import Similar
from data_prep.dedup.spill import DOCUMENTS_AT_A_TIME, Spill, mapped_numbers, mapped_zeros, parts_for
from data_prep.run.manifest import Shard
from foundation.atomic_files import whole_file

PAIRS = pa.schema(
    [
        ("id_a", pa.string()),
        ("id_b", pa.string()),
        ("jaccard", pa.float64()),
        ("containment", pa.float64()),
        ("kind", pa.string()),
    ]
)
"""Columns of the pairs found: `id_a` is kept, `id_b` removed. Kind `near` means a verified similarity, `contained` that
`id_a` has the share `containment` of the shingles of `id_b`, `exact` the same bytes: there `id_a` is the preferred
copy, which may itself be removed as similar to another document."""
REMOVALS = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("duplicate_of", pa.string()),
        ("jaccard", pa.float64()),
        ("containment", pa.float64()),
    ]
)
"""Columns of the removals, a row for each removed document: `duplicate_of` is the kept document, followed by its
similarity."""

KINDS = ("exact", "near", "contained")
_EXACT, _NEAR, _CONTAINED = range(len(KINDS))
_PAIRS_PER_GROUP = 100_000
_PAIR_FIELDS = (("kept", "<i8"), ("gone", "<i8"), ("jaccard", "<f8"), ("containment", "<f8"), ("kind", "u1"))


@dataclass(frozen=True)
class Decided:
    """Decisions on consecutive documents."""

    duplicate_of: npt.NDArray[np.int64]
    """The kept document of which each is a copy, or -1."""
    kinds: npt.NDArray[np.uint8]
    """Kind of each removal, as an index into `KINDS`."""
    measures: npt.NDArray[np.float64]
    """`float64[documents, 2]`: Jaccard similarity and containment of removed documents with the kept one."""


class Evidence:
    """Decisions on each document; documents are numbered in the order of the manifest.

    Args:
        first: see `exact`.
        folder: folder for temporary files.
    """

    def __init__(self, first: npt.NDArray[np.int64], settings: DedupConfig, folder: Path) -> None:
        self._first, self._minimum_jaccard = first, settings.minimum_jaccard
        documents = len(first)
        self._stays = mapped_numbers(folder / "stays", documents)
        self._kind = mapped_zeros(folder / "kind", np.uint8, documents)
        self._measures = mapped_zeros(folder / "measures", np.float64, 2 * documents).reshape(-1, 2)
        parts = parts_for(documents, np.dtype(list(_PAIR_FIELDS)).itemsize, settings.memory_bytes)
        self._pairs = Spill(folder, "found", _PAIR_FIELDS, parts, settings.memory_bytes)

    def add(self, documents: npt.NDArray[np.int64], similar: Similar) -> None:
        """Add the result of `choose` for some documents."""
        goes = similar.duplicate_of >= 0
        gone = documents[goes]
        self._stays[gone] = documents[similar.duplicate_of[goes]]
        self._measures[gone] = np.stack((similar.jaccard[goes], similar.containment[goes]), axis=1)
        self._kind[gone] = self._kinds_by(similar.jaccard[goes])
        kept, gone = documents[similar.pairs].T
        jaccard = similar.pair_jaccard
        self._add_pairs(kept, gone, jaccard, similar.pair_containment, self._kinds_by(jaccard))

    def _kinds_by(self, jaccard: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
        return np.where(jaccard >= self._minimum_jaccard, _NEAR, _CONTAINED).astype(np.uint8)

    def _add_pairs(self, kept: npt.NDArray[np.int64], *columns: npt.NDArray[np.generic]) -> None:
        self._pairs.add(kept * self._pairs.parts // max(len(self._first), 1), kept, *columns)

    def goes(self, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Return which of the documents [start, stop) are removed."""
        is_other: npt.NDArray[np.bool_] = self._stays[self._first[start:stop]] != np.arange(start, stop)
        return is_other

    def decided(self, start: int, stop: int) -> Decided:
        """Return the decisions on documents [start, stop).

        An exact copy of a document that is removed as similar to another has the same similarity to the other.
        """
        first = self._first[start:stop]
        stays, here = self._stays[first], np.arange(start, stop)
        kinds = np.where((stays == first) & (first != here), _EXACT, self._kind[first])
        measures = np.where(kinds[:, None] == _EXACT, 1.0, self._measures[first])
        return Decided(np.where(stays == here, -1, stays), kinds, measures)

    def pairs(self) -> Iterator[npt.NDArray[np.void]]:
        """Yield records of kept (`kept`) and removed (`gone`) documents, sorted; can be read once."""
        for start in range(0, len(self._first), DOCUMENTS_AT_A_TIME):
            first = self._first[start : start + DOCUMENTS_AT_A_TIME]
            copies = np.flatnonzero(first != np.arange(start, start + len(first)))
            ones = np.ones(len(copies))
            self._add_pairs(first[copies], start + copies, ones, ones, np.full(len(copies), _EXACT, np.uint8))
        for records in self._pairs.read():
            yield records[np.lexsort((records["gone"], records["kept"]))]

    def write(
        self, folder: Path, shards: Sequence[Shard], shard_bounds: npt.NDArray[np.int64], counts: Counter[str]
    ) -> list[Path]:
        """Write `removals.parquet`, a row group for each shard, and `pairs.parquet`; count the kinds of removals.

        Args:
            shard_bounds: documents of shard s are [shard_bounds[s], shard_bounds[s + 1]).
        """
        ids = _Ids([shard.name for shard in shards], shard_bounds)
        paths = [folder / "removals.parquet", folder / "pairs.parquet"]
        by_kind = np.zeros(len(KINDS), np.int64)
        with whole_file(paths[0]) as partial_file, pq.ParquetWriter(partial_file, REMOVALS, compression="zstd") as file:
            for start, stop in itertools.pairwise(shard_bounds.tolist()):
                decided = self.decided(start, stop)
                gone = np.flatnonzero(decided.duplicate_of >= 0)
                by_kind += np.bincount(decided.kinds[gone], minlength=len(KINDS))
                if len(gone):
                    names, kept = _names(decided.kinds[gone]), ids.of(decided.duplicate_of[gone])
                    columns = (ids.of(start + gone), names, kept, *decided.measures[gone].T)
                    file.write_table(_table(columns, REMOVALS))
        counts.update(dict(zip(KINDS, by_kind.tolist(), strict=True)))
        with whole_file(paths[1]) as partial_file, pq.ParquetWriter(partial_file, PAIRS, compression="zstd") as file:
            for rows in _in_groups(self.pairs(), _PAIRS_PER_GROUP):
                columns = (ids.of(rows["kept"]), ids.of(rows["gone"]), rows["jaccard"], rows["containment"])
                file.write_table(_table((*columns, _names(rows["kind"])), PAIRS))
        return paths


def _in_groups(parts: Iterator[npt.NDArray[np.void]], size: int) -> Iterator[npt.NDArray[np.void]]:
    """Regroup records into arrays of `size`."""
    held: list[npt.NDArray[np.void]] = []
    for part in parts:
        for start in range(0, len(part), size):
            held.append(part[start : start + size])
            if sum(map(len, held)) >= size:
                joined = np.concatenate(held)
                yield joined[:size]
                held = [joined[size:]]
    if sum(map(len, held)):
        yield np.concatenate(held)


class _Ids:
    """Ids of documents by number."""

    def __init__(self, shards: Sequence[str], shard_bounds: npt.NDArray[np.int64]) -> None:
        self._shards, self._bounds = shards, shard_bounds

    def of(self, documents: npt.NDArray[np.int64]) -> pa.Array:
        shard = np.searchsorted(self._bounds, documents, side="right") - 1
        rows = documents - self._bounds[shard]
        ids = [document_id(self._shards[s], row) for s, row in zip(shard.tolist(), rows.tolist(), strict=True)]
        return pa.array(ids, pa.string())


def document_id(shard: str, row: int) -> str:
    """Return the id of a row of a shard, as the extract stage writes it."""
    return f"{shard}/{row:07d}"


def _names(kinds: npt.NDArray[np.integer]) -> pa.Array:
    return pa.array([KINDS[kind] for kind in kinds.tolist()], pa.string())


def _table(columns: Sequence[object], schema: pa.Schema) -> pa.Table:
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
