"""Pages of a registered domain: the same ones are kept whatever the order, the division and the workers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import xxhash

from data_prep.config import DataConfig
from data_prep.dedup import domains as domain_module
from data_prep.dedup import work as work_module
from data_prep.dedup.stage import dedup
from data_prep.domains import registered_domain, smallest_by_domain
from data_prep.extract import extract
from data_prep.ledger.counts import count_documents
from data_prep.ledger.why import explain
from data_prep.rules.decide import decide
from data_prep.run.commit_records import StaleOutputError, read_records
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import load_manifest
from data_prep.run.shuffle import grouped
from data_prep.signals.measure import measure

MOST = 3
SEED = 7


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("www.bbc.co.uk", "bbc.co.uk"),
        ("alice.github.io", "github.io"),  # somebody has registered it; its people have not
        ("a.b.example", "b.example"),
        ("co.uk", "co.uk"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("localhost", "localhost"),
        ("xn--fiqs8s.xn--j6w193g", "xn--fiqs8s.xn--j6w193g"),
    ],
)
def test_registered_domains(host: str, domain: str) -> None:
    assert registered_domain(host) == domain


def records() -> list[dict[str, Any]]:
    """Pages of domains of different sizes, some copies of one another, documents without an address, and some that
    fail a rule."""
    source = random.Random(3)
    hosts = [("big.example", 60), ("www.big.example", 20), ("a.mid.co.uk", 9), ("b.mid.co.uk", 2), ("small.example", 3)]
    found = [
        {"url": f"https://{host}/{k}", "text": f"Page {k} of {host}. {source.random()} {source.random()}"}
        for host, count in hosts
        for k in range(count)
    ]
    found += [{"text": f"A document without an address, number {k}. {source.random()}"} for k in range(12)]
    # copies: each of them counts once, and those that fail a rule do not count
    found += [{**found[k], "url": f"https://copies.example/{k}"} for k in range(6)]
    found += [{"url": f"https://bad.small.example/{k}", "text": f"Bad {k} {source.random()}."} for k in range(9)]
    # one address, several texts
    found += [{"url": "https://same.example/", "text": f"Version {k}. {source.random()}"} for k in range(7)]
    return found


def configuration(folder: Path, rows: list[dict[str, Any]], **values: Any) -> DataConfig:
    (folder / "raw").mkdir(parents=True)
    (folder / "words").write_text("bad\n")
    for number in range(4):
        (folder / "raw" / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[number::4]))
    usual: dict[str, Any] = {
        "output": folder / "run",
        "seed": SEED,
        "workers": 1,
        "shard_bytes": 1500,
        "urls": {"pages_per_domain": MOST, "words": folder / "words"},
        "sources": [
            {"name": "web", "kind": "jsonl", "paths": [str(folder / "raw" / "[0-2].jsonl")], "rules": ["urls"]},
            {"name": "more", "kind": "jsonl", "paths": [str(folder / "raw" / "3.jsonl")], "rules": ["urls"]},
        ],
    }
    return DataConfig.model_validate({**usual, **values})


def verdicts_of(config: DataConfig) -> list[dict[str, Any]]:
    run = RunDirectory(config.output)
    for stage in (extract, measure, dedup, decide):
        stage(config, run)
    rows = []
    for shard in load_manifest(run).shard_names:
        corpus = pq.read_table(run.corpus / f"{shard}.parquet").to_pylist()
        verdicts = pq.read_table(run.verdicts / f"{shard}.parquet").to_pylist()
        rows += [{**document, **verdict} for document, verdict in zip(corpus, verdicts, strict=True)]
    return rows


def kept_of(rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {("" if "#" in row["url"] else row["url"], row["text"]) for row in rows if row["kept"]}


def test_the_pages_with_the_smallest_hashes_are_kept(tmp_path: Path) -> None:
    rows = verdicts_of(configuration(tmp_path, records()))
    over = [row for row in rows if row["reasons"] == ["urls.pages_per_domain"]]
    left = [row for row in rows if row["kept"] or row in over]
    by_domain: dict[str, list[tuple[int, str, str]]] = {}
    for row in left:
        if row["url"].startswith("https://"):
            host = row["url"].split("/")[2].removeprefix("www.")
            domain = "mid.co.uk" if host.endswith("mid.co.uk") else host
            rank = xxhash.xxh3_64_intdigest(row["url"].encode(), SEED)
            by_domain.setdefault(domain, []).append((rank, row["url"], row["text"]))
    sizes = {domain: len(pages) for domain, pages in by_domain.items()}
    assert sizes["big.example"] + sizes["copies.example"] == 80 and sizes["same.example"] == 7
    kept = {text for _, text in kept_of(rows)}
    for domain, pages in by_domain.items():
        stays = [page for page in sorted(pages) if page[2] in kept]
        assert len(stays) == min(MOST, len(pages)), domain
        if domain != "same.example":
            assert stays == sorted(pages)[:MOST]
    assert sum("without an address" in text for text in kept) == 12
    assert {str(row["reasons"]) for row in rows if "bad.small" in row["url"]} == {"['urls.words']"}
    assert sum("small.example" in url for url, _ in kept_of(rows)) == 3, "what fails a rule takes no place"


def test_neither_order_nor_division_nor_workers_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # without copies, of which the first in the corpus is kept
    rows = [row for row in records() if "copies.example" not in row.get("url", "")]
    expected = kept_of(verdicts_of(configuration(tmp_path / "a", rows)))
    assert len(expected) == 12 + 4 * MOST
    moved = rows[:]
    random.Random(5).shuffle(moved)
    assert kept_of(verdicts_of(configuration(tmp_path / "b", moved, shard_bytes=700))) == expected
    monkeypatch.setattr(work_module, "_LEAST_BUNDLE", 10)
    monkeypatch.setattr(work_module, "_BUNDLES", 10**9)
    small = configuration(tmp_path / "c", rows, workers=3, dedup={"memory_bytes": 1_000_000})
    assert kept_of(verdicts_of(small)) == expected
    run = RunDirectory(small.output)
    assert len(list((run.dedup / "over").glob("*.parquet"))) > 1
    sums = read_records(run, "dedup")["all"].counts
    assert sums["pages_over"] == sum(row["reasons"] == ["urls.pages_per_domain"] for row in verdicts_of(small))


def test_a_group_that_is_read_in_pieces_is_ranked_as_one() -> None:
    kind = domain_module.PAGES
    source = random.Random(1)
    keys = sorted((source.randrange(4), source.randrange(1000)) for _ in range(500))
    import numpy as np

    columns = [np.array([key[0] for key in keys], np.uint64), np.array([key[1] for key in keys], np.uint64)]
    whole = kind.of(*columns, np.zeros(500, np.uint64), np.arange(500))
    blocks = [whole[start : start + 37] for start in range(0, 500, 37)]
    found = [place for _, places in domain_module.ranked(grouped(blocks, ("domain",), 20)) for place in places.tolist()]
    expected, last, place = [], None, 0
    for domain, _ in keys:
        place = place + 1 if domain == last else 1
        last = domain
        expected.append(place)
    assert found == expected


def test_evidence_and_counts(tmp_path: Path) -> None:
    config = configuration(tmp_path, records())
    rows = verdicts_of(config)
    run = RunDirectory(config.output)
    over = next(row for row in rows if "big.example" in row["url"] and row["reasons"] == ["urls.pages_per_domain"])
    told = explain(config, run, over["id"])
    assert "of big.example by the hash of its address; 3 are kept" in told
    assert "dropped: urls.pages_per_domain" in told
    accounts = count_documents(load_manifest(run), run)
    assert accounts.total.by_reason["urls.pages_per_domain"] == sum(
        row["reasons"] == ["urls.pages_per_domain"] for row in rows
    )
    changed = config.model_copy(update={"urls": config.urls.model_copy(update={"pages_per_domain": 4})})
    with pytest.raises(StaleOutputError, match=r"pages_per_domain is 'pages of a domain at most 4"):
        dedup(changed, run)
    with pytest.raises(StaleOutputError, match=r"the rule urls\.pages_per_domain of source web is"):
        decide(changed, run)


def test_a_page_that_is_left_out_costs_no_line(tmp_path: Path) -> None:
    """Lines are compared among the documents that are left."""
    rows = [
        {
            "url": f"https://one.example/{k}",
            "text": f"A line that all pages share.\nPage {k} alone has this, number {k}.",
        }
        for k in range(30)
    ]
    config = configuration(tmp_path, rows, urls={"pages_per_domain": 1}, dedup={"lines": "drop_all"})
    found = verdicts_of(config)
    kept = [row for row in found if row["kept"]]
    assert len(kept) == 1 and kept[0]["cuts"] == []


def test_sources_without_the_rule_set_are_not_counted(tmp_path: Path) -> None:
    rows = [{"url": f"https://one.example/{k}", "text": f"Page {k} alone has this, number {k * 7}."} for k in range(40)]
    config = configuration(tmp_path, rows)
    first, second = config.sources
    sources = (first, second.model_copy(update={"rules": ()}))
    found = verdicts_of(config.model_copy(update={"sources": sources}))
    assert sum(row["kept"] for row in found if row["source"] == "web") == MOST
    assert all(row["kept"] for row in found if row["source"] == "more")


def test_a_number_that_nobody_asks_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"urls\.pages_per_domain: has no effect: no source has the rule set `urls`"):
        configuration(tmp_path, [], sources=[{"name": "a", "kind": "jsonl", "paths": ["x"], "rules": ["gopher"]}])


def test_the_choice_in_memory_is_the_same() -> None:
    addresses = [f"https://a.example/{k}" for k in range(50)]
    chosen = smallest_by_domain(["a.example"] * 50, addresses, 5, SEED)
    expected = sorted(range(50), key=lambda k: xxhash.xxh3_64_intdigest(addresses[k].encode(), SEED))[:5]
    assert chosen == sorted(expected)
