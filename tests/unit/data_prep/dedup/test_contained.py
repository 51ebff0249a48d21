"""Documents inside others: pages of books, short ones in long ones, and what is not containment."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_prep.dedup.contained import _pairs, least_shared
from data_prep.dedup.records import KINDS, SAMPLES
from data_prep.run.shuffle import grouped
from data_prep.signals.fingerprints import shared_shingles
from tests.unit.data_prep.dedup.finding import find, sets_of

CORPUS = Path(__file__).parents[4].parent / "shared" / "data" / "corpus.jsonl.zst"
CONTAINED = KINDS.index("contained")


def prose(generator: np.random.Generator, words: int) -> list[str]:
    return [f"w{i}" for i in generator.integers(0, 50_000, size=words)]


def containment(inner: np.ndarray, outer: np.ndarray) -> float:
    return shared_shingles(inner, outer) / len(inner)


def test_a_page_of_a_book_goes_and_the_book_stays(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    book = prose(generator, 60_000)
    page = " ".join(book[30_000:30_120])
    chapter = book[5_000:9_000]
    chapter[100:220] = prose(generator, 120)  # 97 % of it is in the book
    another = prose(generator, 3_000)
    another[:1_500] = book[:1_500]  # and half of this one
    texts = [page, " ".join(chapter), " ".join(another), " ".join(book)]
    evidence = find(tmp_path / "all", texts, minimum_containment=0.9)
    assert evidence.duplicate_of.tolist() == [3, 3, -1, -1]
    assert evidence.kinds[:2].tolist() == [CONTAINED, CONTAINED]
    sets = sets_of(texts)
    assert evidence.measures[:2, 1].tolist() == [containment(sets[d], sets[3]) for d in (0, 1)]
    assert evidence.measures[0].tolist() == pytest.approx([116 / 59_996, 1], abs=1e-5)
    for fails, stays in (((3,), [-1, -1, -1, -1]), ((0, 3), [3, -1, -1, -1])):
        # a book that fails its rules removes no page that passes them
        folder = tmp_path / str(fails)
        assert find(folder, texts, minimum_containment=0.9, fails=fails).duplicate_of.tolist() == stays


def test_what_is_short_or_below_the_threshold_stays(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    book = prose(generator, 5_000)
    proverb = " ".join(book[100:160])  # 56 shingles
    mostly = [word if i % 40 else f"x{i}" for i, word in enumerate(book[1_000:1_400])]  # 10 of 396 words: 87 %
    texts = [proverb, " ".join(mostly), " ".join(book)]
    assert find(tmp_path / "higher", texts, minimum_containment=0.9).duplicate_of.tolist() == [-1, -1, -1]
    assert find(tmp_path / "lower", texts, minimum_containment=0.8).duplicate_of.tolist() == [-1, 2, -1]


def test_what_goes_is_contained_in_one_that_stays(tmp_path: Path) -> None:
    """Parts of parts: a document that is itself removed removes nothing."""
    generator = np.random.default_rng(5)
    texts = []
    for _ in range(40):
        book = prose(generator, 2_000)
        texts.append(" ".join(book))
        for _ in range(6):
            start, size = int(generator.integers(0, 1_500)), int(generator.integers(80, 700))
            part = book[start : start + size]
            foreign = int(generator.integers(0, len(part) // 4))
            part[:foreign] = prose(generator, foreign)
            texts.append(" ".join(part))
    evidence = find(tmp_path, texts, minimum_containment=0.9)
    sets = sets_of(texts)
    duplicate_of = evidence.duplicate_of
    stays = np.flatnonzero(duplicate_of < 0)
    expected, missed = 0, 0
    for d in range(len(texts)):
        if duplicate_of[d] >= 0:
            assert duplicate_of[duplicate_of[d]] == -1
            assert containment(sets[d], sets[duplicate_of[d]]) >= 0.9
        best = max(containment(sets[d], sets[s]) for s in stays if s != d)
        should_go = len(sets[d]) >= 64 and best >= 0.9
        expected += should_go or duplicate_of[d] >= 0
        missed += bool(should_go and duplicate_of[d] < 0)
    assert expected > 80
    assert missed <= 0.02 * expected


def test_a_shingle_that_many_share_proposes_nothing(tmp_path: Path) -> None:
    generator = np.random.default_rng(6)
    notice = prose(generator, 900)  # two thirds of each page: enough of its anchors, were they not so common
    pages = [" ".join(notice + prose(generator, 400)) for _ in range(50)]
    evidence = find(tmp_path, [*pages, " ".join(pages[7].split()[850:])], minimum_containment=0.9)
    assert evidence.duplicate_of[:50].tolist() == [-1] * 50
    assert evidence.duplicate_of[50] == 7  # found by the part that only page 7 has
    assert evidence.counts["proposed_pairs"] < 300  # of 1,275; bands propose some of them


def test_an_anchor_that_is_met_in_pieces_is_too_common() -> None:
    keys = np.repeat(np.array([7, 9], np.uint64), (75, 1))  # the last piece ends before another anchor
    records = SAMPLES.of(keys, np.zeros(76, np.uint64), np.arange(76), np.ones(76, bool))
    blocks = [records[start : start + 10] for start in range(0, 76, 10)]
    pairs = [_pairs(groups) for groups in grouped(blocks, ("key",), 40)]
    assert len(pairs) > 2
    inner, outer = (np.concatenate(columns) for columns in zip(*pairs, strict=True))
    assert inner.tolist() == list(range(75)) and set(outer.tolist()) == {-1}


def test_how_many_anchors_are_enough() -> None:
    assert least_shared(np.array([0, 1, 4, 16]), 0.9).tolist() == [1, 1, 2, 10]
    assert least_shared(np.array([16]), 1.0).tolist() == [16]


@pytest.mark.skipif(not CORPUS.is_file(), reason=f"no corpus at {CORPUS.name}")
def test_recall_on_parts_of_real_documents(tmp_path: Path) -> None:
    """At least 98 % of excerpts of 100 words and more are found inside the documents they were taken from."""
    with pa.input_stream(str(CORPUS), compression="zstd") as stream:
        rows = [json.loads(line) for line in io.TextIOWrapper(stream, encoding="utf-8")]
    generator = np.random.default_rng(7)
    wholes = [row["text"] for row in rows if len(row["text"].split()) > 400][::8]
    parts = []
    for text in wholes:
        words = text.split()
        start = int(generator.integers(0, len(words) - 300))
        parts.append(" ".join(words[start : start + int(generator.integers(100, 300))]))
    texts = [*wholes, *parts]
    evidence = find(tmp_path, texts, minimum_containment=0.9)
    sets = sets_of(texts)
    asked = [d for d in range(len(wholes), len(texts)) if len(sets[d]) >= 64]
    asked = [d for d in asked if containment(sets[d], sets[d - len(wholes)]) >= 0.9]
    assert len(asked) > 200
    assert np.mean(evidence.duplicate_of[asked] >= 0) >= 0.98
