"""The dedup stage: signals to removals, pairs and lines, in steps of units that machines can share.

**Which copy is kept.** Documents that pass the rules of their source are preferred to those that do not, so that no
document is dropped as the copy of one that is dropped itself. Of these, the ones that arrived first are preferred, so
that what arrives later removes nothing. If contained documents are removed, those with more shingles are preferred,
because a book must be kept for its pages to be removed. Otherwise the first document in the corpus is preferred:
sources in the order of the configuration, their files sorted, rows in their order.

**Pages of a domain** are counted after that, see `domains`, and lines are compared last, so that no document costs
another one anything that is itself left out.

**Memory** does not grow with the corpus: a unit needs `memory_bytes`, or the signals of one shard if they are more. Two
exceptions are a cluster of documents linked by shared bands, about 600 bytes for each of its documents, and the unit
that finds clusters, see `groups`.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data_prep.compile_kernels import DEDUP, compile_kernels
from data_prep.config import DataConfig
from data_prep.dedup import similar_sentences
from data_prep.dedup.contained import find_anchor_pairs, find_containers, spread_samples
from data_prep.dedup.domains import rank_pages, spread_pages, write_over
from data_prep.dedup.evidence import write_pairs, write_removals
from data_prep.dedup.exact import find_copies, spread_hashes
from data_prep.dedup.groups import make_batches
from data_prep.dedup.lines import cut_lines, find_repeats, spread_lines
from data_prep.dedup.near import find_buckets, spread_bands
from data_prep.dedup.records import KINDS
from data_prep.dedup.spans import KINDS as SPANS
from data_prep.dedup.spans import Kind, cut_spans, find_repeated_spans, ranges_of, spread_spans
from data_prep.dedup.verify import spread_texts, verify
from data_prep.dedup.work import Plan, Unit, Work
from data_prep.rules.decide import rule_settings
from data_prep.run.commit_records import Stage, committed_digest, read_records
from data_prep.run.directory import RunDirectory
from data_prep.run.executors import ShareDone, run_units
from data_prep.run.manifest import load_manifest

VERSION = 5
UNIT = "all"
_BYTES_PER_LINE, _BYTES_PER_TOKEN = 40, 4
"""Estimated bytes of a line and of a token; affect the number of units only."""


@dataclass(frozen=True)
class Step:
    """Units that depend on those of earlier steps only.

    Args:
        kinds: by name of a kind of unit, what it does, and the number of units.
    """

    title: str
    kinds: Mapping[str, tuple[Callable[[Unit], None], Callable[[Work], int]]]

    def units(self, work: Work) -> list[str]:
        return [f"{kind}-{number:05d}" for kind, (_, count) in self.kinds.items() for number in range(count(work))]


def _bundles(work: Work) -> int:
    return work.plan.bundle_count


def _bundles_if_contained(work: Work) -> int:
    return work.plan.bundle_count if work.has_containment else 0


def _bundles_if_similar(work: Work) -> int:
    return work.plan.bundle_count if work.batches else 0


def _bundles_if_capped(work: Work) -> int:
    return work.plan.bundle_count if work.capped_sources else 0


def _bundles_if_lines(work: Work) -> int:
    return work.plan.bundle_count if work.has_lines else 0


def _bundles_if_sentences(work: Work) -> int:
    return work.plan.bundle_count if similar_sentences.is_used(work) else 0


def _write_removals(unit: Unit) -> None:
    """Write the removals of a bundle, and spread what the next step compares of the documents that are left."""
    write_removals(unit)
    if unit.work.capped_sources:
        spread_pages(unit)
    else:
        _spread_text(unit)


def _write_over(unit: Unit) -> None:
    """Write the pages of a bundle that are too many, and spread what is compared of the others."""
    write_over(unit)
    _spread_text(unit)


def _spread_text(unit: Unit) -> None:
    if unit.work.has_lines:
        spread_lines(unit)
    for kind in SPANS:
        if kind.is_used(unit.work.config.dedup):
            spread_spans(unit, kind)
    if similar_sentences.is_used(unit.work):
        similar_sentences.spread_sentences(unit)


def _find_spans(kind: Kind) -> tuple[Callable[[Unit], None], Callable[[Work], int]]:
    return partial(find_repeated_spans, kind=kind), partial(ranges_of, kind=kind)


def _cut_spans(kind: Kind) -> tuple[Callable[[Unit], None], Callable[[Work], int]]:
    return partial(cut_spans, kind=kind), lambda work: work.plan.bundle_count if ranges_of(work, kind) else 0


STEPS = (
    Step("hash documents", {"hashes": (spread_hashes, _bundles)}),
    Step("find exact copies", {"copies": (find_copies, lambda work: work.plan.hash_ranges)}),
    Step(
        "read signatures",
        {"bands": (spread_bands, _bundles), "samples": (spread_samples, _bundles_if_contained)},
    ),
    Step(
        "find buckets",
        {
            "buckets": (find_buckets, lambda work: work.plan.band_ranges),
            "anchors": (find_anchor_pairs, lambda work: work.plan.sample_ranges if work.has_containment else 0),
        },
    ),
    Step("find containing documents", {"containers": (find_containers, _bundles_if_contained)}),
    Step("find clusters", {"groups": (make_batches, lambda work: 1)}),
    Step("read candidates", {"texts": (spread_texts, _bundles_if_similar)}),
    Step("verify", {"verify": (verify, lambda work: work.batches)}),
    Step("write pairs", {"pairs": (write_pairs, _bundles)}),
    Step("write removals", {"removals": (_write_removals, _bundles)}),
    Step(
        "count pages of domains",
        {"pages": (rank_pages, lambda work: work.plan.domain_ranges if work.capped_sources else 0)},
    ),
    Step("leave pages out", {"over": (_write_over, _bundles_if_capped)}),
    Step(
        "find repeated text",
        {
            "repeats": (find_repeats, lambda work: work.plan.line_ranges if work.has_lines else 0),
            **{f"{kind.name}-copies": _find_spans(kind) for kind in SPANS},
            "sentence-buckets": (
                similar_sentences.propose,
                lambda work: work.plan.line_ranges if similar_sentences.is_used(work) else 0,
            ),
        },
    ),
    Step("read similar sentences", {"sentence-texts": (similar_sentences.send_pairs, _bundles_if_sentences)}),
    Step("compare similar sentences", {"sentence-pairs": (similar_sentences.compare, _bundles_if_sentences)}),
    Step(
        "decide on similar sentences",
        {"sentence-chains": (similar_sentences.decide_sentences, lambda work: int(similar_sentences.is_used(work)))},
    ),
    Step(
        "cut repeated text",
        {
            "cuts": (cut_lines, _bundles_if_lines),
            **{f"{kind.name}-cuts": _cut_spans(kind) for kind in SPANS},
            "similar-cuts": (similar_sentences.cut_sentences, _bundles_if_sentences),
        },
    ),
)
"""What the stage does, in this order."""


def run_unit(name: str, work: Work) -> None:
    """Do one unit."""
    kind, _, number = name.rpartition("-")
    function = next(step.kinds[kind][0] for step in STEPS if kind in step.kinds)
    unit = Unit(work, name, int(number))
    function(unit)
    unit.commit()


def dedup_stage(config: DataConfig, run: RunDirectory) -> Stage:
    """Return the stage with what removals depend on: signals and texts, similarity, and the rules, which decide which
    copy is preferred."""
    shards = load_manifest(run).shard_names
    settings = {
        "fingerprints": config.fingerprints.model_dump(mode="json"),
        "dedup": config.dedup.model_dump(mode="json", exclude={"memory_bytes"}),
        "rules": rule_settings(config),
        "arrivals": {source.name: source.arrival for source in config.sources if source.arrival},
    }
    return Stage(run, "dedup", VERSION, settings, committed_digest(run, "measure", shards))


def dedup(config: DataConfig, run: RunDirectory) -> None:
    """Write `dedup/pairs/`, `dedup/removals/` and, if lines are cut, `dedup/lines/`, a file for each bundle of shards.

    A source that loses more than `dedup.alarm_share` is named on standard error and in the commit record. A process
    with a share does its part of the first step that is not complete.

    Raises:
        StaleOutputError: removals on disk are from other settings or signals.
        UnitError: one of the files of the measure stage cannot be read.
        ValueError: the measure stage is not complete.
        ShareDone: this process has a share of the stage, and its units of a step are done.
    """
    stage = dedup_stage(config, run)
    if stage.is_done(UNIT):
        _clean(stage)
        print("dedup: already done")
        return
    work = Work(unit_stage(stage, config), config, plan_of(config, run))
    asked = similar_sentences.is_used(work) or any(kind.is_used(config.dedup) for kind in SPANS)
    compile_kernels((*DEDUP, "spans") if asked else DEDUP)
    for number, step in enumerate(STEPS, start=1):
        work = replace(work, batches=_batches(work.stage))
        units = step.units(work)
        title = f"dedup: {step.title} (step {number} of {len(STEPS)})"
        try:
            if units:
                run_units(partial(run_unit, work=work), units, config.workers, title, work.stage)
        except ShareDone:
            if not all(work.stage.is_done(unit) for unit in units):
                raise
    if run.share is not None:
        raise ShareDone("dedup: all steps are done; a process without a share completes the stage")
    _complete(stage, work)


def unit_stage(stage: Stage, config: DataConfig) -> Stage:
    """Return the stage of the units, which also depend on the memory that the corpus is divided by."""
    settings = {**stage.settings, "dedup": config.dedup.model_dump(mode="json")}
    return Stage(stage.run, stage.name, stage.version, settings, stage.inputs)


def plan_of(config: DataConfig, run: RunDirectory) -> Plan:
    """Return the division of the corpus."""
    shards = load_manifest(run).shards
    records = read_records(run, "measure")
    measured = [records[shard.name].counts for shard in shards]
    raw_bytes = sum(shard.raw_bytes for shard in shards)
    return Plan.of(
        [counts["documents"] for counts in measured],
        config.fingerprints.bands,
        sum(counts["sampled_shingles"] for counts in measured),
        raw_bytes // _BYTES_PER_LINE,
        config.dedup.memory_bytes,
        raw_bytes // _BYTES_PER_TOKEN,
    )


def _batches(stage: Stage) -> int:
    """Return the number of batches; 0 before they are made."""
    groups = stage.record("groups-00000")
    return groups.counts["batches"] if groups is not None else 0


def _complete(stage: Stage, work: Work) -> None:
    """Commit the stage with the outputs and counts of its units, and remove what they have left for each other."""
    counts: Counter[str] = Counter(proposed_pairs=0, verified_pairs=0, similar_pairs=0, **dict.fromkeys(KINDS, 0))
    counts["documents"] = work.plan.documents
    outputs: dict[Path, str] = {}
    names = [unit for step in STEPS for unit in step.units(work)]
    for name, record in stage.records().items():
        if name in names:
            counts.update({key: count for key, count in record.counts.items() if key != "batches"})
            outputs |= {stage.run.root / path: checksum for path, checksum in record.checksums.items()}
    counts.update(_alarms(stage.run, counts, work))
    stage.commit(UNIT, sorted(outputs), counts, digests=outputs)
    _clean(stage)


def _clean(stage: Stage) -> None:
    """Remove the files and records of the units of a complete stage, unless other processes may be reading them."""
    if stage.run.share is None:
        stage.forget_others(UNIT)
        shutil.rmtree(stage.run.dedup / "work", ignore_errors=True)


def _alarms(run: RunDirectory, counts: Mapping[str, int], work: Work) -> dict[str, int]:
    """Warn of each source that loses too much; return the counts `alarm:<source>`."""
    total: Counter[str] = Counter()
    for shard in range(len(work.plan.shard_bounds) - 1):
        start, stop = work.plan.shard_bounds[shard : shard + 2].tolist()
        total[work.shard(shard).source] += stop - start
    alarms: dict[str, int] = {}
    for source in sorted(total):
        lost = counts[f"removed:{source}"]
        if lost > work.config.dedup.alarm_share * total[source]:
            alarms[f"alarm:{source}"] = lost
            print(
                f"warning: source {source} loses {lost:,} of {total[source]:,} documents to duplicates, more "
                f"than dedup.alarm_share {work.config.dedup.alarm_share:g}; look at {run.dedup / 'removals'}",
                file=sys.stderr,
            )
    return alarms
