"""The decide stage: which documents are kept, and all reasons against the others.

Reasons are listed in the order of `rules.RULE_SETS` and of the rules in each set, then `duplicate.exact`,
`duplicate.near`, `duplicate.contained`, or `duplicate.lines`, `duplicate.sentences`, `duplicate.substrings` or
`duplicate.similar_sentences` (all of its text is shared; the one that cuts most), then `urls.pages_per_domain`. The
first reason is counted. So a document counts as a duplicate only if no rule drops it; the dedup stage ensures that it
is a copy of a kept document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.config import DataConfig
from data_prep.dedup.parts import rows_of_shard
from data_prep.domains import suffix_digest
from data_prep.edits import merge_cuts
from data_prep.rules import Rule, capped_sources, rules_of_source
from data_prep.rules.urls import PAGES_PER_DOMAIN
from data_prep.run.commit_records import Stage, StaleOutputError, committed_digest, read_records
from data_prep.run.directory import RunDirectory
from data_prep.run.documents import VERDICTS, read_columns, with_kept_digest
from data_prep.run.executors import run_units
from data_prep.run.manifest import load_manifest, manifest_at
from data_prep.signals.web_statistics import DATASET, PAPER, c4_cuts
from foundation.atomic_files import digest

VERSION = 4

_CUTTING = {"c4_paper": PAPER, "c4_dataset": DATASET}
"""Variants of C4 by rule sets that also cut lines of kept documents."""
CUT_BY_DEDUP = ("lines", "sentences", "substrings", "similar_sentences")
"""Settings of deduplication that cut parts of documents, and the folders of their results."""


def decide_stage(config: DataConfig, run: RunDirectory) -> Stage:
    """Return the stage with what verdicts depend on: the signals, the removals, and each threshold."""
    shards = load_manifest(run).shard_names
    inputs = digest([committed_digest(run, "measure", shards), committed_digest(run, "dedup", ["all"])])
    return Stage(run, "decide", VERSION, {"rules": rule_settings(config)}, inputs)


def rule_settings(config: DataConfig) -> dict[str, Any]:
    """Return all thresholds of all sources, for the records of stages that depend on them."""
    settings = {
        source.name: {rule.name: rule.describe() for rule in rules_of_source(config, source.name)}
        for source in config.sources
    }
    for name in capped_sources(config):
        decided_by = f"seed {config.seed}, list of suffixes {suffix_digest()[:12]}"
        settings[name][PAGES_PER_DOMAIN] = f"pages of a domain at most {config.urls.pages_per_domain} ({decided_by})"
    return settings


def decide(config: DataConfig, run: RunDirectory) -> None:
    """Write `verdicts/<shard>.parquet`, with the columns of `documents.VERDICTS`.

    Raises:
        StaleOutputError: verdicts or removals on disk are from other rules or signals.
        ValueError: an earlier stage is not complete.
    """
    stage = decide_stage(config, run)
    _refuse_other_rules(config, run)
    work = partial(decide_shard, stage=stage, config=config)
    run_units(work, load_manifest(run).shard_names, config.workers, "decide", stage)


def _refuse_other_rules(config: DataConfig, run: RunDirectory) -> None:
    """Refuse rules other than those of the dedup stage: a document could be dropped as the copy of a dropped one."""
    before = read_records(run, "dedup")["all"].settings["rules"]
    for source, rules in rule_settings(config).items():
        for name in sorted(rules.keys() | before.get(source, {}).keys()):
            old, new = before.get(source, {}).get(name, "(not applied)"), rules.get(name, "(not applied)")
            if old != new:
                raise StaleOutputError(
                    f"decide: the rule {name} of source {source} is {new!r}, duplicates were removed with {old!r}; "
                    "restore it, or run with `--restart dedup`"
                )


def decide_shard(name: str, stage: Stage, config: DataConfig) -> None:
    """Decide on one shard, in the order of its documents."""
    run = stage.run
    manifest = manifest_at(run.manifest, stage.inputs)
    source = manifest.shard(name).source
    rules = rules_of_source(config, source)
    signals = read_signals(run.signals / f"{name}.parquet", rules, ("byte_count",))
    removed = {row["id"]: row for row in rows_of_shard(run.dedup / "removals", manifest, name)}
    shared: dict[str, list[tuple[int, int]]] = {}
    cut_most: dict[str, tuple[int, str]] = {}
    for folder in CUT_BY_DEDUP:
        if getattr(config.dedup, folder) in ("none", None):
            continue
        by_document: dict[str, list[tuple[int, int]]] = {}
        for row in rows_of_shard(run.dedup / folder, manifest, name):
            by_document.setdefault(row["id"], []).append((row["start"], row["end"]))
        for identity, ranges in by_document.items():
            shared[identity] = merge_cuts([*shared.get(identity, []), *ranges])
            cut_most[identity] = max(cut_most.get(identity, (0, "")), (_total(ranges), folder))
    sizes = dict(zip(signals["id"].tolist(), signals["byte_count"].tolist(), strict=True))
    for identity, ranges in shared.items():
        if _total(ranges) == sizes[identity]:
            removed[identity] = {"kind": cut_most[identity][1], "duplicate_of": None}
    capped = source in capped_sources(config)
    over = {row["id"] for row in rows_of_shard(run.dedup / "over", manifest, name)} if capped else set()
    verdicts = judge(signals, rules, removed, source, over)
    variants = [variant for name, variant in _CUTTING.items() if name in _rule_sets(config, source)]
    cut_bytes = 0
    if variants or shared:
        ids, kept = verdicts.column("id").to_pylist(), verdicts.column("kept").to_pylist()
        of_rules = _cuts(run.corpus / f"{name}.parquet", kept, variants) if variants else ([] for _ in ids)
        cuts = [
            [{"start": start, "end": end} for start, end in merge_cuts([*ranges, *shared.get(identity, [])])]
            if is_kept
            else []
            for identity, is_kept, ranges in zip(ids, kept, of_rules, strict=True)
        ]
        cut_bytes = sum(piece["end"] - piece["start"] for ranges in cuts for piece in ranges)
        place = VERDICTS.get_field_index("cuts")
        verdicts = verdicts.set_column(place, VERDICTS.field(place), pa.array(cuts, VERDICTS.field(place).type))
    path = run.verdicts / f"{name}.parquet"
    digests: dict[Path, str] = {}
    with stage.new_file(digests)(path) as partial_file:
        pq.write_table(with_kept_digest(verdicts), partial_file, compression="zstd")
    stage.commit(name, [path], {**count_verdicts(verdicts), "cut_bytes": cut_bytes}, digests=digests)


def _total(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(stop - start for start, stop in ranges)


def _rule_sets(config: DataConfig, source: str) -> tuple[str, ...]:
    return next(candidate.rules for candidate in config.sources if candidate.name == source)


def _cuts(corpus: Path, kept: Sequence[bool], variants: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """Yield the ranges that C4's line rules remove from each kept document; with several variants, those of any."""
    with pq.ParquetFile(corpus) as file:
        rows = (
            text.as_py()
            for batch in file.iter_batches(256, columns=["text"], use_threads=False)
            for text in batch.column(0).cast("binary")
        )
        for text, is_kept in zip(rows, kept, strict=True):
            yield merge_cuts(cut for variant in variants for cut in c4_cuts(text, variant)) if is_kept else []


def read_signals(path: Path, rules: Sequence[Rule], more: Sequence[str] = ()) -> dict[str, npt.NDArray[Any]]:
    """Read `id`, `language`, `more` and the columns of the rules as arrays.

    Raises:
        ValueError: the file cannot be read.
    """
    names = {"id", "language", *more, *(name for rule in rules for name in rule.signals)}
    columns = sorted({name.partition(".")[0] for name in names})
    try:
        table = read_columns(path, columns)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: not a readable file of signals ({error}); `--restart measure` writes it again"
        ) from error
    return {name: _column_of(table, name).to_numpy(zero_copy_only=False) for name in sorted(names)}


def _column_of(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column, or of a column of maps the values of a key: `scores.educational`."""
    column, _, key = name.partition(".")
    found = table.column(column)
    if not key:
        return found
    return pc.cast(pc.map_lookup(found, pa.scalar(key, found.type.key_type), "first"), pa.float64())


def failures(signals: Mapping[str, npt.NDArray[Any]], rules: Sequence[Rule]) -> npt.NDArray[np.bool_]:
    """Return which document fails which rule: `bool[documents, rules]`."""
    failed = np.zeros((len(signals["language"]), len(rules)), dtype=bool)
    for column, rule in enumerate(rules):
        failed[:, column] = rule.fails(signals)
    return failed


def judge(
    signals: Mapping[str, npt.NDArray[Any]],
    rules: Sequence[Rule],
    removals: Mapping[str, Mapping[str, Any]],
    source: str,
    over: Collection[str] = (),
) -> pa.Table:
    """Decide on documents of one source.

    Args:
        signals: columns as arrays, among them `id` and `language`.
        removals: rows of `dedup/removals` by id.
        over: ids of pages of domains that have too many.
    """
    failed = failures(signals, rules)
    names = np.array([rule.name for rule in rules], dtype=object)
    reasons: list[list[str]] = [list(names[row]) if row.any() else [] for row in failed]
    duplicate_of: list[str | None] = [None] * len(reasons)
    if removals:
        for d, identity in enumerate(signals["id"]):
            removal = removals.get(identity)
            if removal is not None:
                reasons[d].append(f"duplicate.{removal['kind']}")
                duplicate_of[d] = removal["duplicate_of"]
    if over:
        for d, identity in enumerate(signals["id"]):
            if identity in over:
                reasons[d].append(PAGES_PER_DOMAIN)
    return pa.table(
        {
            "id": pa.array(signals["id"], pa.string()),
            "source": pa.array([source] * len(reasons), pa.string()),
            "language": pa.array(signals["language"], pa.string()),
            "kept": pa.array([not against for against in reasons], pa.bool_()),
            "reasons": pa.array(reasons, pa.list_(pa.string())),
            "duplicate_of": pa.array(duplicate_of, pa.string()),
            "cuts": pa.array([[]] * len(reasons), VERDICTS.field("cuts").type),
        },
        schema=VERDICTS,
    )


def count_verdicts(verdicts: pa.Table) -> dict[str, int]:
    """Count `documents`, `kept`, and `dropped:<reason>` by the first reason; documents = kept + all dropped."""
    counts: Counter[str] = Counter(documents=len(verdicts), kept=0)
    for reasons in verdicts.column("reasons").to_pylist():
        counts[f"dropped:{reasons[0]}" if reasons else "kept"] += 1
    return dict(counts)
