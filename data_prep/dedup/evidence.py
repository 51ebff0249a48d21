"""Evidence for each removal, and its two tables, a file for each bundle of shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.dedup.records import KINDS, PAIRS, REMOVALS
from data_prep.dedup.work import Unit, Work
from data_prep.run.shuffle import Records, joined

_MEASURES = [("jaccard", pa.float64()), ("containment", pa.float64())]
PAIR_COLUMNS = pa.schema([("id_a", pa.string()), ("id_b", pa.string()), *_MEASURES, ("kind", pa.string())])
"""Columns of the pairs found: `id_a` is kept, `id_b` removed. Kind `near` means a verified similarity, `contained` that
`id_a` has the share `containment` of the shingles of `id_b`, `exact` the same bytes: there `id_a` is the preferred
copy, which may itself be removed as similar to another document."""
REMOVAL_COLUMNS = pa.schema([("id", pa.string()), ("kind", pa.string()), ("duplicate_of", pa.string()), *_MEASURES])
"""Columns of the removals, a row for each removed document: `duplicate_of` is the kept document, followed by its
similarity."""

_PAIRS_PER_GROUP = 100_000


def write_pairs(unit: Unit) -> None:
    """Write the pairs whose kept document is in a bundle, and spread the removals that follow from its decisions.

    An exact copy of a document that is removed as similar to another has the same similarity to the other.
    """
    work, bundle = unit.work, unit.number
    exact, near = ("exact_pairs", work.plan.hash_ranges), ("pairs", work.batches)
    decisions = joined(work.by_bundle([("decisions", work.batches)], REMOVALS, bundle), REMOVALS)
    decided = decisions["document"].copy()
    with unit.spread_by_bundle("removals", REMOVALS) as removals:
        removals.add(*(decisions[name] for name, _ in REMOVALS.fields))
        for pairs in work.by_bundle([exact], PAIRS, bundle):
            # a copy of a kept document is a copy of it; that of a removed one is similar to what this one is similar to
            copies = REMOVALS.of(pairs["gone"], pairs["kept"], pairs["jaccard"], pairs["containment"], pairs["kind"])
            places = np.searchsorted(decided, pairs["kept"])
            is_removed = np.append(decided, -1)[places] == pairs["kept"]
            for name, _ in REMOVALS.fields[1:]:
                copies[name][is_removed] = decisions[name][places[is_removed]]
            removals.add(*(copies[name] for name, _ in REMOVALS.fields))
    ids = Ids(work)
    with (
        unit.output_file(work.part("pairs", bundle)) as path,
        pq.ParquetWriter(path, PAIR_COLUMNS, compression="zstd") as file,
    ):
        for rows in _in_groups(work.by_bundle([exact, near], PAIRS, bundle), _PAIRS_PER_GROUP):
            columns = (ids.of(rows["kept"]), ids.of(rows["gone"]), rows["jaccard"], rows["containment"])
            file.write_table(_table((*columns, _names(rows["kind"])), PAIR_COLUMNS))


def write_removals(unit: Unit) -> None:
    """Write the removed documents of a bundle, a row group for each shard, and count them by kind and source."""
    work, bundle = unit.work, unit.number
    removed = read_removals(work, bundle)
    ids = Ids(work)
    by_kind = np.bincount(removed["kind"], minlength=len(KINDS)).tolist()
    unit.counts.update(dict(zip(KINDS, by_kind, strict=True)))
    with (
        unit.output_file(work.part("removals", bundle)) as path,
        pq.ParquetWriter(path, REMOVAL_COLUMNS, compression="zstd") as file,
    ):
        for shard, start, stop in work.shards_of(bundle):
            rows = removed[slice(*np.searchsorted(removed["document"], (start, stop)))]
            key = f"removed:{shard.source}"
            unit.counts[key] = unit.counts.get(key, 0) + len(rows)
            if len(rows):
                columns = (ids.of(rows["document"]), _names(rows["kind"]), ids.of(rows["duplicate_of"]))
                file.write_table(_table((*columns, rows["jaccard"], rows["containment"]), REMOVAL_COLUMNS))


def read_removals(work: Work, bundle: int) -> Records:
    """Return the removed documents of a bundle, `REMOVALS`."""
    return joined(work.by_bundle([("removals", work.plan.bundle_count)], REMOVALS, bundle), REMOVALS)


def _in_groups(blocks: Iterator[Records], size: int) -> Iterator[Records]:
    """Regroup records into arrays of `size`."""
    held: list[Records] = []
    for block in blocks:
        for start in range(0, len(block), size):
            held.append(block[start : start + size])
            if sum(map(len, held)) >= size:
                together = np.concatenate(held)
                yield together[:size]
                held = [together[size:]]
    if sum(map(len, held)):
        yield np.concatenate(held)


class Ids:
    """Ids of documents by number."""

    def __init__(self, work: Work) -> None:
        self._work, self._bounds = work, work.plan.shard_bounds

    def of(self, documents: npt.NDArray[np.int64]) -> pa.Array:
        shards = np.searchsorted(self._bounds, documents, side="right") - 1
        rows = documents - self._bounds[shards]
        names = {shard: self._work.shard(shard).name for shard in np.unique(shards).tolist()}
        ids = [document_id(names[shard], row) for shard, row in zip(shards.tolist(), rows.tolist(), strict=True)]
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
