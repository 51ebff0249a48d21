"""Lists of bad words, beside the expression that mC4 was made with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.config import DataConfig
from data_prep.dedup.stage import dedup
from data_prep.extract import extract
from data_prep.rules.decide import decide
from data_prep.run.directory import RunDirectory
from data_prep.signals.bad_words import BadWords
from data_prep.signals.measure import measure

LISTS = {
    "en": ["darn", "blow up", "s&m", "Heck", "x_y"],
    "de": ["mist", "straße", "ärgerlich"],
    "hi": ["बेकार", "कमबख्त"],
    "ru": ["чёрт"],
    "zh": ["坏蛋", "笨"],
    "th": ["บ้า"],
    "ko": ["바보", "🖕"],
}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> BadWords:
    folder = tmp_path_factory.mktemp("lists")
    for language, entries in LISTS.items():
        (folder / language).write_text("# a list\n" + "\n".join(entries) + "\n")
    return BadWords({language: folder / language for language in LISTS})


def find(words: BadWords, texts: list[str], languages: list[str]) -> list[list[str] | None]:
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return words.find(np.frombuffer(b"".join(encoded), np.uint8), offsets, languages)


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Oh DARN, it", ["darn"]),
        ("en", "darned, undarn darn_it darn1", []),
        ("en", "blow up; blow  up", ["blow up"]),
        ("en", "S&M and x_y", ["s&m", "x_y"]),
        ("en", "heck\nDarn-heck", ["darn", "heck"]),
        ("de", "So ein Mist! Auf der Straße", ["mist", "straße"]),
        ("zh", "他是坏蛋吗", ["坏蛋"]),
        ("th", "คนบ้านี้", ["บ้า"]),
        ("ko", "🖕", ["🖕"]),
        ("fr", "darn", None),
    ],
)
def test_entries_count_where_nothing_of_a_word_touches_them(
    words: BadWords, language: str, text: str, expected: list[str] | None
) -> None:
    assert find(words, [text], [language]) == [expected]


_PARTS = st.sampled_from([word for entries in LISTS.values() for word in entries])
_BETWEEN = st.sampled_from(["", " ", "  ", "\n", "_", "-", ".", "s", "1", "é", "日", "\u0301", "ा", "😀", "X"])


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(st.tuples(_BETWEEN, _PARTS | _BETWEEN), max_size=12), min_size=1, max_size=6), st.data())
def test_the_same_as_the_expression_of_mc4(
    words: BadWords, documents: list[list[tuple[str, str]]], data: st.DataObject
) -> None:
    texts = ["".join(between + part for between, part in parts) for parts in documents]
    languages = [data.draw(st.sampled_from([*LISTS, "fr"])) for _ in texts]
    for text, language, found in zip(texts, languages, find(words, texts, languages), strict=True):
        if language == "fr":
            assert found is None
            continue
        any_of = "|".join(re.escape(entry.lower()) for entry in LISTS[language])
        expression = any_of if language in ("zh", "th") else rf"(?:\W|^)({any_of})(?:\W|$)"
        assert bool(found) == (re.search(expression, text.lower()) is not None), (language, text)


def test_from_lists_to_reasons(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    texts = ["This is an English text about rain.", "This is an English text, darn it, about snow."]
    (tmp_path / "raw" / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "english.txt").write_text("darn\n")
    source = {"name": "web", "kind": "jsonl", "paths": [str(tmp_path / "raw")], "rules": ["bad_words"]}
    config = DataConfig.model_validate(
        {
            "output": str(tmp_path / "run"),
            "sources": [source],
            "bad_words": {"eng": str(tmp_path / "english.txt")},
            "workers": 1,
        }
    )
    run = RunDirectory(config.output)
    for stage in (extract, measure, dedup, decide):
        stage(config, run)
    signals = pq.read_table(run.signals / "web-00000.parquet").to_pylist()
    assert [row["bad_word_matches"] for row in signals] == [[], ["darn"]]
    verdicts = pq.read_table(run.verdicts / "web-00000.parquet").to_pylist()
    assert [row["reasons"] for row in verdicts] == [[], ["bad_words.count"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"bad_words\.en: .*list: no such file"),
        (b"# nothing\n\n", r"bad_words\.en: .*has no entry"),
        (b"\xff\n", r"bad_words\.en: .*codec"),
    ],
)
def test_a_list_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "list").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        BadWords({"en": tmp_path / "list"})


def test_the_rule_needs_a_list() -> None:
    source = {"name": "web", "kind": "jsonl", "paths": ["raw"], "rules": ["bad_words"]}
    with pytest.raises(ValueError, match=r"sources\.0\.rules: rule set `bad_words` needs lists"):
        DataConfig.model_validate({"output": "run", "sources": [source]})
