"""Addresses against lists: which entries match, what is found in names of hosts, and what the rules say."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.config import DataConfig, UrlConfig
from data_prep.dedup.stage import dedup
from data_prep.extract import extract
from data_prep.ledger.why import explain
from data_prep.rules import rules_named
from data_prep.rules.decide import decide
from data_prep.run.directory import RunDirectory
from data_prep.signals.measure import measure
from data_prep.signals.urls import UrlLists, digests


@pytest.fixture
def ut1(tmp_path: Path) -> Path:
    """A folder like UT1's."""
    for category, name, content in (
        (
            "adult",
            "domains",
            "bad.example\nNude.Example.ORG\n192.0.2.7\nxn--bcher-kva.example\nMüller.example\nwww.example\n",
        ),
        ("adult", "urls", "blog.example/ugly\nhttp://www.shop.example/a/b/\nwiki.example/w?id=7\n"),
        ("phishing", "domains", "# stolen\nbank-login.example   # seen in May\n\n"),
    ):
        (tmp_path / "ut1" / category).mkdir(parents=True, exist_ok=True)
        (tmp_path / "ut1" / category / name).write_text(content)
    (tmp_path / "ut1" / "adult" / "usage").write_text("black")
    return tmp_path / "ut1"


def lists(**settings: Any) -> UrlLists:
    return UrlLists(UrlConfig(**settings))


@pytest.mark.parametrize(
    ("url", "evidence"),
    [
        ("https://bad.example/", ["adult: bad.example"]),
        ("http://WWW.Bad.Example:8080/x", ["adult: bad.example"]),
        ("https://a.b.bad.example./x", ["adult: bad.example"]),
        ("https://user:word@bad.example/x", ["adult: bad.example"]),
        ("https://notbad.example/", []),
        ("https://bad.example.net/", []),
        ("https://example.org/?at=bad.example", []),
        ("https://nude.example.org", ["adult: nude.example.org"]),
        ("http://192.0.2.7/x", ["adult: 192.0.2.7"]),
        ("http://1.192.0.2.7/x", []),
        ("https://bücher.example/", ["adult: xn--bcher-kva.example"]),
        ("https://a.bücher.example/", ["adult: xn--bcher-kva.example"]),
        ("https://xn--mller-kva.example/", ["adult: xn--mller-kva.example"]),
        ("https://müller.example/", ["adult: xn--mller-kva.example"]),
        ("https://www.example/", ["adult: www.example"]),
        ("https://a.example/", []),  # an entry `www.example` is not all of `example`
        ("https://blog.example/ugly/picture", ["adult: blog.example/ugly"]),
        ("https://www.blog.example/UGLY", ["adult: blog.example/ugly"]),
        ("https://blog.example/uglyduckling", []),
        ("https://blog.example/", []),
        ("https://sub.blog.example/ugly", []),
        ("https://shop.example/a/b", ["adult: shop.example/a/b"]),
        ("https://wiki.example/w?id=7", ["adult: wiki.example/w?id=7"]),
        ("https://wiki.example/w?id=70", []),
        ("https://bank-login.example/", ["phishing: bank-login.example"]),
        ("file:///bad.example", []),
        ("/data/bad.example#row=7", []),
        ("http://[bad.example", []),
        ("", []),
        (None, []),
    ],
)
def test_entries_stand_for_domains_and_pages_below_them(ut1: Path, url: str | None, evidence: list[str]) -> None:
    found = lists(block=(ut1,)).match(url)
    assert list(found.evidence) == evidence
    assert (found.blocked, found.allowed, found.words, found.soft_words) == (len(evidence), 0, 0, 0)


def test_categories_files_and_sites_that_alone_are_wanted(ut1: Path, tmp_path: Path) -> None:
    (tmp_path / "sites.txt").write_text("good.example\n")
    some = lists(block=(ut1, tmp_path / "ut1" / "adult"), categories=("phishing",), allow=(tmp_path / "sites.txt",))
    assert some.match("https://bad.example") == (0, 0, 0, 0, ())
    assert some.match("https://my.bank-login.example").blocked == 1
    assert some.match("https://a.good.example/b") == (0, 1, 0, 0, ("sites: good.example",))


def test_words_in_names_of_hosts(tmp_path: Path) -> None:
    for name, content in (
        ("anywhere", "hotpics\n"),
        ("whole", "sin # and not sinus\nsins\nsünde\n"),
        ("soft", "date\ngirls\n"),
    ):
        (tmp_path / name).write_text(content)
    some = lists(subwords=tmp_path / "anywhere", words=tmp_path / "whole", soft_words=tmp_path / "soft")
    for url, expected in (
        ("https://myhotpics.example/", (1, 0)),
        ("https://sin-city.example/", (1, 0)),
        ("https://sin7sins.example/", (2, 0)),
        ("https://sünde.example/", (1, 0)),
        ("https://xn--snde-0ra.example/", (1, 0)),
        ("https://sinus.example/sin/hotpics", (0, 0)),  # not the path
        ("https://date.example/", (0, 1)),
        ("https://date-girls.example/", (0, 2)),
        ("https://girls.girls.example/", (0, 1)),
    ):
        found = some.match(url)
        assert (found.words, found.soft_words) == expected, url


def test_as_a_plain_search_says(tmp_path: Path) -> None:
    """Thousands of domains of few letters, so that hosts lie in several of them."""
    generator = random.Random(8)

    def domain(most: int) -> str:
        return ".".join(
            "".join(generator.choices("abc", k=generator.randint(1, 3))) for _ in range(generator.randint(1, most))
        )

    entries = sorted({domain(3) for _ in range(4000)})
    generator.shuffle(entries)
    (tmp_path / "many").write_text("\n".join(entries))  # the last line does not end
    some = lists(block=(tmp_path / "many",))
    counts = set()
    for _ in range(2000):
        url = f"https://{domain(5)}/"
        host = urlsplit(url).hostname or ""
        expected = {f"many: {entry}" for entry in entries if host == entry or host.endswith(f".{entry}")}
        found = some.match(url)
        assert set(found.evidence) == expected and found.blocked == len(expected)
        counts.add(found.blocked)
    assert {1, 2, 3} <= counts


def test_rules_are_those_of_the_lists_that_there_are(ut1: Path, tmp_path: Path) -> None:
    (tmp_path / "soft").write_text("date\ngirls\n")
    config = data_config(tmp_path, {"block": [str(ut1)], "soft_words": str(tmp_path / "soft")})
    rules = {rule.name: rule for rule in rules_named(config, ["urls"])}
    assert list(rules) == ["urls.blocked", "urls.soft_words"]
    signals = {
        "language": np.array(["en"] * 3),
        "url_blocked": np.array([0, 1, 0]),
        "url_soft_words": np.array([1, 0, 2]),
    }
    assert rules["urls.blocked"].fails(signals).tolist() == [False, True, False]
    assert rules["urls.soft_words"].fails(signals).tolist() == [False, False, True]


def test_from_files_to_verdicts(ut1: Path, tmp_path: Path) -> None:
    """An address goes from the record through the signals to the reason; a document without one has no fault."""
    (tmp_path / "raw").mkdir()
    records = [
        {"text": "A page of the bad site.", "url": "https://www.bad.example/x"},
        {"text": "A page of a good site.", "url": "https://good.example/"},
        {"text": "A page that is from no site."},
    ]
    (tmp_path / "raw" / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    config = data_config(tmp_path, {"block": [str(ut1)]})
    run = RunDirectory(config.output)
    for stage in (extract, measure, dedup, decide):
        stage(config, run)
    signals = pq.read_table(run.signals / "web-00000.parquet").to_pylist()
    assert [row["url_blocked"] for row in signals] == [1, 0, 0]
    assert [row["url_matches"] for row in signals] == [["adult: bad.example"], [], []]
    verdicts = pq.read_table(run.verdicts / "web-00000.parquet").to_pylist()
    assert [row["reasons"] for row in verdicts] == [["urls.blocked"], [], []]
    explained = explain(config, run, "https://www.bad.example/x")
    assert "FAILS     urls.blocked" in explained and "['adult: bad.example']" in explained


def data_config(tmp_path: Path, urls: dict[str, Any]) -> DataConfig:
    source = {"name": "web", "kind": "jsonl", "paths": [str(tmp_path / "raw")], "rules": ["urls"]}
    return DataConfig.model_validate({"output": str(tmp_path / "run"), "sources": [source], "urls": urls, "workers": 1})


def test_outputs_depend_on_what_the_lists_say(ut1: Path) -> None:
    config = UrlConfig(block=(ut1,))
    before = digests(config)
    assert digests(UrlConfig(block=(ut1,), categories=("phishing",))) == before[1:2]
    (ut1 / "phishing" / "domains").write_text("other.example\n")
    assert digests(config) != before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block": ("{folder}/none",)}, r"urls\.block: .*none: no such file"),
        ({"block": ("{folder}",)}, r"urls\.block: .*has neither CATEGORY/domains"),
        ({"block": ("{folder}/empty",)}, r"urls\.block: .*empty: has no entry"),
        ({"allow": ("{folder}/comments",)}, r"urls\.allow: .*comments: has no entry"),
        ({"block": ("{folder}/spaces",)}, r"urls\.block: .*spaces:2: 'two words' is no domain and no address"),
        ({"block": ("{folder}/ok",), "categories": ("adlut",)}, "no list is called 'adlut'; they are ok"),
        ({"words": "{folder}/spaces"}, r"urls\.words: .*spaces:1: 'good\.example' is not one word"),
        ({"soft_words": "{folder}/empty"}, r"urls\.soft_words: .*has no word"),
    ],
)
def test_a_list_that_cannot_be_used_is_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    for name, content in (
        ("empty", ""),
        ("comments", "# all\n\n"),
        ("spaces", "good.example\ntwo words\n"),
        ("ok", "a.b"),
    ):
        (tmp_path / name).write_text(content)
    named = {
        key: value.format(folder=tmp_path)
        if isinstance(value, str)
        else tuple(one.format(folder=tmp_path) for one in value)
        for key, value in settings.items()
    }
    with pytest.raises(ValueError, match=message):
        lists(**named)


def test_rules_without_lists_and_categories_without_block_lists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rule set `urls` needs lists"):
        data_config(tmp_path, {})
    with pytest.raises(ValueError, match="categories: has no effect without block"):
        data_config(tmp_path, {"categories": ["adult"]})
