"""Why one document was kept or dropped: its text, its signals against each threshold, and what it is a copy of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.config import DataConfig
from data_prep.extract import place_of, quarantined
from data_prep.rules import rules_of_source
from data_prep.rules.rule import explain as outcomes_of
from data_prep.shards import Manifest, RunDirectory, load_manifest

_TEXT_CHARACTERS = 600
_LONG_SIGNALS = ("id", "minhash", "sampled_shingles", "exact_hash", "pii_spans")

_LIKENESS = {"exact": "exact copy of", "near": "near copy of", "contained": "contained in"}


def explain(config: DataConfig, run: RunDirectory, document: str) -> str:
    """Everything the run knows about a document, as text for people.

    Args:
        document: its id, or the path (or the end of the path) of a raw file that was set aside.

    Raises:
        ValueError: there is no such document.
    """
    manifest = load_manifest(run)
    match = re.fullmatch(r"(.+)/(\d+)", document)
    if match is None or match.group(1) not in manifest.shard_names:
        return _set_aside(manifest, run, document)
    shard, row = match.group(1), int(match.group(2))
    identity = f"{shard}/{row:07d}"
    return "\n".join(_explain(config, manifest, run, shard, identity, row))


def _explain(
    config: DataConfig, manifest: Manifest, run: RunDirectory, shard: str, identity: str, row: int
) -> Iterator[str]:
    found = _row(run.corpus / f"{shard}.parquet", identity, row, "extract")
    yield f"{identity}: {found['url']}"
    yield f"  source {found['source']}, metadata {found['metadata']}"
    text = found["text"]
    yield f"  text, {len(text):,} characters" + (
        f", the first {_TEXT_CHARACTERS}:" if len(text) > _TEXT_CHARACTERS else ":"
    )
    yield from (f"  | {line}" for line in text[:_TEXT_CHARACTERS].splitlines())

    signals = _row(run.signals / f"{shard}.parquet", identity, row, "measure")
    yield "\nsignals"
    yield from (f"  {name:<42} {_shown(value)}" for name, value in signals.items() if name not in _LONG_SIGNALS)
    spans = signals["pii_spans"] or []
    yield f"  {'personal data, replaced before training':<42} {len(spans)}" + _kinds(spans)

    verdict = _row(run.verdicts / f"{shard}.parquet", identity, row, "decide")
    yield "\nrules"
    for outcome in outcomes_of(signals, rules_of_source(config, found["source"])):
        state = "passes" if outcome.passes else "FAILS "
        if not outcome.applies:
            state = "not asked"
        source = "" if outcome.passes or not outcome.applies else f"; {outcome.rule.source}"
        asked = outcome.rule.describe(signals["language"])
        yield f"  {state:<10}{outcome.rule.name:<36} {_shown(outcome.value)} ({asked}{source})"

    removals = pq.read_table(run.dedup / "removals.parquet", filters=[("id", "=", identity)]).to_pylist()
    copies = pq.read_table(run.dedup / "pairs.parquet", filters=[[("id_a", "=", identity)], [("id_b", "=", identity)]])
    yield "\nduplicates"
    for removal in removals:
        kept = _url(manifest, run, removal["duplicate_of"])
        yield f"  {_LIKENESS[removal['kind']]} {removal['duplicate_of']} ({kept}), {_measures(removal)}"
    for pair in copies.to_pylist():
        other = pair["id_b"] if pair["id_a"] == identity else pair["id_a"]
        relation = "contains" if pair["kind"] == "contained" and pair["id_a"] == identity else _LIKENESS[pair["kind"]]
        yield f"  {relation} {other}, {_measures(pair)}"
    if not removals and not len(copies):
        yield "  no other document is like it"

    yield "\nverdict"
    yield "  kept" if verdict["kept"] else f"  dropped: {', '.join(verdict['reasons'])} (the first is counted)"


def _measures(pair: dict[str, Any]) -> str:
    """Of shingles: what both share, and how much of the one that goes the other has."""
    return f"Jaccard {pair['jaccard']:.3f}, containment {pair['containment']:.3f}"


def _row(path: Path, identity: str, row: int, stage: str) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run `python -m data_prep {stage}` first")
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < rows:
                found: dict[str, Any] = file.read_row_group(group).slice(row, 1).to_pylist()[0]
                if found["id"] != identity:
                    raise ValueError(
                        f"{path}: holds {found['id']} where {identity} belongs; `--restart {stage}` makes it anew"
                    )
                return found
            row -= rows
        raise ValueError(f"{identity}: the shard has {file.metadata.num_rows} documents, rows count from 0")


def _url(manifest: Manifest, run: RunDirectory, identity: str) -> str:
    shard, _, row = identity.rpartition("/")
    return str(_row(run.corpus / f"{manifest.shard(shard).name}.parquet", identity, int(row), "extract")["url"])


def _set_aside(manifest: Manifest, run: RunDirectory, path: str) -> str:
    found = [record for record in quarantined(run, manifest.shard_names) if record["path"].endswith(path)]
    if (found and "/" in path) or (found and "." in path):
        return "\n".join(
            f"{place_of(record)}: set aside as {record['reason']}: {record['detail']}\n  {record['excerpt']!r}"
            for record in found
        )
    example = f"{manifest.shard_names[0]}/0000000"
    raise ValueError(
        f"{path}: no shard has this name and no file of this name was set aside; give an id such as {example}, "
        f"or the path of a raw file. The shards are {manifest.shard_names[0]} to {manifest.shard_names[-1]}"
    )


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _kinds(spans: list[dict[str, Any]]) -> str:
    kinds = sorted({span["kind"] for span in spans})
    return f" ({', '.join(kinds)})" if kinds else ""
