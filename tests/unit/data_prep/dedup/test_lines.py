"""Shared lines: which are equal, which are removed, and a memory bound that changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.config import DataConfig
from data_prep.dedup.lines import LINE_FIELDS, hash_lines, mark_repeats, site_of
from data_prep.dedup.spill import Spill, part_of
from data_prep.dedup.stage import dedup
from data_prep.extract import extract
from data_prep.rules.decide import decide
from data_prep.run.directory import RunDirectory
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


def goes(folder: Path, documents: list[list[int]], minimum: int, keeps_first: bool, parts: int = 1) -> list[int]:
    hashes = np.array([value for lines in documents for value in lines], dtype=np.uint64)
    keys = hashes << np.uint64(56)  # the upper half divides
    owners = np.array([d for d, lines in enumerate(documents) for _ in lines], dtype=np.int64)
    spill = Spill(folder, "lines", LINE_FIELDS, parts, memory_bytes=10**6)
    for d in range(len(documents)):
        mine = np.flatnonzero((owners == d) & (hashes != 0))
        spill.add(part_of(keys[mine], parts), keys[mine], mine, owners[mine])
    result = np.zeros(len(hashes), dtype=np.uint8)
    mark_repeats(spill, result, minimum, keeps_first)
    return result.tolist()


def test_all_copies_go_or_the_first_stays(tmp_path: Path) -> None:
    documents = [[7, 5, 5, 0], [7, 9, 0], [7, 7, 11]]
    assert goes(tmp_path, documents, 2, keeps_first=False) == [1, 0, 0, 0, 1, 0, 0, 1, 1, 0]
    assert goes(tmp_path, documents, 2, keeps_first=True) == [0, 0, 0, 0, 1, 0, 0, 1, 1, 0]
    assert not any(goes(tmp_path, documents, 4, keeps_first=False))


def test_parts_change_nothing(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    documents = [random.integers(0, 60, size=8).tolist() for _ in range(40)]
    expected = goes(tmp_path, documents, 3, keeps_first=True)
    assert any(expected) and not all(expected)
    assert goes(tmp_path, documents, 3, keeps_first=True, parts=7) == expected


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
