"""Fits of what a stage takes once, for each document and for each byte."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tools.bench.scale import Measured, bent, fitted, write_corpus
from tools.data_plan import Usage


def measured(documents: int, size: int, seconds: float) -> Measured:
    return Measured(documents, size, seconds, Usage(seconds, 0, 0, 0, 0))


def test_what_a_stage_takes_comes_back() -> None:
    sizes = [(100_000, 4e7), (300_000, 1.2e8), (1_000_000, 4e8), (50_000, 2e8)]
    rows = [measured(count, int(size), 2.0 + 20e-6 * count + 40e-9 * size) for count, size in sizes]
    assert fitted(rows) == pytest.approx((2.0, 20e-6, 40e-9))
    nothing_once = [measured(count, int(size), 20e-6 * count) for count, size in sizes]
    assert fitted(nothing_once) == pytest.approx((0.0, 20e-6, 0.0), abs=1e-9)


@pytest.mark.parametrize(("seconds", "share"), [((2.0, 4.0, 11.0), 0.0), ((2.0, 4.0, 22.0), 1.0)])
def test_what_grows_faster_than_the_corpus_is_seen(seconds: tuple[float, ...], share: float) -> None:
    rows = [measured(count, 1, spent) for count, spent in zip((100, 300, 1000), seconds, strict=True)]
    assert bent(rows) == pytest.approx(share)


def test_a_corpus_has_copies_and_the_same_documents_each_time(tmp_path: Path) -> None:
    sizes = [write_corpus(tmp_path / name, 200, 20) for name in ("one.jsonl", "other.jsonl")]
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "other.jsonl").read_bytes()
    texts = [json.loads(line)["text"] for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    assert sizes[0] == sizes[1] == sum(map(len, texts))
    assert sum(one == other for one, other in pairwise(texts)) == 4
    assert sum(one.split()[:-1] == other.split()[:-1] != [] for one, other in pairwise(texts)) > 10
