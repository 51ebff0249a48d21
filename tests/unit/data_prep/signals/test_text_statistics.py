"""The compiled statistics against a slow plain twin, and cases worked out by hand."""

from __future__ import annotations

import inspect
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.signals.segmentation import mark_words
from data_prep.signals.text_statistics import COUNTS, STATISTICS, measure_string, measure_text
from tests.unit.data_prep.signals.plain_segmentation import begins_of, category

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
BULLETS = "•‣▶◀◦■□▪▫"


def runs_of(text: str) -> list[tuple[int, int]]:
    """Runs without white space, cut at words of scripts without spaces: (start, stop) in characters."""
    begins = begins_of(text)
    runs: list[tuple[int, int]] = []
    start: int | None = None
    for i, character in enumerate(text + " "):
        if start is not None and (character.isspace() or i in begins):
            runs.append((start, i))
            start = None
        if start is None and not character.isspace():
            start = i
    return runs


def words_of(text: str) -> list[tuple[int, int]]:
    words = []
    for start, stop in runs_of(text):
        inside = [i for i in range(start, stop) if category(text[i]) in "LNM"]
        if inside:
            words.append((inside[0], inside[-1] + 1))
    return words


def covered(ranges: list[tuple[int, int]]) -> int:
    return len({i for start, stop in ranges for i in range(start, stop)})


def repeats(items: list[str]) -> list[str]:
    seen: set[str] = set()
    return [item for item in items if item in seen or seen.add(item)]  # type: ignore[func-returns-value]


def pieces_of(text: str) -> int:
    def kind(character: str) -> str:
        if character.isspace():
            return "space"
        return {"L": "letter", "M": "letter", "N": "number"}.get(category(character), "symbol")

    pieces, i = 0, 0
    while i < len(text):
        stop = i
        while stop < len(text) and kind(text[stop]) == kind(text[i]):
            stop += 1
        is_joining_blank = text[i:stop] == " " and stop < len(text)
        pieces += not is_joining_blank
        i = stop
    return pieces


def plain_statistics(text: str) -> dict[str, float]:
    result: dict[str, float] = {"byte_count": len(text.encode()), "character_count": len(text)}
    characters = max(len(text), 1)
    words, runs = words_of(text), runs_of(text)
    spelled = [text[start:stop] for start, stop in words]
    divisor = max(len(words), 1)
    result["word_count"] = len(words)
    result["mean_word_length"] = sum(map(len, spelled)) / divisor
    result["hash_symbols_per_word"] = text.count("#") / divisor
    result["ellipses_per_word"] = (text.count("...") + text.count("…")) / divisor
    with_letter = sum(any(category(c) == "L" for c in text[start:stop]) for start, stop in runs)
    result["alphabetic_word_share"] = with_letter / max(len(runs), 1)
    ascii_lower = str.maketrans({chr(c): chr(c + 32) for c in range(65, 91)})
    result["distinct_stop_words"] = len({word.translate(ascii_lower) for word in spelled} & STOP_WORDS)

    raw_lines = text.split("\n")
    raw_lines = raw_lines[:-1] if raw_lines[-1] == "" else raw_lines
    lengths = [len(line[:-1] if line.endswith("\r") else line) for line in raw_lines]
    result["longest_line_characters"] = max(lengths, default=0)
    result["mean_line_characters"] = sum(lengths) / max(len(lengths), 1)
    lines = [line.strip() for line in raw_lines if line.strip()]
    paragraphs: list[list[str]] = [[]]
    for line in raw_lines:
        if line.strip():
            paragraphs[-1].append(line.strip())
        elif paragraphs[-1]:
            paragraphs.append([])
    paragraphs = [paragraph for paragraph in paragraphs if paragraph]
    result["line_count"], result["paragraph_count"] = len(lines), len(paragraphs)
    bullets = sum(line[0] in BULLETS or (line[0] in "-*–" and (line[1:2] == "" or line[1].isspace())) for line in lines)
    result["bullet_line_share"] = bullets / max(len(lines), 1)
    result["ellipsis_line_share"] = sum(line.endswith(("...", "…")) for line in lines) / max(len(lines), 1)
    result["duplicate_line_share"] = len(repeats(lines)) / max(len(lines), 1)
    result["duplicate_line_character_share"] = sum(map(len, repeats(lines))) / characters
    joined = ["\n".join(paragraph) for paragraph in paragraphs]
    result["duplicate_paragraph_share"] = len(repeats(joined)) / max(len(joined), 1)
    result["duplicate_paragraph_character_share"] = (
        sum(len(paragraph.replace("\n", "")) for paragraph in repeats(joined)) / characters
    )

    for n in range(2, 11):
        grams = [tuple(spelled[i : i + n]) for i in range(len(spelled) - n + 1)]
        ranges = [(words[i][0], words[i + n - 1][1]) for i in range(len(grams))]
        if n <= 4:
            frequent, top = Counter(grams), None
            seen: Counter[tuple[str, ...]] = Counter()
            for gram in grams:  # among equals, the first to reach the count
                seen[gram] += 1
                if top is None and seen[gram] == max(frequent.values()) > 1:
                    top = gram
            chosen = [where for gram, where in zip(grams, ranges, strict=True) if gram == top]
            result[f"top_{n}_gram_character_share"] = covered(chosen) / characters
        else:
            before: set[tuple[str, ...]] = set()
            again = []
            for gram, where in zip(grams, ranges, strict=True):
                if gram in before:
                    again.append(where)
                before.add(gram)
            result[f"duplicate_{n}_gram_character_share"] = covered(again) / characters

    result["alphanumeric_share"] = sum(category(c) in "LN" for c in text) / characters
    result["alphabetic_characters_per_token"] = sum(category(c) == "L" for c in text) / max(pieces_of(text), 1)
    return result


def assert_same(text: str) -> None:
    measured, plain = measure_string(text), plain_statistics(text)
    assert set(measured) == set(plain) == set(STATISTICS)
    for name in STATISTICS:
        assert measured[name] == pytest.approx(plain[name], rel=1e-12, abs=1e-15), (name, text)


WORDS = (
    "the",
    "The",
    "THAT",
    "of and",
    "cat",
    "don't",
    "3.14",
    "_x_",
    "ไทย",
    "ที่",
    "ខ្មែរ",
    "カナ",
    "한국어",
    "हिन्दी",
    "𠀀",
    "爱你",
)
SIGNS = ("#", "...", "…", "....", "-", "•", "–", "。", "ー", "😀", "e\u0301", "\u0301", "\U000e0100")
SPACES = (" ", "  ", "\n", "\n\n", "\r\n", "\t", "\u3000", "\x85", "\u00a0", "\x1c")
fragments = st.sampled_from((*WORDS, *SIGNS, *SPACES, "- x", "a b c d e f ", "\n- line\n"))


@given(st.lists(fragments, max_size=60).map("".join))
@settings(max_examples=300, deadline=None)
def test_equals_the_plain_twin_on_made_up_text(text: str) -> None:
    assert_same(text)


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_equals_the_plain_twin_on_any_characters(text: str) -> None:
    assert_same(text)


def test_equals_the_plain_twin_on_real_text() -> None:
    for source in (inspect, unicodedata, pytest, np.ma):
        path = Path(getattr(source, "__file__", "") or "")
        if path.suffix == ".py":
            assert_same(path.read_text(encoding="utf-8")[:30_000])
    assert_same(Path(__file__).read_text(encoding="utf-8"))


def measure(data: bytes, offsets: np.ndarray) -> np.ndarray:
    array = np.frombuffer(data, dtype=np.uint8)
    return measure_text(array, offsets, mark_words(array, offsets))


def test_a_batch_gives_what_each_text_gives_alone() -> None:
    texts = ["", "one", "the cat\nthe cat\n", "我爱你。" * 50, "x " * 1000, "end"]
    data = b"".join(text.encode() for text in texts)
    offsets = np.cumsum([0, *(len(text.encode()) for text in texts)])
    together = measure(data, offsets.astype(np.int64))
    for row, text in zip(together, texts, strict=True):
        assert dict(zip(STATISTICS, row.tolist(), strict=True)) == measure_string(text)


def test_no_statistic_is_undefined_for_an_empty_text() -> None:
    assert set(measure_string("").values()) == {0.0}
    assert set(measure_string(" \n \n").keys()) == set(STATISTICS)
    assert set(COUNTS) < set(STATISTICS)


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_character_cut_at_the_end_of_a_text_is_not_read_past_it(cut: int) -> None:
    whole = "ab 😀".encode()
    data = whole[: len(whole) - cut] + b"x the the"
    offsets = np.array([0, len(whole) - cut, len(data)], dtype=np.int64)
    rows = measure(data, offsets)
    assert rows[1].tolist() == list(measure_string("x the the").values())


# cases by hand


def test_words_leave_out_the_punctuation_around_them() -> None:
    measured = measure_string('"Don\'t," she said -- twice (2 times)!')
    # Don't she said twice 2 times: 5 + 3 + 4 + 5 + 1 + 5 characters; the run `--` has no letter, and neither has 2
    assert measured["word_count"] == 6
    assert measured["mean_word_length"] == 23 / 6
    assert measured["alphabetic_word_share"] == 5 / 7


def test_a_bigram_that_occurs_once_is_no_repetition() -> None:
    measured = measure_string("one two three four five six seven eight nine ten eleven twelve")
    assert all(measured[name] == 0 for name in STATISTICS if "gram" in name)


def test_characters_of_repeated_grams_are_counted_once() -> None:
    # ten words twice: the second ten words are repeats, the blanks between them belong to them
    text = "a b c d e f g h i j a b c d e f g h i j"
    assert len(text) == 39
    measured = measure_string(text)
    for n in range(5, 11):
        assert measured[f"duplicate_{n}_gram_character_share"] == 19 / 39


def test_overlapping_top_grams_cannot_exceed_the_text() -> None:
    measured = measure_string("spam " * 100)
    assert measured["top_2_gram_character_share"] == 499 / 500


def test_repeated_lines_and_paragraphs_count_without_the_first() -> None:
    measured = measure_string("head\n\nsame line\nx\n\nsame line\nx\n\n same line\nx \n")
    assert (measured["line_count"], measured["paragraph_count"]) == (7, 4)
    assert measured["duplicate_line_share"] == 4 / 7
    assert measured["duplicate_paragraph_share"] == 2 / 4
    assert measured["duplicate_line_character_share"] == pytest.approx(20 / measured["character_count"])


def test_scripts_without_spaces_are_divided_into_words() -> None:
    assert measure_string("我爱你。")["word_count"] == 3
    assert measure_string("我们去图书馆。")["word_count"] == 3
    assert measure_string("ที่")["word_count"] == 1  # one consonant with two marks
    assert measure_string("한국어 단어")["word_count"] == 2
    assert measure_string("naïve Ünïcödé слово")["word_count"] == 3


def test_ellipses_and_bullets() -> None:
    measured = measure_string("• one...\n- two…\n-three\n– four ....\n")
    assert measured["bullet_line_share"] == 3 / 4
    assert measured["ellipsis_line_share"] == 3 / 4
    assert measured["ellipses_per_word"] == 3 / 4


def test_consecutive_lines_are_one_paragraph() -> None:
    for a, b in pairwise(["x", "y", "z"]):
        assert measure_string(f"{a}\n{b}\n \n{a}")["paragraph_count"] == 2
