"""Explanation of why a document was kept or dropped: its text, its signals with each threshold, and its copies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from data_prep.config import DataConfig
from data_prep.domains import registered_domain
from data_prep.extract import place_of, quarantined
from data_prep.ledger.lookup import Lookup
from data_prep.rules import rules_of_source
from data_prep.rules.rule import explain as outcomes_of
from data_prep.rules.rule import shown
from data_prep.rules.urls import PAGES_PER_DOMAIN
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import Manifest, load_manifest
from data_prep.signals.urls import host_of
from foundation.progress import Progress

_TEXT_CHARACTERS = 600
_LONG_SIGNALS = ("id", "minhash", "sampled_shingles", "exact_hash", "pii_spans")

_LIKENESS = {"exact": "exact copy of", "near": "near copy of", "contained": "contained in"}
_PAIRS_SHOWN = 20
_CUTS_SHOWN = 10
_CUT_CHARACTERS = 120


def explain(config: DataConfig, run: RunDirectory, document: str) -> str:
    """Describe a document: everything that the run recorded about it.

    Args:
        document: its id, its URL or what `id_field` calls it, or the path (or the end of the path) of a raw file that
            was set aside.

    Raises:
        ValueError: there is no such document.
    """
    manifest = load_manifest(run)
    match = re.fullmatch(r"(.+)/(\d+)", document)
    if match is None or match.group(1) not in manifest.shard_names:
        found = ids_of_url(manifest, run, document)
    else:
        found = [f"{match.group(1)}/{int(match.group(2)):07d}"]
    explanations = ["\n".join(_explain(config, run, identity)) for identity in found]
    return "\n\n".join(explanations) or _set_aside(manifest, run, document)


def ids_of_url(manifest: Manifest, run: RunDirectory, origin: str) -> list[str]:
    """Return the ids of the documents that have this URL."""
    found: list[str] = []
    with Progress(
        "look for the document", len(manifest.shard_names), "shards", console=Console(stderr=True)
    ) as progress:
        for name in manifest.shard_names:
            path = run.corpus / f"{name}.parquet"
            if path.is_file():
                rows = pq.read_table(path, columns=["id"], filters=[("url", "=", origin)])
                found += rows.column("id").to_pylist()
            progress.advance(1)
    return found


def _explain(config: DataConfig, run: RunDirectory, identity: str) -> Iterator[str]:
    lookup = Lookup(run)
    found = lookup.document(identity)
    yield f"{identity}: {found['url']}"
    yield f"  source {found['source']}, metadata {found['metadata']}"
    text = found["text"]
    yield f"  text, {len(text):,} characters" + (
        f", the first {_TEXT_CHARACTERS}:" if len(text) > _TEXT_CHARACTERS else ":"
    )
    yield from (f"  | {line}" for line in text[:_TEXT_CHARACTERS].splitlines())

    signals = lookup.signals(identity)
    yield "\nsignals"
    yield from (f"  {name:<42} {shown(value)}" for name, value in signals.items() if name not in _LONG_SIGNALS)
    spans = signals["pii_spans"] or []
    yield f"  {'personal data, replaced before training':<42} {len(spans)}" + _kinds(spans)

    verdict = lookup.verdict(identity)
    yield "\nrules"
    for outcome in outcomes_of(signals, rules_of_source(config, found["source"])):
        state = "passes" if outcome.passes else "FAILS "
        if not outcome.applies:
            state = "skipped"
        source = "" if outcome.passes or not outcome.applies else f"; {outcome.rule.source}"
        asked = outcome.rule.describe(signals["language"])
        yield f"  {state:<10}{outcome.rule.name:<36} {shown(outcome.value)} ({asked}{source})"

    removals = pq.read_table(run.dedup / "removals", filters=[("id", "=", identity)]).to_pylist()
    copies = pq.read_table(run.dedup / "pairs", filters=[[("id_a", "=", identity)], [("id_b", "=", identity)]])
    yield "\nduplicates"
    for removal in removals:
        kept = lookup.document(removal["duplicate_of"])["url"]
        yield f"  {_LIKENESS[removal['kind']]} {removal['duplicate_of']} ({kept}), {_measures(removal)}"
    for pair in copies.slice(0, _PAIRS_SHOWN).to_pylist():
        other = pair["id_b"] if pair["id_a"] == identity else pair["id_a"]
        relation = "contains" if pair["kind"] == "contained" and pair["id_a"] == identity else _LIKENESS[pair["kind"]]
        yield f"  {relation} {other}, {_measures(pair)}"
    if len(copies) > _PAIRS_SHOWN:
        yield f"  and {len(copies) - _PAIRS_SHOWN:,} more, see {run.dedup / 'pairs'}"
    if not removals and not len(copies):
        yield "  no similar documents"

    if PAGES_PER_DOMAIN in verdict["reasons"]:
        (over,) = pq.read_table(run.dedup / "over", filters=[("id", "=", identity)]).to_pylist()
        domain = registered_domain(host_of(found["url"]) or "")
        kept = config.urls.pages_per_domain
        yield f"  page {over['place']:,} of {domain} by the hash of its address; {kept:,} are kept"

    yield "\nverdict"
    cuts, data = verdict["cuts"], text.encode()
    if cuts:
        yield f"  {len(cuts)} ranges of lines are cut, {sum(c['end'] - c['start'] for c in cuts):,} bytes:"
        for cut in cuts[:_CUTS_SHOWN]:
            left_out = data[cut["start"] : cut["end"]].decode()[:_CUT_CHARACTERS]
            yield f"  - bytes {cut['start']:,} to {cut['end']:,}: {left_out!r}"
    for one in _left_out(run, found["source"], identity):
        yield f"  tokenize: {'left out' if one['whole'] else 'a round is left out'}, {one['reason']}: {one['detail']}"
    yield "  kept" if verdict["kept"] else f"  dropped: {', '.join(verdict['reasons'])} (the first is counted)"


def _left_out(run: RunDirectory, source: str, identity: str) -> list[dict[str, Any]]:
    """Return what the tokenize stage left out of a conversation."""
    path = run.tokens / f"{source}.left_out.jsonl"
    if not path.is_file():
        return []
    listed = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [one for one in listed if one["id"] == identity]


def _measures(pair: dict[str, Any]) -> str:
    """Format the similarity of shingles: of both documents, and the share of the removed one in the other."""
    return f"Jaccard {pair['jaccard']:.3f}, containment {pair['containment']:.3f}"


def _set_aside(manifest: Manifest, run: RunDirectory, path: str) -> str:
    found = [record for record in quarantined(run, manifest.shard_names) if record["path"].endswith(path)]
    if (found and "/" in path) or (found and "." in path):
        return "\n".join(
            f"{place_of(record)}: set aside as {record['reason']}: {record['detail']}\n  {record['excerpt']!r}"
            for record in found
        )
    example = f"{manifest.shard_names[0]}/0000000"
    raise ValueError(
        f"{path}: no shard has this name, no document this URL, and no file of this name was set aside; give an id "
        f"such as {example}, a URL, or the path of a raw file. The shards are {manifest.shard_names[0]} to "
        f"{manifest.shard_names[-1]}"
    )


def _kinds(spans: list[dict[str, Any]]) -> str:
    kinds = sorted({span["kind"] for span in spans})
    return f" ({', '.join(kinds)})" if kinds else ""
