"""Verification: the texts of candidates are spread to the batches of their clusters, and each batch is decided.

The shingle sets that verify pairs are computed again from the texts, for candidates only.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from data_prep.dedup.choose import Similar, choose
from data_prep.dedup.preference import preferences
from data_prep.dedup.records import (
    BATCH_ENTRIES,
    BATCHES,
    CONTAINED,
    ENTRIES,
    MEMBERS,
    NEAR,
    PAIRS,
    REMOVALS,
)
from data_prep.dedup.signatures import read_minima
from data_prep.dedup.texts import read_texts
from data_prep.dedup.work import Unit, Work
from data_prep.run.shuffle import Records, joined
from data_prep.signals.fingerprints import shingle_set
from foundation.atomic_files import room_for

_COPIED_BYTES = 1 << 22
_TEXTS_AT_A_TIME = 1024


def spread_texts(unit: Unit) -> None:
    """Spread the candidates of a bundle by batch: their buckets, signatures and sets of shingles."""
    work, bundle = unit.work, unit.number
    bounds = np.arange(1, work.batches)
    candidates = joined(work.by_bundle([("batches", 1)], BATCHES, bundle), BATCHES)
    documents, batch = candidates["document"].copy(), candidates["batch"].copy()
    signed = work.signed(bundle)[documents - work.plan.documents_of(bundle)[0]]
    sizes = signed["shingle_count"]
    order = np.argsort(batch, kind="stable")
    rows, starts = np.empty(len(order), dtype=np.int64), np.empty(len(order), dtype=np.int64)
    rows[order] = np.arange(len(order))
    starts[order] = np.cumsum(sizes[order]) - sizes[order]
    with unit.spread("members", MEMBERS, bounds) as members:
        members.add(batch, documents, preferences(signed, work.has_containment), rows, starts, sizes)
    with unit.spread("batch_entries", BATCH_ENTRIES, bounds) as entries:
        finders = [(f"{kind}_entries", count) for kind, count in work.finders_of_buckets()]
        for records in work.by_bundle(finders, ENTRIES, bundle):
            places = np.searchsorted(documents, records["document"])
            entries.add(batch[places], records["document"], records["bucket"])
    if len(documents):
        with (
            unit.scratch_file("minima") as minima_path,
            unit.scratch_file("shingles") as shingles_path,
            open(minima_path, "wb") as minima_file,
            open(shingles_path, "wb") as shingles_file,
        ):
            for places, minima, shingles in _signatures(work, bundle, documents, sizes):
                by_row = np.argsort(rows[places])
                cuts = np.flatnonzero(np.diff(rows[places][by_row]) > 1) + 1
                for piece in np.split(by_row, cuts):  # documents of one batch, which are consecutive in the files
                    first = places[piece[0]]
                    os.pwrite(minima_file.fileno(), minima[piece].data, int(rows[first]) * minima[0].nbytes)
                    together = np.concatenate([shingles[k] for k in piece.tolist()])
                    os.pwrite(shingles_file.fileno(), together.data, int(starts[first]) * together.itemsize)


def _signatures(
    work: Work, bundle: int, documents: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32], list[npt.NDArray[np.uint64]]]]:
    """Yield numbers, signatures and shingles of some candidates of a bundle.

    Raises:
        ValueError: a text differs from the one that was measured.
    """
    run, fingerprints = work.stage.run, work.config.fingerprints
    for shard, start, stop in work.shards_of(bundle):
        first, last = np.searchsorted(documents, (start, stop)).tolist()
        rows = documents[first:last] - start
        if not len(rows):
            continue
        has_signature, minima = read_minima(run, shard, fingerprints.permutations)
        signatures = (np.cumsum(has_signature) - 1)[rows]
        texts = read_texts(run, shard, rows)
        for place in range(first, last, _TEXTS_AT_A_TIME):
            places = np.arange(place, min(place + _TEXTS_AT_A_TIME, last))
            sets = [shingle_set(text, fingerprints.shingle_words) for text, _ in itertools.islice(texts, len(places))]
            for one, measured in zip(sets, sizes[places].tolist(), strict=True):
                if len(one) != measured:
                    raise ValueError(
                        f"{run.corpus / shard.name}.parquet: a text has {len(one)} shingles, {measured} were measured; "
                        "`--restart measure` measures again"
                    )
            yield places, minima[signatures[places - first]], sets


def verify(unit: Unit) -> None:
    """Decide on the documents of a batch, see `choose`."""
    work, settings = unit.work, unit.work.config.dedup
    members = joined(work.by_batch("members", MEMBERS, unit.number), MEMBERS)
    entries = joined(work.by_batch("batch_entries", BATCH_ENTRIES, unit.number), BATCH_ENTRIES)
    documents, sizes = members["document"].copy(), members["shingle_count"].copy()
    order = np.lexsort((documents, members["preference"]))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    owners = rank[np.searchsorted(documents, entries["document"])]
    by_owner = np.argsort(owners, kind="stable")
    entry_starts = np.searchsorted(owners[by_owner], np.arange(len(order) + 1)).astype(np.int64)
    _, buckets = np.unique(entries["bucket"][by_owner], return_inverse=True)
    with (
        tempfile.TemporaryFile(dir=work.folder) as minima_file,
        tempfile.TemporaryFile(dir=work.folder) as shingles_file,
    ):
        with room_for(work.path("batch", unit.number)):
            _gather(work, members, minima_file, shingles_file)
        similar = choose(
            entry_starts,
            buckets.astype(np.int64),
            np.asarray(np.memmap(minima_file, np.uint32, "r")).reshape(-1, work.config.fingerprints.permutations),
            order.astype(np.int64),
            np.asarray(np.memmap(shingles_file, np.uint64, "r")),
            (np.cumsum(sizes) - sizes)[order],
            sizes[order],
            settings.minimum_jaccard,
            settings.minimum_containment,
        )
    _spread_evidence(unit, documents[order], similar)
    unit.counts.update(
        proposed_pairs=similar.proposed, verified_pairs=similar.verified, similar_pairs=len(similar.pairs)
    )


def _gather(work: Work, members: Records, minima_file: IO[bytes], shingles_file: IO[bytes]) -> None:
    """Copy signatures and shingles of a batch, which are consecutive in the files of each bundle."""
    bundles = np.searchsorted(work.plan.bundle_starts, members["document"], "right") - 1
    signature_bytes = 4 * work.config.fingerprints.permutations
    for bundle in np.unique(bundles).tolist():
        mine = members[bundles == bundle]
        first, last = mine[0], mine[-1]
        _copy(
            work.path("minima", bundle),
            int(first["row"]) * signature_bytes,
            int(last["row"] + 1) * signature_bytes,
            minima_file,
        )
        _copy(
            work.path("shingles", bundle),
            int(first["start"]) * 8,
            int(last["start"] + last["shingle_count"]) * 8,
            shingles_file,
        )
    minima_file.flush()
    shingles_file.flush()


def _copy(path: Path, start: int, stop: int, target: IO[bytes]) -> None:
    """Append the bytes [start, stop) of a file to another one."""
    with open(path, "rb") as file:
        file.seek(start)
        while start < stop:
            data = file.read(min(stop - start, _COPIED_BYTES))
            assert data, f"{path} ends too early"
            target.write(data)
            start += len(data)


def _spread_evidence(unit: Unit, documents: npt.NDArray[np.int64], similar: Similar) -> None:
    """Spread the removed documents of a batch, and the pairs."""
    minimum = unit.work.config.dedup.minimum_jaccard

    def kinds(jaccard: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        return np.where(jaccard >= minimum, NEAR, CONTAINED)

    with unit.spread_by_bundle("decisions", REMOVALS) as decisions:
        goes = similar.duplicate_of >= 0
        jaccard = similar.jaccard[goes]
        kept = documents[similar.duplicate_of[goes]]
        decisions.add(documents[goes], kept, jaccard, similar.containment[goes], kinds(jaccard))
    with unit.spread_by_bundle("pairs", PAIRS) as pairs:
        kept, gone = documents[similar.pairs].T
        pairs.add(kept, gone, similar.pair_jaccard, similar.pair_containment, kinds(similar.pair_jaccard))
