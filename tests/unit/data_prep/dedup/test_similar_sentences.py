"""Similar sentences: verified exactly, never because of a chain, and the same for any workers and memory."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.dedup import work as work_module
from data_prep.dedup.records import ASKS
from data_prep.dedup.similar_sentences import BANDS, LEAST_TOKENS, _unique, band_keys, pairs_of
from data_prep.dedup.units_of_text import sentences_of
from data_prep.run.commit_records import read_records
from tests.unit.data_prep.dedup.test_spans import kept_of, run_of

LEAST = 0.7


def pair_sets(text: str) -> list[set[int]]:
    pairs, bounds = pairs_of(text.encode())
    return [set(pairs[a:b].tolist()) for a, b in pairwise(bounds.tolist())]


def jaccard(one: str, two: str) -> float:
    a, b = (pair_sets(text)[0] for text in (one, two))
    return len(a & b) / len(a | b)


def test_pairs_are_of_neighbouring_tokens_of_a_sentence() -> None:
    assert jaccard("The red fox runs over the hill.", "The red fox runs over the HILL.") == 1
    assert jaccard("one two three four five six seven", "one two three four five six eight") == 5 / 7
    assert [len(pairs) for pairs in pair_sets("One two three. Four! 一二三。")] == [3, 1, 3]
    assert pair_sets("") == []
    keys = band_keys(b"One two three four five. One two three four, five six. Short one.")
    assert keys.shape == (3, BANDS) and (keys[:2] != 0).all() and (keys[2] == 0).all()
    assert LEAST_TOKENS == 6


def test_similar_sentences_share_a_band_as_often_as_the_theory_says() -> None:
    source = random.Random(8)
    shared = {0.8: 0, 0.5: 0}
    for similarity in shared:
        for _ in range(300):
            words = ["".join(source.choices("aeioulmnrst", k=7)) for _ in range(61)]
            # one word at the end is one pair; pairs differ from a place on
            same = round(60 * 2 * similarity / (1 + similarity))
            other = words[: same + 1] + ["".join(source.choices("bcdfgh", k=7)) for _ in range(60 - same)]
            keys = [band_keys(" ".join(text).encode())[0] for text in (words, other)]
            shared[similarity] += bool((keys[0] == keys[1]).any())
    for similarity, count in shared.items():
        expected = 1 - (1 - similarity**3) ** 8
        assert abs(count / 300 - expected) < 4 * np.sqrt(expected * (1 - expected) / 300) + 0.01


def corpus(seed: int, count: int) -> list[str]:
    source = random.Random(seed)
    words = ["".join(source.choices("aeioulmnrst", k=6)) for _ in range(900)]
    notices = [source.choices(words, k=source.randrange(10, 25)) for _ in range(8)]
    texts = []
    for k in range(count):
        sentences = [source.choices(words, k=source.randrange(3, 20)) for _ in range(source.randrange(1, 4))]
        for _ in range(source.randrange(3)):
            notice = list(source.choice(notices))
            for _ in range(source.randrange(3)):
                notice[source.randrange(len(notice))] = source.choice(words)
            sentences.insert(source.randrange(len(sentences) + 1), notice)
        texts.append(" ".join(f"{' '.join(sentence).capitalize()}." for sentence in sentences) + f" Number {k}.")
    return texts


def sentences(text: str) -> list[str]:
    _, starts, stops = sentences_of(text.encode())
    return [text.encode()[a:b].decode() for a, b in zip(starts, stops, strict=True)]


def test_each_cut_sentence_is_similar_to_an_earlier_one_that_is_kept(tmp_path: Path) -> None:
    texts = corpus(1, 120)
    _, run = run_of(tmp_path, texts, {"similar_sentences": LEAST, "minimum_jaccard": 1.0})
    rows = pq.read_table(run.dedup / "similar_sentences").to_pylist()
    cut: dict[int, list[tuple[int, int]]] = {}
    for row in rows:
        cut.setdefault(int(row["id"].rpartition("/")[2]), []).append((row["start"], row["end"]))
    earlier: list[str] = []
    gone = 0
    for d, text in enumerate(texts):
        _, starts, stops = sentences_of(text.encode())
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            sentence = text.encode()[start:stop].decode()
            if any(first <= start and stop <= last for first, last in cut.get(d, [])):
                gone += 1
                assert max(jaccard(sentence, other) for other in earlier) >= LEAST
            else:
                earlier.append(sentence)
    assert gone > 60
    # what is left has few pairs as similar as that: LSH finds nearly all
    longer = [sentence for sentence in earlier if len(sentence.split()) >= LEAST_TOKENS]
    left = sum(jaccard(a, b) >= 0.8 for k, a in enumerate(longer) for b in longer[:k])
    assert left <= 2
    counts = read_records(run, "dedup")["all"].counts
    assert (
        counts["similar_sentences"] == len(rows) and counts["sentences_compared"] >= counts["sentences_similar"] >= gone
    )


def test_nothing_goes_because_of_a_chain(tmp_path: Path) -> None:
    words = [f"word{k}" for k in range(24)]
    second = [*words[:21], "x1", "x2", "x3"]
    chain = [f"{' '.join(some).capitalize()}." for some in (words, second, ["y1", "y2", "y3", *second[3:]])]
    assert min(jaccard(one, two) for one, two in pairwise(chain)) > LEAST > jaccard(chain[0], chain[2]) + 0.1
    texts = [f"Start {k} here. {some} End {k} here." for k, some in enumerate(chain)]
    _, run = run_of(tmp_path, texts, {"similar_sentences": LEAST, "minimum_jaccard": 1.0})
    assert kept_of(run) == [texts[0], "Start 1 here. End 1 here.", texts[2]]
    counts = read_records(run, "dedup")["all"].counts
    assert counts["sentences_similar"] == 2, "the third is similar to the second, which is cut"


def test_workers_and_memory_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = corpus(5, 150)
    settings = {"similar_sentences": LEAST, "sentences": "keep_first"}
    _, first = run_of(tmp_path / "a", texts, settings)
    monkeypatch.setattr(work_module, "_LEAST_BUNDLE", 7)
    monkeypatch.setattr(work_module, "_BUNDLES", 10**9)
    small = {**settings, "memory_bytes": 1_000_000}
    _, second = run_of(tmp_path / "b", texts, small, workers=3, shard_bytes=3000)
    _, third = run_of(tmp_path / "c", texts, small, workers=1, shard_bytes=3000)
    assert kept_of(first) == kept_of(second) != texts
    assert len(list((second.dedup / "similar_sentences").glob("*.parquet"))) > 1
    for path in sorted(second.dedup.rglob("*.parquet")):
        assert path.read_bytes() == (third.dedup / path.relative_to(second.dedup)).read_bytes(), path


def test_a_document_of_similar_sentences_alone_has_a_reason(tmp_path: Path) -> None:
    notice = "This site uses small files to remember you, dear {}, in your browser of today."
    texts = [f"First of all. {notice.format('Ann')}", notice.format("Bob")]
    _, run = run_of(tmp_path, texts, {"similar_sentences": LEAST, "minimum_jaccard": 1.0})
    verdicts = pq.read_table(run.verdicts / "web-00000.parquet").to_pylist()
    assert [row["reasons"] for row in verdicts] == [[], ["duplicate.similar_sentences"]]


def test_pairs_that_several_bands_ask_for_are_compared_once() -> None:
    rows = [(1, 0, 2, 0), (1, 0, 2, 0), (1, 0, 2, 1), (1, 0, 2, 1), (1, 0, 2, 1), (2, 0, 2, 1)]
    records = np.array(rows, ASKS.dtype)
    for size in (1, 2, 3, 6):
        blocks = (records[start : start + size] for start in range(0, len(records), size))
        found = np.concatenate(list(_unique(blocks, ASKS.key_names)))
        assert found.tolist() == sorted(set(rows))
