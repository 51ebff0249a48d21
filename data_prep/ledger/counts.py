"""Counts of all documents: in = kept + dropped for each reason, by source and by language."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data_prep.config import DataConfig
from data_prep.conversations.encoding import LEFT_OUT
from data_prep.crawl.state import counts_of
from data_prep.indexed_dataset.origins import PADDING, origins_path
from data_prep.ledger.samples import Draw, largest_clusters, show_samples
from data_prep.run.commit_records import Stage, committed_digest, read_records
from data_prep.run.directory import RunDirectory
from data_prep.run.documents import PASSED_OVER, read_columns
from data_prep.run.inputs import resolve
from data_prep.run.manifest import Manifest, load_manifest
from data_prep.sources.storage import scheme_of
from foundation.atomic_files import digest, write_json, write_text
from foundation.progress import Progress

VERSION = 2
UNKNOWN_LANGUAGE = "(not read)"
"""Language of documents that were set aside before their language was identified."""
PROBABILITY_BINS = 20


class LedgerError(ValueError):
    """Documents were lost or added between two stages."""


@dataclass
class Account:
    """Counts of the documents of one source, one language, or all."""

    documents_in: int = 0
    kept: int = 0
    dropped: int = 0
    by_reason: Counter[str] = field(default_factory=Counter)
    """Dropped documents by the first reason; these add up."""
    against: Counter[str] = field(default_factory=Counter)
    """Dropped documents by every reason against them."""
    alone: Counter[str] = field(default_factory=Counter)
    """Documents that would be kept without this reason."""
    bytes_in: int = 0
    bytes_kept: int = 0
    lengths: dict[bool, Counter[int]] = field(default_factory=lambda: {True: Counter(), False: Counter()})
    """Documents of [2^(n-1), 2^n) bytes, by kept or not and by n."""
    probabilities: dict[bool, Counter[int]] = field(default_factory=lambda: {True: Counter(), False: Counter()})
    """Documents by kept or not and by twentieth of the probability of their language."""

    def set_aside(self, reason: str, count: int) -> None:
        self.documents_in += count
        self.dropped += count
        for reasons in (self.by_reason, self.against, self.alone):
            reasons[reason] += count

    def judge(self, reasons: list[str], text_bytes: int, probability: float) -> None:
        """Count a document, which is kept if there is no reason against it."""
        self.documents_in += 1
        self.bytes_in += text_bytes
        self.lengths[not reasons][text_bytes.bit_length()] += 1
        self.probabilities[not reasons][min(int(probability * PROBABILITY_BINS), PROBABILITY_BINS - 1)] += 1
        if not reasons:
            self.kept += 1
            self.bytes_kept += text_bytes
            return
        self.dropped += 1
        self.by_reason[reasons[0]] += 1
        self.against.update(reasons)
        if len(reasons) == 1:
            self.alone[reasons[0]] += 1

    def check(self, name: str) -> None:
        """Raise LedgerError unless in = kept + dropped = kept + each reason."""
        reasons = sum(self.by_reason.values())
        if self.documents_in != self.kept + self.dropped or self.dropped != reasons:
            raise LedgerError(
                f"{name}: {self.documents_in} documents in, {self.kept} kept, {self.dropped} dropped, "
                f"{reasons} reasons: the ledger does not balance"
            )

    def as_json(self) -> dict[str, Any]:
        return {
            "in": self.documents_in,
            "kept": self.kept,
            "dropped": self.dropped,
            "by_reason": _descending(self.by_reason),
            "by_any_reason": {
                reason: {"against": count, "alone": self.alone[reason]}
                for reason, count in _descending(self.against).items()
            },
            "bytes_in": self.bytes_in,
            "bytes_kept": self.bytes_kept,
            "by_bytes_from": {
                str(1 << (n - 1) if n else 0): {"kept": self.lengths[True][n], "dropped": self.lengths[False][n]}
                for n in sorted(self.lengths[True].keys() | self.lengths[False].keys())
            },
            "by_language_probability_from": {
                f"{n / PROBABILITY_BINS:.2f}": {
                    "kept": self.probabilities[True][n],
                    "dropped": self.probabilities[False][n],
                }
                for n in sorted(self.probabilities[True].keys() | self.probabilities[False].keys())
            },
        }


def _descending(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


@dataclass
class Accounts:
    total: Account = field(default_factory=Account)
    by_source: dict[str, Account] = field(default_factory=dict)
    by_language: dict[str, Account] = field(default_factory=dict)

    def of(self, source: str, language: str) -> tuple[Account, Account, Account]:
        return (
            self.total,
            self.by_source.setdefault(source, Account()),
            self.by_language.setdefault(language, Account()),
        )

    def check(self) -> None:
        self.total.check("all sources")
        for part, accounts in (("source", self.by_source), ("language", self.by_language)):
            for name, account in accounts.items():
                account.check(f"{part} {name}")
            for count in ("documents_in", "kept", "dropped"):
                parts, whole = sum(getattr(account, count) for account in accounts.values()), getattr(self.total, count)
                if parts != whole:
                    raise LedgerError(f"{count}: the {part}s add up to {parts}, all documents are {whole}")


def count_documents(manifest: Manifest, run: RunDirectory, draw: Draw | None = None) -> Accounts:
    """Count documents by the records of extract, the signals and the verdicts, shard by shard.

    Args:
        draw: receives every dropped document, with each reason against it.

    Raises:
        LedgerError: a document has no verdict, a dropped one has no reason, a kept one has a reason, or the sums
            differ.
    """
    accounts = Accounts()
    extracted = read_records(run, "extract")
    for source in manifest.sources:
        accounts.by_source.setdefault(source.name, Account())
    with Progress("ledger: count", len(manifest.shards), "shards") as progress:
        for shard in manifest.shards:
            _count_shard(accounts, run, shard.name, shard.source, extracted[shard.name].counts, draw)
            progress.advance()
    accounts.check()
    return accounts


def _count_shard(
    accounts: Accounts, run: RunDirectory, name: str, source: str, counts: Mapping[str, int], draw: Draw | None
) -> None:
    for reason, count in counts.items():
        if reason.startswith("quarantine:"):
            for account in accounts.of(source, UNKNOWN_LANGUAGE):
                account.set_aside(reason, count)
    verdicts = read_columns(run.verdicts / f"{name}.parquet", ["id", "language", "kept", "reasons"]).to_pylist()
    signals = read_columns(run.signals / f"{name}.parquet", ["id", "byte_count", "language_probability"]).to_pylist()
    if not len(verdicts) == len(signals) == counts["documents"]:
        raise LedgerError(
            f"shard {name}: {counts['documents']} documents were extracted, {len(signals)} measured, "
            f"{len(verdicts)} decided"
        )
    for verdict, measured in zip(verdicts, signals, strict=True):
        if verdict["id"] != measured["id"]:
            raise LedgerError(f"shard {name}: the verdict on {verdict['id']} is in the row of {measured['id']}")
        reasons = verdict["reasons"]
        if bool(reasons) == verdict["kept"]:
            state = "kept with reasons against it" if verdict["kept"] else "dropped without a reason"
            raise LedgerError(f"document {verdict['id']} is {state}: {reasons}")
        for account in accounts.of(source, verdict["language"] or UNKNOWN_LANGUAGE):
            account.judge(reasons, measured["byte_count"], measured["language_probability"] or 0.0)
        if draw is not None:
            for reason in reasons:
                draw.offer(reason, verdict["id"])


def count_tokens(run: RunDirectory, accounts: Accounts) -> dict[str, Any] | None:
    """Read tokens by source from `tokens/mixture.yaml`; None before `tokenize`.

    Raises:
        LedgerError: the token files of a source have more or fewer documents than were kept.
    """
    path = run.tokens / "mixture.yaml"
    if not path.is_file():
        return None
    datasets = yaml.safe_load(path.read_text(encoding="utf-8"))["datasets"]
    by_source: dict[str, dict[str, Any]] = {}
    for dataset in datasets:
        counts = {name: int(dataset[name]) for name in ("documents", "tokens", "heldout_documents", "heldout_tokens")}
        by_source[dataset["name"]] = counts
    records = read_records(run, "tokenize")
    for name, account in accounts.by_source.items():
        found = by_source.get(name, {})
        counted = records[name].counts if name in records else {}
        if "conversations" in counted:
            documents, found["left_out"] = _conversations(run, name, counted)
        else:
            documents = found.get("documents", 0) + found.get("heldout_documents", 0)
        if documents != account.kept:
            raise LedgerError(f"source {name}: {account.kept} documents were kept, {documents} are in its token files")
    return {
        "train": sum(counts["tokens"] for counts in by_source.values()),
        "heldout": sum(counts["heldout_tokens"] for counts in by_source.values()),
        "by_source": by_source,
    }


def _conversations(run: RunDirectory, source: str, counts: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    """Return the number of conversations in token files or on the list of those left out, and the latter by reason.

    A conversation that is split has several sequences, which have its id.
    """
    left_out = {key.removeprefix(LEFT_OUT): count for key, count in counts.items() if key.startswith(LEFT_OUT)}
    prefixes = (run.tokens / source, run.tokens / f"{source}.heldout")
    packed = [np.load(path) for prefix in prefixes if (path := origins_path(prefix)).is_file()]
    found = np.unique(np.concatenate(packed)) if packed else np.empty(0, np.int64)
    return int(np.count_nonzero(found != PADDING)) + sum(left_out.values()), left_out


def count_passed_over(manifest: Manifest, run: RunDirectory) -> dict[str, Counter[str]]:
    """Count what was read and is not meant to be a document, such as redirects of a wiki, by source and by what it
    is."""
    found: dict[str, Counter[str]] = {source.name: Counter() for source in manifest.sources}
    records = read_records(run, "extract")
    for shard in manifest.shards:
        for key, count in records[shard.name].counts.items():
            if key.startswith(PASSED_OVER):
                found[shard.source][key.removeprefix(PASSED_OVER)] += count
    return found


def write_ledger(config: DataConfig, run: RunDirectory) -> None:
    """Write `ledger.json` and `ledger.html`; counting takes seconds, so it is repeated each time.

    Raises:
        LedgerError: the ledger does not balance.
        ValueError: an earlier stage is not complete.
    """
    from data_prep.ledger.page import page

    manifest = load_manifest(run)
    inputs = [committed_digest(run, stage, manifest.shard_names) for stage in ("extract", "measure", "decide")]
    ledger = build_ledger(config, manifest, run)
    paths = run.outputs_of("ledger")
    write_json(paths[0], ledger)
    write_text(paths[1], page(ledger, str(config.output)))
    stage = Stage(run, "ledger", VERSION, {}, digest(inputs))
    stage.commit("ledger", paths, {"documents": ledger["documents"]["in"]})


def build_ledger(config: DataConfig, manifest: Manifest, run: RunDirectory) -> dict[str, Any]:
    """Make the content of `ledger.json`."""
    draw = Draw(config.seed)
    accounts = count_documents(manifest, run, draw)
    passed_over = count_passed_over(manifest, run)
    paths = {source.name: source.paths for source in config.sources}
    return {
        "version": VERSION,
        "manifest": manifest.digest,
        "documents": {
            **accounts.total.as_json(),
            "by_source": {name: account.as_json() for name, account in sorted(accounts.by_source.items())},
            "by_language": {
                name: account.as_json()
                for name, account in sorted(
                    accounts.by_language.items(), key=lambda item: (-item[1].documents_in, item[0])
                )
            },
        },
        "tokens": count_tokens(run, accounts),
        "duplicates": largest_clusters(run),
        "samples": show_samples(config, manifest, run, draw),
        "input": {
            source.name: {
                "kind": source.kind,
                "files": len(source.files),
                "bytes": source.raw_bytes,
                "not_on_this_machine": list(source.missing),
                "skipped_by_suffix": dict(source.skipped),
                "passed_over": dict(sorted(passed_over[source.name].items())),
                "left_out_files": source.left_out_files,
                "left_out_bytes": source.left_out_bytes,
                "crawls": _crawls(paths.get(source.name, ())),
            }
            for source in manifest.sources
        },
    }


def _crawls(paths: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what the crawls have counted that filled some folders, by folder."""
    folders = [path for path in paths if scheme_of(path) is None]
    found = {path: counts_of(Path(resolve(path))) for path in folders}
    return {path: counts for path, counts in found.items() if counts is not None}


def load_ledger(run: RunDirectory) -> dict[str, Any]:
    path = run.outputs_of("ledger")[0]
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run `altiplano data ledger` first")
    ledger: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return ledger
