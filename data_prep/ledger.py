"""What became of every document: in = kept + dropped for each reason, by source and by language."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq
import yaml

from data_prep.config import DataConfig
from data_prep.shards import Manifest, RunDirectory, Stage, committed_digest, load_manifest, read_records
from foundation.atomic_files import digest, write_json, write_text

VERSION = 1
UNKNOWN_LANGUAGE = "(not read)"
"""Language of what was set aside before its language was looked at."""


class LedgerError(ValueError):
    """Documents got lost, or appeared from nowhere, between two stages."""


@dataclass
class Account:
    """Documents of one source, one language, or all."""

    documents_in: int = 0
    kept: int = 0
    dropped: int = 0
    by_reason: Counter[str] = field(default_factory=Counter)
    bytes_in: int = 0
    bytes_kept: int = 0

    def drop(self, reason: str, count: int = 1) -> None:
        self.documents_in += count
        self.dropped += count
        self.by_reason[reason] += count

    def keep(self, text_bytes: int) -> None:
        self.documents_in += 1
        self.kept += 1
        self.bytes_kept += text_bytes

    def check(self, name: str) -> None:
        """Raises LedgerError unless in = kept + dropped = kept + each reason."""
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
            "by_reason": dict(sorted(self.by_reason.items(), key=lambda item: (-item[1], item[0]))),
            "bytes_in": self.bytes_in,
            "bytes_kept": self.bytes_kept,
        }


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


def count_documents(manifest: Manifest, run: RunDirectory) -> Accounts:
    """Go through extract's counts, the signals and the verdicts, shard by shard.

    Raises:
        LedgerError: a document has no verdict, a dropped one no reason, a kept one a reason, or the sums differ.
    """
    accounts = Accounts()
    extracted = read_records(run, "extract")
    for source in manifest.sources:
        accounts.by_source.setdefault(source.name, Account())
    for shard in manifest.shards:
        counts = extracted[shard.name].counts
        for name, count in counts.items():
            if name.startswith("quarantine:"):
                for account in accounts.of(shard.source, UNKNOWN_LANGUAGE):
                    account.drop(name, count)
        verdicts = pq.read_table(
            run.verdicts / f"{shard.name}.parquet", columns=["id", "language", "kept", "reasons"]
        ).to_pylist()
        sizes = pq.read_table(run.signals / f"{shard.name}.parquet", columns=["id", "byte_count"]).to_pylist()
        if not len(verdicts) == len(sizes) == counts["documents"]:
            raise LedgerError(
                f"shard {shard.name}: {counts['documents']} documents were extracted, {len(sizes)} measured, "
                f"{len(verdicts)} decided"
            )
        for verdict, size in zip(verdicts, sizes, strict=True):
            if verdict["id"] != size["id"]:
                raise LedgerError(
                    f"shard {shard.name}: the verdict on {verdict['id']} stands where {size['id']} was measured"
                )
            if bool(verdict["reasons"]) == verdict["kept"]:
                state = "kept with reasons against it" if verdict["kept"] else "dropped without a reason"
                raise LedgerError(f"document {verdict['id']} is {state}: {verdict['reasons']}")
            for account in accounts.of(shard.source, verdict["language"] or UNKNOWN_LANGUAGE):
                account.bytes_in += size["byte_count"]
                if verdict["kept"]:
                    account.keep(size["byte_count"])
                else:
                    account.drop(verdict["reasons"][0])
    accounts.check()
    return accounts


def count_tokens(run: RunDirectory, accounts: Accounts) -> dict[str, Any] | None:
    """Tokens by source as `tokens/mixture.yaml` has them; None before `tokenize`.

    Raises:
        LedgerError: a source has other documents in its token files than were kept.
    """
    path = run.tokens / "mixture.yaml"
    if not path.is_file():
        return None
    datasets = yaml.safe_load(path.read_text(encoding="utf-8"))["datasets"]
    by_source: dict[str, dict[str, int]] = {}
    for dataset in datasets:
        counts = {name: int(dataset[name]) for name in ("documents", "tokens", "heldout_documents", "heldout_tokens")}
        by_source[dataset["name"]] = counts
    for name, account in accounts.by_source.items():
        found = by_source.get(name, {})
        documents = found.get("documents", 0) + found.get("heldout_documents", 0)
        if documents != account.kept:
            raise LedgerError(f"source {name}: {account.kept} documents were kept, {documents} are in its token files")
    return {
        "train": sum(counts["tokens"] for counts in by_source.values()),
        "heldout": sum(counts["heldout_tokens"] for counts in by_source.values()),
        "by_source": by_source,
    }


def write_ledger(config: DataConfig, run: RunDirectory) -> None:
    """Write `ledger.json` and `ledger.html`; counting takes seconds, so it is done anew each time.

    Raises:
        LedgerError: the books do not balance.
        ValueError: an earlier stage is not complete.
    """
    from data_prep.ledger_page import page

    manifest = load_manifest(run)
    inputs = [committed_digest(run, stage, manifest.shard_names) for stage in ("extract", "measure", "decide")]
    ledger = build_ledger(manifest, run)
    paths = run.outputs_of("ledger")
    write_json(paths[0], ledger)
    write_text(paths[1], page(ledger, str(config.output)))
    stage = Stage(run, "ledger", VERSION, {}, digest(inputs))
    stage.commit("ledger", paths, {"documents": ledger["documents"]["in"]})


def build_ledger(manifest: Manifest, run: RunDirectory) -> dict[str, Any]:
    """The content of `ledger.json`."""
    accounts = count_documents(manifest, run)
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
        "input": {
            source.name: {
                "kind": source.kind,
                "files": len(source.files),
                "bytes": source.raw_bytes,
                "not_on_this_machine": list(source.missing),
                "skipped_by_suffix": dict(source.skipped),
                "left_out_files": source.left_out_files,
                "left_out_bytes": source.left_out_bytes,
            }
            for source in manifest.sources
        },
    }


def load_ledger(run: RunDirectory) -> dict[str, Any]:
    path = run.outputs_of("ledger")[0]
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run `python -m data_prep ledger` first")
    ledger: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return ledger
