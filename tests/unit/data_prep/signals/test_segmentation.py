"""Words of scripts without spaces: against a plain twin, and against gold sentences."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.signals.segmentation import divide, mark_words
from data_prep.signals.text_statistics import measure_string
from tests.unit.data_prep.signals.plain_segmentation import begins_of
from tools.train_segmenter import train, word_spans

GOLD = Path(__file__).parents[4].parent / "shared" / "data" / "gold_wordseg.jsonl.zst"

LETTERS = "我爱 你 。 图书馆 東京 に 行き ました カタカナ ー ไทย ที่ ภาษา ខ្មែរ ភាសា ລາວ မြန်မာ latin 12 😀 ｶﾅ"
fragments = st.sampled_from((*LETTERS.split(" "), " ", "\n", "\u200b", "\u0301"))


def begins(text: str) -> set[int]:
    data = text.encode()
    marked = mark_words(np.frombuffer(data, dtype=np.uint8), np.array([0, len(data)], dtype=np.int64))
    return {len(data[:place].decode()) for place in np.flatnonzero(marked).tolist()}


@given(st.lists(fragments, max_size=40).map("".join))
@settings(max_examples=300, deadline=None)
def test_equals_the_plain_twin(text: str) -> None:
    assert begins(text) == begins_of(text)
    assert "".join(divide(text)) == text


def test_a_batch_gives_what_each_text_gives_alone() -> None:
    texts = ["", "plain", "我们去图书馆。", "東京に行きました", "plain again", "我们去图书馆。"]
    data = "".join(texts).encode()
    offsets = np.cumsum([0, *(len(text.encode()) for text in texts)]).astype(np.int64)
    marked = mark_words(np.frombuffer(data, dtype=np.uint8), offsets)
    for d, text in enumerate(texts):
        own = {len(text.encode()[:place].decode()) for place in np.flatnonzero(marked[offsets[d] : offsets[d + 1]])}
        assert own == begins_of(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("我们去图书馆。", "我们 去 图书馆 。"),
        ("東京に行きました。", "東京 に 行き まし た 。"),
        ("มีเส้นขนานลากผ่านตรงนี้", "มี เส้น ขนาน ลาก ผ่าน ตรง นี้"),
        ("ប្រើរូបតំណាងនេះដើម្បីបញ្ចូលសញ្ញា", "ប្រើ រូប តំណាង នេះ ដើម្បី បញ្ចូល សញ្ញា"),
        ("ខ្មែរ\u200bភាសា", "ខ្មែរ \u200b ភាសា"),
        ("ລາວ", "ລ າ ວ"),
        ("用Python写", "用 Python 写"),
    ],
)
def test_words(text: str, words: str) -> None:
    assert divide(text) == words.split(" ")


def test_the_statistics_count_these_words() -> None:
    measured = measure_string("我们去图书馆。")
    assert (measured["word_count"], measured["mean_word_length"]) == (3, 2)
    assert measure_string("用Python写")["word_count"] == 3


def f1(sentences: list[tuple[str, list[str]]]) -> float:
    shared = found = asked = 0
    for text, words in sentences:
        ours = word_spans([part for piece in divide(text) for part in re.split(r"(\s+)", piece)])
        theirs = word_spans(words, text)
        shared, found, asked = shared + len(ours & theirs), found + len(ours), asked + len(theirs)
    return 2 * shared / (found + asked)


@pytest.mark.skipif(not GOLD.is_file(), reason=f"no gold sentences at {GOLD.name}")
@pytest.mark.parametrize(("language", "least"), [("zh", 0.73), ("ja", 0.83), ("th", 0.735)])
def test_gold_sentences(language: str, least: float) -> None:
    """60 sentences of Universal Dependencies each; jieba reaches 0.772 on the Chinese ones, PyThaiNLP's dictionary
    0.713 on the Thai ones, Janome 0.925 on the Japanese ones."""
    with pa.input_stream(str(GOLD), compression="zstd") as stream:
        rows = [json.loads(line) for line in io.TextIOWrapper(stream, encoding="utf-8")]
    sentences = [(row["text"], row["words"]) for row in rows if row["lang"] == language]
    assert len(sentences) == 60
    by_letters = sum(len(text) for text, _ in sentences) / sum(len(words) for _, words in sentences)
    assert by_letters > 1.5
    assert f1(sentences) >= least


def test_what_is_learnt_divides_as_it_was_taught() -> None:
    """Two letters that always occur together, and two that never do."""
    documents = [["甲乙", "丙", "丁"], ["丙", "甲乙", "丁"], ["丁", "丙", "甲乙"]] * 20
    weights = train(documents, features=100)
    total = sum(sum(window.values()) for window in weights.values())

    def asked(text: str, place: int) -> bool:
        score = weights.get("BW2", {}).get(text[place - 1 : place + 1], 0)
        score += weights.get("UW3", {}).get(text[place - 1], 0) + weights.get("UW4", {}).get(text[place], 0)
        return 2 * score > total

    assert not asked("甲乙", 1)
    assert asked("丙丁", 1)
