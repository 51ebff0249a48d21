"""Repeated spans of sentences and tokens: against plain implementations, for any workers, memory and pieces."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.config import DataConfig
from data_prep.dedup import work as work_module
from data_prep.dedup.records import LINES
from data_prep.dedup.spans import copied, tidied
from data_prep.dedup.stage import dedup
from data_prep.dedup.units_of_text import sentences_of, spans_of, tokens_of
from data_prep.extract import extract
from data_prep.ledger.counts import count_documents
from data_prep.rules.decide import decide
from data_prep.run.commit_records import read_records
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import load_manifest
from data_prep.run.shuffle import grouped
from data_prep.signals.measure import measure
from data_prep.tokenizer.kept_documents import read_kept


def pieces(text: str, units: Any) -> list[str]:
    _, starts, stops = units(text.encode())
    return [text.encode()[start:stop].decode() for start, stop in zip(starts, stops, strict=True)]


def test_sentences_are_those_of_c4() -> None:
    text = 'Mr. Smith came. He said: "Hi!" Then\the left.\n\n  A line without a stop \n第一句。第二句！\n… 3.5 is one.'
    assert pieces(text, sentences_of) == [
        "Mr. Smith came.",
        'He said: "Hi!"',
        "Then\the left.",
        "A line without a stop",
        "第一句。",
        "第二句！",
        "… 3.5 is one.",
    ]
    hashes = sentences_of(b"One  TWO.\nOne\tTwo.\none two.\none two!")[0].tolist()
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]
    assert [len(units(b" \n\t ")[0]) for units in (sentences_of, tokens_of)] == [0, 0]


def test_tokens_are_words_marks_and_letters_of_scripts_without_spaces() -> None:
    assert pieces("Don't stop, naïve x86_64 日本語 3.5\n", tokens_of) == [
        *("Don", "'", "t", "stop", ",", "naïve", "x86", "_", "64", "日", "本", "語", "3", ".", "5"),
    ]  # fmt: skip
    hashes = tokens_of(b"word Word word")[0].tolist()
    assert hashes[0] == hashes[2] != hashes[1], "exact: case counts"


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 7))
def test_spans_are_equal_where_their_units_are(values: list[int], length: int) -> None:
    units = np.array([(7**value) * 0x9E3779B97F4A7C15 % 2**64 for value in values], np.uint64)
    places = np.arange(len(values))
    spans, starts, stops = spans_of((units, places, places + 1), length)
    whole = [tuple(values[k : k + length]) for k in range(len(values) - length + 1)]
    assert len(spans) == len(starts) == len(stops) == len(whole)
    assert len(set(spans.tolist())) == len(set(whole)) == len(set(zip(spans.tolist(), whole, strict=True)))
    assert (stops - starts == length).all()


@pytest.mark.parametrize("keeps_first", [False, True])
def test_pieces_of_large_groups_change_nothing(keeps_first: bool) -> None:
    source = random.Random(4)
    values = [source.choice([1] * 30 + [2] * 9 + list(range(3, 60))) for _ in range(300)]
    records = LINES.sorted(np.array([(value, k, k) for k, value in enumerate(values)], LINES.dtype))
    expected = [
        values.count(value) > 1 and not (keeps_first and value not in values[:k]) for k, value in enumerate(values)
    ]
    for block, most in ((1, 1), (7, 3), (40, 10), (1000, 64), (300, 1000)):
        found = np.zeros(len(values), int)
        blocks = (records[start : start + block] for start in range(0, len(records), block))
        for one in copied(grouped(blocks, ("key",), most), keeps_first):
            found[one["line"]] += 1
        assert found.tolist() == [int(goes) for goes in expected], (block, most)


@pytest.mark.parametrize(
    ("text", "cut", "left"),
    [
        ("A. B. C.", "B.", "A. C."),
        ("A. B.\nC.", "B.", "A.\nC."),
        ("A.\nB.\nC.", "B.", "A.\nC."),
        ("A. B.", "B.", "A."),
        ("A. B.", "A.", "B."),
        ("A.\n\nB.\n\nC.\n", "B.", "A.\n\n\nC.\n"),
    ],
)
def test_blanks_that_would_be_left_over_go_too(text: str, cut: str, left: str) -> None:
    start = text.index(cut)
    start, stop = tidied(text.encode(), start, start + len(cut))
    assert text[:start] + text[stop:] == left


# -- the stage


def run_of(folder: Path, texts: list[str], settings: dict[str, Any], **values: Any) -> tuple[DataConfig, RunDirectory]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = {"name": "web", "kind": "jsonl", "paths": [str(folder / "a.jsonl")], "rules": []}
    config = DataConfig.model_validate(
        {"output": folder / "run", "sources": [source], "workers": 1, "dedup": settings, **values}
    )
    run = RunDirectory(config.output)
    for stage in (extract, measure, dedup, decide):
        stage(config, run)
    return config, run


def kept_of(run: RunDirectory) -> list[str]:
    return [document.text for shard in load_manifest(run).shard_names for document in read_kept(run, shard)]


def plain(texts: list[list[str]], length: int, keeps_first: bool) -> list[list[str]]:
    """Units of each text that are left: of each span, all but the first occurrence, or all, are cut."""
    places: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for d, units in enumerate(texts):
        for k in range(len(units) - length + 1):
            places.setdefault(tuple(units[k : k + length]), []).append((d, k))
    goes = [[False] * len(units) for units in texts]
    for found in places.values():
        for d, k in found[1:] if keeps_first else found if len(found) > 1 else ():
            goes[d][k : k + length] = [True] * length
    return [
        [u for u, gone in zip(units, marks, strict=True) if not gone] for units, marks in zip(texts, goes, strict=True)
    ]


def corpus_of_sentences(seed: int, count: int) -> list[list[str]]:
    source = random.Random(seed)
    pool = [f"Sentence number {k} speaks of {source.choice('abcdefg')} things." for k in range(200)]
    common = [source.sample(pool, source.randrange(1, 9)) for _ in range(12)]
    texts = []
    for _ in range(count):
        units: list[str] = []
        for _ in range(source.randrange(1, 5)):
            units += source.choice(common) if source.random() < 0.5 else source.sample(pool, source.randrange(1, 6))
        texts.append([*units, f"And {len(texts)} is told here alone, {source.random()}."])
    texts.append([pool[0]] * 9 + ["The end of it."])
    return texts


@pytest.mark.parametrize("keep", ["keep_first", "drop_all"])
@pytest.mark.parametrize("length", [1, 3])
def test_repeated_sentences_are_those_of_a_plain_search(tmp_path: Path, keep: str, length: int) -> None:
    texts = corpus_of_sentences(length, 60)
    settings = {"sentences": keep, "sentence_span": length, "minimum_jaccard": 1.0}
    _, run = run_of(tmp_path, [" ".join(units) for units in texts], settings)
    left = plain(texts, length, keep == "keep_first")
    assert kept_of(run) == [" ".join(units) for units in left if units] != [" ".join(units) for units in texts]
    if keep == "keep_first":
        assert {unit for units in left for unit in units} == {unit for units in texts for unit in units}, "none is lost"


@pytest.mark.parametrize("keep", ["keep_first", "drop_all"])
def test_repeated_substrings_are_those_of_a_plain_search(tmp_path: Path, keep: str) -> None:
    source = random.Random(2)
    words = ["".join(source.choices("aeioulmnrst", k=5)) for _ in range(400)]
    shared = [source.choices(words, k=size) for size in (49, 50, 51, 120, 400)]
    texts = []
    for k in range(40):
        units = source.choices(words, k=source.randrange(5, 200))
        if k % 2:
            place = source.randrange(len(units))
            units[place:place] = shared[k // 2 % 5]
        texts.append(units)
    texts.append(["round", "and"] * 90)  # repeats itself
    settings = {"substrings": keep, "minimum_jaccard": 1.0}
    _, run = run_of(tmp_path, [" ".join(units) for units in texts], settings)
    expected = [" ".join(units) for units in plain(texts, 50, keep == "keep_first") if units]
    assert kept_of(run) == expected
    sizes = [len(units) for units in texts]
    assert sum(map(len, (text.split() for text in expected))) < sum(sizes) - 400


def test_workers_memory_and_kills_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(units) for units in corpus_of_sentences(7, 150)]
    settings = {"sentences": "keep_first", "substrings": "keep_first", "substring_tokens": 10, "lines": "keep_first"}
    _, first = run_of(tmp_path / "a", texts, settings)
    monkeypatch.setattr(work_module, "_LEAST_BUNDLE", 7)
    monkeypatch.setattr(work_module, "_BUNDLES", 10**9)
    small = {**settings, "memory_bytes": 1_000_000}
    _, second = run_of(tmp_path / "b", texts, small, workers=3, shard_bytes=3000)
    assert kept_of(first) == kept_of(second)
    for name in ("sentences", "substrings"):
        rows = [pq.read_table(run.dedup / name).to_pylist() for run in (first, second)]
        assert len(list((second.dedup / name).glob("*.parquet"))) > 1
        assert [(row["start"], row["end"]) for row in rows[0]] == [(row["start"], row["end"]) for row in rows[1]]
        counts = read_records(second, "dedup")["all"].counts
        assert counts[name] == len(rows[1]) > 0
        assert counts[f"{name}_bytes"] == sum(row["end"] - row["start"] for row in rows[1])
    _, third = run_of(tmp_path / "c", texts, small, workers=1, shard_bytes=3000)
    for path in sorted(second.dedup.rglob("*.parquet")):
        assert path.read_bytes() == (third.dedup / path.relative_to(second.dedup)).read_bytes(), path


def test_a_document_that_is_cut_whole_has_a_reason(tmp_path: Path) -> None:
    first = "One is here. Two is here. Three is here."
    texts = [f"{first} Four is here.", f"Three is here too. {first}", f"  {first}\n\n"]
    config, run = run_of(tmp_path, texts, {"sentences": "keep_first", "minimum_jaccard": 1.0})
    verdicts = pq.read_table(run.verdicts / "web-00000.parquet").to_pylist()
    assert [row["reasons"] for row in verdicts] == [[], [], ["duplicate.sentences"]]
    assert kept_of(run) == [texts[0], "Three is here too."]
    assert count_documents(load_manifest(run), run).total.by_reason == {"duplicate.sentences": 1}
    assert config.dedup.sentence_span == 3


def test_copies_and_dropped_documents_cost_no_text(tmp_path: Path) -> None:
    text = "One is here. Two is here. Three is here. Four is here."
    _, run = run_of(tmp_path, [text, text], {"sentences": "drop_all"})
    assert kept_of(run) == [text], "the copy is removed as one, and the text stays"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sentence_span": 4}, "sentence_span 4 has no effect while sentences is 'none'"),
        ({"substring_tokens": 40}, "substring_tokens 40 has no effect while substrings is 'none'"),
        ({"substrings": "keep_first", "substring_tokens": 9}, "greater than or equal to 10"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        DataConfig.model_validate(
            {"output": tmp_path, "sources": [{"name": "a", "kind": "text", "paths": ["a"]}], "dedup": settings}
        )
    assert message in str(error.value)
