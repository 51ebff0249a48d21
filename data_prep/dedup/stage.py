"""The dedup stage: signals to removals, pairs and lines.

`find` defines duplicates and which copy is kept.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.config import DataConfig
from data_prep.dedup.evidence import Evidence
from data_prep.dedup.find import Finder, OtherTextError, Signatures
from data_prep.dedup.lines import write_line_cuts
from data_prep.dedup.texts import read_texts
from data_prep.rules import rules_of_source
from data_prep.rules.decide import failures, rule_settings
from data_prep.run.commit_records import Stage, committed_digest, read_records
from data_prep.run.directory import RunDirectory
from data_prep.run.documents import read_columns
from data_prep.run.manifest import Shard, load_manifest
from foundation.progress import Progress

VERSION = 3
UNIT = "all"


def dedup_stage(config: DataConfig, run: RunDirectory) -> Stage:
    """Return the stage with what removals depend on: signals and texts, similarity, and the rules, which decide which
    copy is preferred."""
    shards = load_manifest(run).shard_names
    settings = {
        "fingerprints": config.fingerprints.model_dump(mode="json"),
        "dedup": config.dedup.model_dump(mode="json", exclude={"memory_bytes"}),
        "rules": rule_settings(config),
    }
    return Stage(run, "dedup", VERSION, settings, committed_digest(run, "measure", shards))


def dedup(config: DataConfig, run: RunDirectory) -> None:
    """Write `dedup/pairs.parquet`, `dedup/removals.parquet` and, if lines are cut, `dedup/lines.parquet`.

    A source that loses more than `dedup.alarm_share` is named on standard error and in the commit record.

    Raises:
        StaleOutputError: removals on disk are from other settings or signals.
        ValueError: the measure stage is not complete, or one of its files cannot be read.
    """
    stage = dedup_stage(config, run)
    if stage.is_done(UNIT):
        print("dedup: already done")
        return
    shards = load_manifest(run).shards
    records = read_records(run, "measure")
    measured = [records[shard.name].counts for shard in shards]
    shard_bounds = np.cumsum([0, *(counts["documents"] for counts in measured)], dtype=np.int64)
    scratch = run.dedup / "scratch.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        samples = sum(counts["sampled_shingles"] for counts in measured)
        finder = Finder(config.dedup, config.fingerprints, int(shard_bounds[-1]), samples, scratch)
        with Progress("dedup: read signals", len(shards), "shards") as progress:
            for shard, start in zip(shards, shard_bounds.tolist(), strict=False):
                finder.add(_read_shard(config, run, shard, start))
                progress.advance()
        candidates = finder.propose()
        _add_candidates(run, shards, shard_bounds, candidates, finder, config.fingerprints.permutations)
        with Progress("dedup: verify", len(candidates), "documents") as progress:
            evidence = finder.decide(progress.advance)
        counts: Counter[str] = Counter(documents=int(shard_bounds[-1]), candidates=len(candidates), **finder.tallies)
        paths = evidence.write(run.dedup, shards, shard_bounds, counts)
        if config.dedup.lines != "none":
            paths.append(run.dedup / "lines.parquet")

            def stays(start: int, stop: int) -> npt.NDArray[np.bool_]:
                return ~finder.fails_rules[start:stop] & ~evidence.goes(start, stop)

            counts["lines"] = write_line_cuts(paths[-1], config.dedup, run, shards, shard_bounds, stays, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    counts.update(_alarms(run, evidence, shards, shard_bounds, config.dedup.alarm_share))
    stage.commit(UNIT, paths, counts)


def _read_shard(config: DataConfig, run: RunDirectory, shard: Shard, start: int) -> Signatures:
    """Read the signatures of one shard, whose documents are numbered from `start`."""
    rules = rules_of_source(config, shard.source)
    asked = {"language", *(rule.signal for rule in rules)}
    names = asked | {"exact_hash", "shingle_count", "minhash"}
    has_samples = config.dedup.minimum_containment is not None
    table = _read_signals(run, shard, sorted(names | {"sampled_shingles"} if has_samples else names))
    columns = {name: table.column(name).to_numpy() for name in asked}
    has_signature, minima = _signatures(table, config.fingerprints.permutations)
    samples, lengths = np.empty(0, dtype=np.uint64), np.zeros(len(table), dtype=np.int64)
    if has_samples:
        lists = table.column("sampled_shingles")
        samples = _flat(lists).to_numpy().astype(np.uint64)
        lengths = pc.list_value_length(lists).to_numpy().astype(np.int64)
    return Signatures(
        start,
        np.asarray(failures(columns, rules).any(axis=1)),
        _fixed_bytes(table.column("exact_hash")).view("<u8").reshape(-1, 2).astype(np.uint64),
        table.column("shingle_count").to_numpy(),
        has_signature,
        minima,
        samples,
        lengths,
    )


def _add_candidates(
    run: RunDirectory,
    shards: Sequence[Shard],
    shard_bounds: npt.NDArray[np.int64],
    candidates: npt.NDArray[np.int64],
    finder: Finder,
    permutations: int,
) -> None:
    """Pass signatures and texts of the candidates to the finder."""
    with finder.taking_candidates(), Progress("dedup: read candidates", len(candidates), "documents") as progress:
        for s, shard in enumerate(shards):
            start, stop = np.searchsorted(candidates, shard_bounds[s : s + 2])
            rows = candidates[start:stop] - shard_bounds[s]
            if not len(rows):
                continue
            minima = _signatures(_read_signals(run, shard, ["minhash"]).take(rows), permutations)[1]
            try:
                finder.add_candidates(minima, (text for text, _ in read_texts(run, shard, rows)))
            except OtherTextError as error:
                raise ValueError(
                    f"{run.corpus / shard.name}.parquet: {error}; `--restart measure` measures again"
                ) from None
            progress.advance(int(stop - start))


def _read_signals(run: RunDirectory, shard: Shard, names: Sequence[str]) -> pa.Table:
    path = run.signals / f"{shard.name}.parquet"
    try:
        return read_columns(path, names).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: not a readable file of signals ({error}); `--restart measure` writes it again"
        ) from error


def _flat(column: pa.ChunkedArray) -> pa.Array:
    flat = pc.list_flatten(column)
    return flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat


def _signatures(table: pa.Table, permutations: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint32]]:
    """Return which documents have a signature (those with shingles), and the signatures of these."""
    lists = table.column("minhash")
    return pc.list_value_length(lists).to_numpy() > 0, _flat(lists).to_numpy().reshape(-1, permutations)


def _fixed_bytes(column: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """Return the bytes of a column of fixed width, concatenated."""
    width = column.type.byte_width
    parts = [
        np.frombuffer(chunk.buffers()[1], dtype=np.uint8)[chunk.offset * width : (chunk.offset + len(chunk)) * width]
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate([np.empty(0, dtype=np.uint8), *parts])


def _alarms(
    run: RunDirectory,
    evidence: Evidence,
    shards: Sequence[Shard],
    shard_bounds: npt.NDArray[np.int64],
    alarm_share: float,
) -> dict[str, int]:
    """Warn of each source that loses too much; return the counts `removed:<source>` and `alarm:<source>`."""
    total: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for s, shard in enumerate(shards):
        start, stop = shard_bounds[s : s + 2].tolist()
        total[shard.source] += stop - start
        lost[shard.source] += int(evidence.goes(start, stop).sum())
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
