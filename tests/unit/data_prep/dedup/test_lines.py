"""Shared lines: which are equal, which are removed, and a memory bound that changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.config import DataConfig
from data_prep.dedup.lines import hash_lines, repeated, site_of
from data_prep.dedup.records import LINES
from data_prep.dedup.stage import dedup
from data_prep.extract import extract
from data_prep.rules.decide import decide
from data_prep.run.directory import RunDirectory
from data_prep.run.shuffle import grouped
from data_prep.signals.measure import measure
from data_prep.tokenizer.kept_documents import read_kept


def hashes_of(text: str) -> list[int]:
    data = np.frombuffer(text.encode(), dtype=np.uint8)
    hashes, starts, stops = hash_lines(data, 0, len(data))
    assert b"".join(data[a:b].tobytes() for a, b in zip(starts, stops, strict=True)) == text.encode()
    return hashes.tolist()


def test_lines_are_compared_as_ccnet_does() -> None:
    a, b, c, d, e = hashes_of("Page 12 of 34.\n  page 98 OF 76!\r\npage 5 of 6\n — \n\n")
    assert a == b != c != 0  # a digit is a digit, two are not one
    assert d == e == 0
    assert hashes_of("ab c") != hashes_of("a bc")
    assert hashes_of("") == []


def goes(documents: list[list[int]], minimum: int, keeps_first: bool, block: int = 1000, most: int = 1000) -> list[int]:
    """Which of all lines, given by their hashes, go; they come in blocks, and groups of more than `most` in pieces."""
    lines = [(value, d) for d, values in enumerate(documents) for value in values]
    records = np.array([(value, d, k) for k, (value, d) in enumerate(lines) if value], dtype=LINES.dtype)
    records = LINES.sorted(records)
    blocks = (records[start : start + block] for start in range(0, len(records), block))
    result = np.zeros(len(lines), dtype=np.uint8)
    for found in repeated(grouped(blocks, ("key",), most), minimum, keeps_first):
        result[found["line"]] += 1
    return result.tolist()


def test_all_copies_go_or_the_first_stays() -> None:
    documents = [[7, 5, 5, 0], [7, 9, 0], [7, 7, 11]]
    assert goes(documents, 2, keeps_first=False) == [1, 0, 0, 0, 1, 0, 0, 1, 1, 0]
    assert goes(documents, 2, keeps_first=True) == [0, 0, 0, 0, 1, 0, 0, 1, 1, 0]
    assert not any(goes(documents, 4, keeps_first=False))


@pytest.mark.parametrize("keeps_first", [False, True])
@pytest.mark.parametrize("minimum", [2, 3, 30])
def test_pieces_of_large_groups_change_nothing(minimum: int, keeps_first: bool) -> None:
    """Lines that are more than fit in memory, of many documents and of a few that repeat them."""
    random = np.random.default_rng(minimum)
    documents = [random.integers(0, 6, size=random.integers(0, 30)).tolist() for _ in range(40)]
    documents += [[20] * 50, [21], [20] * 50, [22] * 70]
    expected = goes(documents, minimum, keeps_first)
    assert any(expected) and not all(expected) and max(expected) == 1
    for block, most in ((1, 1), (7, 3), (40, 10), (300, 64)):
        assert goes(documents, minimum, keeps_first, block, most) == expected


@pytest.mark.parametrize(
    ("url", "site"),
    [
        ("https://www.Example.org:8080/a?b", "example.org"),
        ("http://sub.example.org/", "sub.example.org"),
        ("/data/web.jsonl:17", "source web"),
        ("http://[broken", "source web"),
        ("", "source web"),
    ],
)
def test_the_site_of_a_document(url: str, site: str) -> None:
    assert site_of(url, "web") == site


def test_templates_of_a_site_go_and_the_same_line_elsewhere_stays(tmp_path: Path) -> None:
    pages = [(f"https://a.org/{k}", f"Home | About\nPage {chr(97 + k)} of the first site.\n") for k in range(3)]
    pages += [("https://b.org/0", "Home | About\nThe only page of another site.\n")]
    path = tmp_path / "web.jsonl"
    path.write_text("".join(json.dumps({"text": text, "url": url}) + "\n" for url, text in pages))
    source = {"name": "web", "kind": "jsonl", "paths": [str(path)], "rules": []}
    settings = {"lines": "drop_all", "line_documents": 3}
    kept = {}
    for scope in ("corpus", "site"):
        config = DataConfig.model_validate(
            {
                "output": tmp_path / scope,
                "workers": 1,
                "sources": [source],
                "dedup": {**settings, "line_scope": scope},
            }
        )
        run = RunDirectory(config.output)
        for stage in (extract, measure, dedup, decide):
            stage(config, run)
        kept[scope] = [document.text for document in read_kept(run, "web-00000")]
    assert [text.startswith("Home") for text in kept["corpus"]] == [False] * 4
    assert [text.startswith("Home") for text in kept["site"]] == [False, False, False, True]
    with pytest.raises(ValueError, match="line_scope 'site' has no effect while lines is 'none'"):
        DataConfig.model_validate({"output": tmp_path, "sources": [source], "dedup": {"line_scope": "site"}})


@pytest.mark.parametrize(
    ("lines", "first"), [("drop_all", "Only the first.\n"), ("keep_first", "Home\nOnly the first.\n")]
)
def test_cut_lines_are_not_written(tmp_path: Path, lines: str, first: str) -> None:
    texts = [
        "Home\nOnly the first.\n",
        "home!\nThe second, alone.\n",
        "Home\nOnly the first.\n",
        "A third that is alone.",
    ]
    texts.append("HOME\n\n")
    (tmp_path / "web.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = {"name": "web", "kind": "jsonl", "paths": [str(tmp_path / "web.jsonl")], "rules": []}
    config = DataConfig.model_validate(
        {"output": tmp_path / "run", "workers": 1, "sources": [source], "dedup": {"lines": lines}}
    )
    run = RunDirectory(config.output)
    for stage in (extract, measure, dedup, decide):
        stage(config, run)
    # the copy of the first document goes as a whole, and its lines count against nobody
    assert [kept.text for kept in read_kept(run, "web-00000")] == [first, "The second, alone.\n", texts[3]]
    verdict = pq.read_table(run.verdicts / "web-00000.parquet").to_pylist()[4]
    assert (verdict["kept"], verdict["reasons"], verdict["cuts"]) == (False, ["duplicate.lines"], [])
