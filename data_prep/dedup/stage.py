"""The deduplicating stage.

**Which copy stays.** Documents that pass the rules of their source come before those that do not, so that no document
is ever dropped as the copy of one that is dropped itself; among equals the first in the manifest comes first: sources
in the order of the configuration, their files sorted, rows as they stand.

Held in memory: for each document its hash and signature, about 4 bytes a permutation; for each line, where lines are
asked for, its document and range, 26 bytes. The shingles that pairs are verified with are computed anew from the texts
of those documents that a band proposes, and held in a file that the system pages in as needed.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.config import DataConfig, FingerprintConfig
from data_prep.dedup.exact import first_copies
from data_prep.dedup.lines import find_repeats, hash_lines
from data_prep.dedup.near import NearDuplicates, buckets, find_near_duplicates
from data_prep.rules import rules_of_source
from data_prep.rules.decide import failures, rule_settings
from data_prep.shards import RunDirectory, Shard, Stage, committed_digest, load_manifest
from data_prep.signals.fingerprints import shingle_set
from foundation.atomic_files import whole_file
from foundation.progress import Progress

VERSION = 2
UNIT = "all"

PAIRS = pa.schema([("id_a", pa.string()), ("id_b", pa.string()), ("jaccard", pa.float64()), ("kind", pa.string())])
"""Found copies: `id_a` stays, `id_b` goes. Kind `exact` means the same bytes, `near` a verified similarity."""
LINES = pa.schema([("id", pa.string()), ("start", pa.int64()), ("end", pa.int64())])
"""Byte ranges of lines that go, in the order of the corpus."""
REMOVALS = pa.schema(
    [("id", pa.string()), ("kind", pa.string()), ("duplicate_of", pa.string()), ("jaccard", pa.float64())]
)
"""One row for each document that goes; `duplicate_of` is a document that stays, `jaccard` the similarity with it."""


def dedup_stage(config: DataConfig, run: RunDirectory) -> Stage:
    """What removals depend on: signals and texts, similarity, and the rules, which decide which copy is preferred."""
    shards = load_manifest(run).shard_names
    settings = {
        "fingerprints": config.fingerprints.model_dump(mode="json"),
        "dedup": config.dedup.model_dump(mode="json", exclude={"line_memory_bytes"}),
        "rules": rule_settings(config),
    }
    return Stage(run, "dedup", VERSION, settings, committed_digest(run, "measure", shards))


def dedup(config: DataConfig, run: RunDirectory) -> None:
    """Write `dedup/pairs.parquet` and `dedup/removals.parquet`.

    A source that loses more than `dedup.alarm_share` is named on standard error and in the commit record.

    Raises:
        StaleOutputError: removals on disk were made with other settings or from other signals.
        ValueError: the measuring stage is not complete, or a file of it cannot be read.
    """
    stage = dedup_stage(config, run)
    if stage.is_done(UNIT):
        print("dedup: done already")
        return
    shards = load_manifest(run).shards
    documents = _read(config, run, shards)
    preference = np.argsort(documents.fails_rules, kind="stable")
    first = preference[first_copies(documents.hashes[preference])[np.argsort(preference)]]
    is_first = first == np.arange(len(first))

    # documents without shingles have no signature and no near-duplicates
    candidates = preference[(is_first & documents.has_signature)[preference]]
    minima = documents.minima[candidates]
    bucket_of = buckets(minima, config.fingerprints.bands, config.fingerprints.rows)
    is_proposed = (bucket_of >= 0).any(axis=1)
    candidates, minima, bucket_of = candidates[is_proposed], minima[is_proposed], bucket_of[is_proposed]
    with (
        _shingles(run, shards, documents, candidates, config.fingerprints) as (shingles, starts, stops),
        Progress("dedup: verify", len(candidates), "documents") as progress,
    ):
        near = find_near_duplicates(
            bucket_of, minima, shingles, starts, stops, config.dedup.minimum_jaccard, progress.advance
        )
    removals, pairs = _evidence(documents, first, candidates, near)
    tables = {"removals": removals, "pairs": pairs}
    if config.dedup.lines != "none":
        tables["lines"] = _line_cuts(config, run, shards, documents, removals)
    paths = [run.dedup / f"{name}.parquet" for name in tables]
    for path, table in zip(paths, tables.values(), strict=True):
        with whole_file(path) as partial_file:
            pq.write_table(table, partial_file, compression="zstd")
    kinds = Counter(removals.column("kind").to_pylist())
    stage.commit(
        UNIT,
        paths,
        {
            "documents": len(first),
            "exact": kinds["exact"],
            "near": kinds["near"],
            "candidates": len(candidates),
            "proposed_pairs": near.proposed,
            "verified_pairs": near.verified,
            "similar_pairs": len(near.pairs),
            "lines": len(tables.get("lines", ())),
            **_alarms(run, documents, removals, shards, config.dedup.alarm_share),
        },
    )


@dataclass(frozen=True)
class _Documents:
    """All documents of the run, in the order of the manifest."""

    ids: pa.ChunkedArray
    hashes: npt.NDArray[np.uint64]
    minima: npt.NDArray[np.uint32]
    has_signature: npt.NDArray[np.bool_]
    fails_rules: npt.NDArray[np.bool_]
    shard_bounds: npt.NDArray[np.int64]
    """Documents of shard s are [shard_bounds[s], shard_bounds[s + 1])."""


def _read(config: DataConfig, run: RunDirectory, shards: Sequence[Shard]) -> _Documents:
    ids, hashes, minima, has_signature, fails_rules = [], [], [], [], []
    permutations = config.fingerprints.permutations
    with Progress("dedup: read signals", len(shards), "shards") as progress:
        for shard in shards:
            path = run.signals / f"{shard.name}.parquet"
            rules = rules_of_source(config, shard.source)
            names = sorted({"id", "exact_hash", "minhash", "language", *(rule.signal for rule in rules)})
            try:
                table = pq.read_table(path, columns=names).combine_chunks()
            except (pa.ArrowException, OSError) as error:
                raise ValueError(
                    f"{path}: not a readable file of signals ({error}); `--restart measure` makes it anew"
                ) from error
            ids.append(table.column("id"))
            digests = b"".join(table.column("exact_hash").to_pylist())
            hashes.append(np.frombuffer(digests, dtype="<u8").reshape(-1, 2))
            lists = table.column("minhash")
            present = pc.list_value_length(lists).to_numpy() > 0
            signatures = np.zeros((len(table), permutations), dtype=np.uint32)
            signatures[present] = pc.list_flatten(lists).to_numpy().reshape(-1, permutations)
            minima.append(signatures)
            has_signature.append(present)
            columns = {
                name: table.column(name).to_numpy() for name in names if name not in ("id", "exact_hash", "minhash")
            }
            fails_rules.append(failures(columns, rules).any(axis=1))
            progress.advance()
    return _Documents(
        pa.chunked_array([chunk for column in ids for chunk in column.chunks], pa.string()),
        np.concatenate(hashes).astype(np.uint64),
        np.concatenate(minima),
        np.concatenate(has_signature),
        np.concatenate(fails_rules),
        np.cumsum([0, *(len(part) for part in has_signature)]),
    )


@contextmanager
def _shingles(
    run: RunDirectory,
    shards: Sequence[Shard],
    documents: _Documents,
    candidates: npt.NDArray[np.int64],
    fingerprints: FingerprintConfig,
) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Shingle sets mapped from a temporary file; where that of each candidate starts and stops."""
    wanted = np.sort(candidates)
    sizes = np.zeros(len(wanted), dtype=np.int64)
    path = run.dedup / "shingles.partial"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("wb") as file, Progress("dedup: read candidates", len(wanted), "documents") as progress:
            for s, shard in enumerate(shards):
                start, stop = np.searchsorted(wanted, documents.shard_bounds[s : s + 2])
                rows = wanted[start:stop] - documents.shard_bounds[s]
                for k, text in enumerate(_read_texts(run.corpus / f"{shard.name}.parquet", rows)):
                    shingles = shingle_set(text, fingerprints.shingle_words)
                    sizes[start + k] = len(shingles)
                    shingles.tofile(file)
                progress.advance(int(stop - start))
        stored = np.memmap(path, dtype=np.uint64, mode="r") if sizes.sum() else np.empty(0, dtype=np.uint64)
        stops = np.cumsum(sizes)
        place = np.searchsorted(wanted, candidates)
        yield np.asarray(stored), (stops - sizes)[place], stops[place]
    finally:
        path.unlink(missing_ok=True)


def _read_texts(path: Path, rows: npt.NDArray[np.int64]) -> Iterator[bytes]:
    """UTF-8 texts of some rows of a document shard, given in rising order."""
    try:
        file = pq.ParquetFile(path)
        before = 0
        for group in range(file.num_row_groups):
            after = before + file.metadata.row_group(group).num_rows
            inside = rows[np.searchsorted(rows, before) : np.searchsorted(rows, after)]
            if len(inside):
                texts = file.read_row_group(group, columns=["text"]).column("text").take(inside - before)
                yield from texts.cast(pa.large_binary()).to_pylist()
            before = after
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: not a readable document shard ({error}); `--restart extract` makes it anew"
        ) from error


def _evidence(
    documents: _Documents, first: npt.NDArray[np.int64], candidates: npt.NDArray[np.int64], near: NearDuplicates
) -> tuple[pa.Table, pa.Table]:
    """The tables of removals and of pairs, in the order of the manifest.

    The exact copy of a document that goes itself as a near-duplicate is as similar as that to the one that stays.
    """
    stays = np.arange(len(first), dtype=np.int64)
    jaccard = np.ones(len(first), dtype=np.float64)
    goes_as_near = near.duplicate_of >= 0
    stays[candidates[goes_as_near]] = candidates[near.duplicate_of[goes_as_near]]
    jaccard[candidates[goes_as_near]] = near.jaccard[goes_as_near]
    duplicate_of, jaccard = stays[first], jaccard[first]
    removed = np.flatnonzero(duplicate_of != np.arange(len(first)))
    is_exact = duplicate_of[removed] == first[removed]
    is_exact &= first[removed] != removed
    removals = pa.table(
        {
            "id": documents.ids.take(removed),
            "kind": pa.array(np.where(is_exact, "exact", "near").tolist(), pa.string()),
            "duplicate_of": documents.ids.take(duplicate_of[removed]),
            "jaccard": jaccard[removed],
        },
        schema=REMOVALS,
    )
    copies = np.flatnonzero(first != np.arange(len(first)))
    kept = np.concatenate((first[copies], candidates[near.pairs[:, 0]]))
    gone = np.concatenate((copies, candidates[near.pairs[:, 1]]))
    similarity = np.concatenate((np.ones(len(copies)), near.pair_jaccard))
    kind = np.array(["exact"] * len(copies) + ["near"] * len(near.pairs), dtype=object)
    order = np.lexsort((gone, kept))
    pairs = pa.table(
        {
            "id_a": documents.ids.take(kept[order]),
            "id_b": documents.ids.take(gone[order]),
            "jaccard": similarity[order],
            "kind": pa.array(kind[order].tolist(), pa.string()),
        },
        schema=PAIRS,
    )
    return removals, pairs


def _line_cuts(
    config: DataConfig, run: RunDirectory, shards: Sequence[Shard], documents: _Documents, removals: pa.Table
) -> pa.Table:
    """The ranges of lines that go, of documents that stay."""
    ids = documents.ids.to_numpy(zero_copy_only=False)
    stays = ~documents.fails_rules & ~np.isin(ids.astype(str), np.array(removals.column("id").to_pylist(), dtype=str))
    path = run.dedup / "line_hashes.partial"
    path.parent.mkdir(parents=True, exist_ok=True)
    owners, starts, stops, blanks = [], [], [], []
    try:
        with path.open("wb") as file, Progress("dedup: lines", len(shards), "shards") as progress:
            for s, shard in enumerate(shards):
                bounds = documents.shard_bounds[s : s + 2]
                rows = np.flatnonzero(stays[bounds[0] : bounds[1]])
                texts = _read_texts(run.corpus / f"{shard.name}.parquet", rows)
                for row, text in zip(rows.tolist(), texts, strict=True):
                    data = np.frombuffer(text, dtype=np.uint8)
                    hashes, begins, ends = hash_lines(data, 0, len(data))
                    hashes.tofile(file)
                    owners.append(np.full(len(hashes), bounds[0] + row))
                    starts.append(begins)
                    stops.append(ends)
                    blanks.append(hashes == 0)
                progress.advance()
        groups, begins, ends = (
            np.concatenate([np.empty(0, dtype=np.int64), *part]).astype(np.int64) for part in (owners, starts, stops)
        )
        goes = find_repeats(
            path,
            groups,
            config.dedup.line_documents,
            config.dedup.lines == "keep_first",
            config.dedup.line_memory_bytes,
        )
    finally:
        path.unlink(missing_ok=True)
    # of a document that loses every line with a letter, the blank ones go as well
    is_blank = np.concatenate([np.empty(0, dtype=bool), *blanks])
    something_stays = np.zeros(len(ids), dtype=bool)
    something_stays[groups[~goes & ~is_blank]] = True
    loses_something = np.zeros(len(ids), dtype=bool)
    loses_something[groups[goes]] = True
    goes |= is_blank & (loses_something & ~something_stays)[groups]
    return pa.table(
        {"id": pa.array(ids[groups[goes]], pa.string()), "start": begins[goes], "end": ends[goes]}, schema=LINES
    )


def _alarms(
    run: RunDirectory, documents: _Documents, removals: pa.Table, shards: Sequence[Shard], alarm_share: float
) -> dict[str, int]:
    """Name each source that loses too much; counts `removed:<source>` and, where it does, `alarm:<source>`."""
    total: Counter[str] = Counter()
    for shard, size in zip(shards, np.diff(documents.shard_bounds).tolist(), strict=True):
        total[shard.source] += size
    lost = Counter(identity.rpartition("/")[0].rpartition("-")[0] for identity in removals.column("id").to_pylist())
    counts = {f"removed:{source}": lost[source] for source in sorted(total)}
    for source in sorted(total):
        if lost[source] > alarm_share * total[source]:
            counts[f"alarm:{source}"] = lost[source]
            print(
                f"warning: source {source} loses {lost[source]:,} of {total[source]:,} documents to duplicates, more "
                f"than dedup.alarm_share {alarm_share:g}; look at {run.dedup / 'removals.parquet'}",
                file=sys.stderr,
            )
    return counts
