"""What was found, and the two tables that say so."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.dedup.choose import Similar
from data_prep.shards import Shard
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
"""Found copies: `id_a` stays, `id_b` goes. Kind `near` means a verified similarity, `contained` that `id_a` has the
share `containment` of the shingles of `id_b`, `exact` the same bytes: there `id_a` is the preferred copy, which may
itself go as similar to another document."""
REMOVALS = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("duplicate_of", pa.string()),
        ("jaccard", pa.float64()),
        ("containment", pa.float64()),
    ]
)
"""One row for each document that goes; `duplicate_of` is a document that stays, the numbers say how similar it is."""

KINDS = ("exact", "near", "contained")
_EXACT, _NEAR, _CONTAINED = range(len(KINDS))
_PAIRS_PER_GROUP = 1_000_000


class Evidence:
    """Collects what is decided of each document, numbered in the order of the manifest.

    Args:
        first: of `exact.first_copies`.
        minimum_jaccard: similarity from which a pair is called near, and below contained.
    """

    def __init__(self, first: npt.NDArray[np.int64], minimum_jaccard: float) -> None:
        self._first, self._minimum_jaccard = first, minimum_jaccard
        documents = len(first)
        self._stays = np.arange(documents, dtype=np.int64)
        self._kind = np.zeros(documents, dtype=np.uint8)
        self._measures = np.ones((documents, 2), dtype=np.float64)
        self._pairs: list[npt.NDArray[np.int64]] = []
        self._pair_measures: list[npt.NDArray[np.float64]] = []
        self._pair_kinds: list[npt.NDArray[np.uint8]] = []

    def add(self, documents: npt.NDArray[np.int64], similar: Similar) -> None:
        """Take over what `choose` said of some documents."""
        goes = similar.duplicate_of >= 0
        gone = documents[goes]
        self._stays[gone] = documents[similar.duplicate_of[goes]]
        self._measures[gone] = np.stack((similar.jaccard[goes], similar.containment[goes]), axis=1)
        self._kind[gone] = np.where(similar.jaccard[goes] >= self._minimum_jaccard, _NEAR, _CONTAINED)
        self._pairs.append(documents[similar.pairs])
        self._pair_measures.append(np.stack((similar.pair_jaccard, similar.pair_containment), axis=1))
        self._pair_kinds.append(
            np.where(similar.pair_jaccard >= self._minimum_jaccard, _NEAR, _CONTAINED).astype(np.uint8)
        )

    @property
    def duplicate_of(self) -> npt.NDArray[np.int64]:
        """For each document the one that stays in its place, or -1.

        The exact copy of a document that goes itself as similar to another is as similar as that to the other.
        """
        found = self._stays[self._first]
        return np.where(found == np.arange(len(found)), -1, found)

    @property
    def kinds(self) -> npt.NDArray[np.uint8]:
        """What each document that goes is, by its place in `KINDS`."""
        is_copy = (self._stays[self._first] == self._first) & (self._first != np.arange(len(self._first)))
        return np.where(is_copy, _EXACT, self._kind[self._first])

    @property
    def measures(self) -> npt.NDArray[np.float64]:
        """`float64[documents, 2]`: Jaccard similarity and containment with the one that stays; 1 of exact copies."""
        return np.where(self.kinds[:, None] == _EXACT, 1.0, self._measures[self._first])

    def pairs(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
        """Documents that stay with such that go, `int64[pairs, 2]`, sorted; their measures and kinds."""
        copies = np.flatnonzero(self._first != np.arange(len(self._first)))
        rows = np.concatenate((np.stack((self._first[copies], copies), axis=1), *self._pairs))
        measures = np.concatenate((np.ones((len(copies), 2)), *self._pair_measures))
        kinds = np.concatenate((np.full(len(copies), _EXACT, dtype=np.uint8), *self._pair_kinds))
        order = np.lexsort((rows[:, 1], rows[:, 0]))
        return rows[order], measures[order], kinds[order]

    def write(
        self, folder: Path, shards: Sequence[Shard], shard_bounds: npt.NDArray[np.int64], counts: Counter[str]
    ) -> list[Path]:
        """Write `removals.parquet`, a row group for each shard, and `pairs.parquet`; count the kinds of removals.

        Args:
            shard_bounds: documents of shard s are [shard_bounds[s], shard_bounds[s + 1]).
        """
        ids = _Ids([shard.name for shard in shards], shard_bounds)
        paths = [folder / "removals.parquet", folder / "pairs.parquet"]
        duplicate_of, kinds, measures = self.duplicate_of, self.kinds, self.measures
        counts.update(
            dict(zip(KINDS, np.bincount(kinds[duplicate_of >= 0], minlength=len(KINDS)).tolist(), strict=True))
        )
        with whole_file(paths[0]) as partial_file, pq.ParquetWriter(partial_file, REMOVALS, compression="zstd") as file:
            for start, stop in itertools.pairwise(shard_bounds.tolist()):
                gone = start + np.flatnonzero(duplicate_of[start:stop] >= 0)
                if len(gone):
                    columns = (ids.of(gone), _names(kinds[gone]), ids.of(duplicate_of[gone]), *measures[gone].T)
                    file.write_table(_table(columns, REMOVALS))
        rows, pair_measures, pair_kinds = self.pairs()
        with whole_file(paths[1]) as partial_file, pq.ParquetWriter(partial_file, PAIRS, compression="zstd") as file:
            for start in range(0, len(rows), _PAIRS_PER_GROUP):
                part = slice(start, start + _PAIRS_PER_GROUP)
                kept, gone = rows[part].T
                columns = (ids.of(kept), ids.of(gone), *pair_measures[part].T, _names(pair_kinds[part]))
                file.write_table(_table(columns, PAIRS))
        return paths


class _Ids:
    """The ids of documents by their numbers."""

    def __init__(self, shards: Sequence[str], shard_bounds: npt.NDArray[np.int64]) -> None:
        self._shards, self._bounds = shards, shard_bounds

    def of(self, documents: npt.NDArray[np.int64]) -> pa.Array:
        shard = np.searchsorted(self._bounds, documents, side="right") - 1
        rows = documents - self._bounds[shard]
        ids = [document_id(self._shards[s], row) for s, row in zip(shard.tolist(), rows.tolist(), strict=True)]
        return pa.array(ids, pa.string())


def document_id(shard: str, row: int) -> str:
    """The id of a row of a shard, as extract writes it."""
    return f"{shard}/{row:07d}"


def _names(kinds: npt.NDArray[np.integer]) -> pa.Array:
    return pa.array([KINDS[kind] for kind in kinds.tolist()], pa.string())


def _table(columns: Sequence[object], schema: pa.Schema) -> pa.Table:
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
