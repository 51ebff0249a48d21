"""Samples for the ledger: documents that each reason drops, and the largest clusters of copies.

Personal data is replaced in every excerpt, as in the token files: the page is meant to be shared.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.config import DataConfig
from data_prep.edits import edit
from data_prep.extract import place_of, quarantined
from data_prep.ledger.lookup import Lookup
from data_prep.rules import rules_of_source
from data_prep.rules.rule import explain, shown
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import Manifest
from data_prep.tokenizer.kept_documents import id_fraction

SAMPLES = 4
"""Number of documents shown for each reason."""
CLUSTERS = 10
COPIES = 3
"""Number of copies shown of each cluster: the least similar ones, which are the most doubtful."""
EXCERPT_CHARACTERS = 400


@dataclass
class Draw:
    """Sample of documents for each reason, chosen by a hash: the same for any order of work."""

    seed: int
    _chosen: dict[str, list[tuple[float, str]]] = field(default_factory=dict)

    def offer(self, reason: str, identity: str) -> None:
        chosen = self._chosen.setdefault(reason, [])
        ticket = (id_fraction(self.seed, "ledger", identity), identity)
        if len(chosen) < SAMPLES or ticket < chosen[-1]:
            bisect.insort(chosen, ticket)
            del chosen[SAMPLES:]

    def chosen(self) -> dict[str, list[str]]:
        """Return the chosen ids by reason, sorted."""
        return {reason: sorted(identity for _, identity in chosen) for reason, chosen in sorted(self._chosen.items())}


def show_samples(config: DataConfig, manifest: Manifest, run: RunDirectory, draw: Draw) -> dict[str, Any]:
    """Return the sampled documents by reason: `place`, `url`, `why` and `excerpt`.

    The place is an id, or file and line of a document that was set aside.
    """
    lookup = Lookup(run)
    shown_of: dict[str, list[dict[str, str]]] = {}
    wanted = sorted((identity, reason) for reason, chosen in draw.chosen().items() for identity in chosen)
    for identity, reason in wanted:
        sample = {"place": identity, **_excerpt(lookup, identity), "why": _why(config, lookup, identity, reason)}
        shown_of.setdefault(reason, []).append(sample)
    return dict(sorted({**shown_of, **_set_aside(manifest, run, draw.seed)}.items()))


def _excerpt(lookup: Lookup, identity: str) -> dict[str, str]:
    document = lookup.document(identity)
    spans = [(span["kind"], span["start"], span["end"]) for span in lookup.signals(identity)["pii_spans"] or ()]
    text = edit(document["text"].encode(), spans, ()).decode()
    return {
        "url": document["url"],
        "excerpt": text[:EXCERPT_CHARACTERS] + ("…" if len(text) > EXCERPT_CHARACTERS else ""),
    }


def _why(config: DataConfig, lookup: Lookup, identity: str, reason: str) -> str:
    verdict = lookup.verdict(identity)
    if reason.startswith("duplicate."):
        return f"because of {verdict['duplicate_of']}" if verdict["duplicate_of"] else "all of its lines are shared"
    rules = [rule for rule in rules_of_source(config, verdict["source"]) if rule.name == reason]
    return "; ".join(
        f"{shown(outcome.value)}, required: {outcome.rule.describe(verdict['language'])}"
        for outcome in explain(lookup.signals(identity), rules)
    )


def _set_aside(manifest: Manifest, run: RunDirectory, seed: int) -> dict[str, list[dict[str, str]]]:
    draw = Draw(seed)
    for record in quarantined(run, manifest.shard_names):
        draw.offer(f"quarantine:{record['reason']}", place_of(record))
    places = {place for chosen in draw.chosen().values() for place in chosen}
    shown_of: dict[str, list[dict[str, str]]] = {}
    for record in quarantined(run, manifest.shard_names) if places else ():
        reason = f"quarantine:{record['reason']}"
        of_reason = shown_of.setdefault(reason, [])
        if place_of(record) in places and len(of_reason) < SAMPLES:
            of_reason.append(
                {"place": place_of(record), "url": "", "excerpt": record["excerpt"], "why": record["detail"]}
            )
    return shown_of


def largest_clusters(run: RunDirectory) -> dict[str, Any]:
    """Return how many documents have copies, how many copies are removed, and the documents with most copies, with
    examples."""
    removals = pq.read_table(run.dedup / "removals")
    sizes = removals.group_by("duplicate_of").aggregate([("id", "count")])
    largest = sizes.sort_by([("id_count", "descending"), ("duplicate_of", "ascending")]).slice(0, CLUSTERS)
    lookup = Lookup(run)
    clusters = []
    for row in largest.to_pylist():
        copies = removals.filter(pc.equal(removals.column("duplicate_of"), row["duplicate_of"]))
        clusters.append(
            {
                "stays": {"id": row["duplicate_of"], **_excerpt(lookup, row["duplicate_of"])},
                "copies": row["id_count"],
                "examples": [
                    {
                        "id": copy["id"],
                        "kind": copy["kind"],
                        "jaccard": copy["jaccard"],
                        "containment": copy["containment"],
                        **_excerpt(lookup, copy["id"]),
                    }
                    for copy in _least_similar(copies)
                ],
            }
        )
    kinds = pc.value_counts(removals.column("kind")).to_pylist() if len(removals) else []
    return {
        "documents_with_copies": len(sizes),
        "copies": {kind["values"]: kind["counts"] for kind in sorted(kinds, key=lambda kind: str(kind["values"]))},
        "largest": clusters,
    }


def _least_similar(copies: pa.Table) -> list[dict[str, Any]]:
    ordered = copies.sort_by([("jaccard", "ascending"), ("id", "ascending")])
    rows: list[dict[str, Any]] = ordered.slice(0, COPIES).to_pylist()
    return rows
