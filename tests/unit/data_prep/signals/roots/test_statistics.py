"""ROOTS: a plain twin written after its code, and cases worked out by hand."""

from __future__ import annotations

import json
import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.signals.roots.parameters import DEFAULT, PARAMETERS
from data_prep.signals.roots.statistics import _BLANKS, _WORDS_FILE, ROOTS_STATISTICS, measure_roots
from data_prep.signals.segmentation import mark_words

LISTS = json.loads(_WORDS_FILE.read_text(encoding="utf-8"))
SPECIAL = {chr(point) for start, stop in LISTS["special_characters"] for point in range(start, stop)}


def measure(text: str, language: str) -> dict[str, float]:
    data = text.encode()
    array, offsets = np.frombuffer(data, dtype=np.uint8), np.array([0, len(data)])
    row = measure_roots(array, offsets, mark_words(array, offsets), [language])[0]
    return dict(zip(ROOTS_STATISTICS, row.tolist(), strict=True))


def stripped(word: str) -> str:
    inside = [i for i, character in enumerate(word) if character not in SPECIAL]
    return word[inside[0] : inside[-1] + 1] if inside else ""


def plain(text: str, language: str) -> dict[str, float]:
    parameters = PARAMETERS.get(language, DEFAULT)
    text = "".join(" " if ord(c) in _BLANKS else c for c in text.strip())
    if parameters.removes_words:

        def keeps(word: str) -> bool:
            inside = stripped(word)
            if len(word) > parameters.longest_word and not 0 < len(inside) <= parameters.longest_word:
                return False
            return not any(part in inside for part in ("http", "www", ".com", "href", "//"))

        lines = []
        for line in text.split("\n"):
            columns = [" ".join(w for w in column.split(" ") if w and keeps(w)) for column in line.split("\t")]
            lines.append("\t".join(column for column in columns if column))
        text = "\n".join(line for line in lines if line)
    separated = re.split("[ \n\t]", text)
    words = [word for word in (stripped(word.lower()) for word in separated) if word]
    grams = Counter(text[i : i + parameters.character_gram] for i in range(len(text) - parameters.character_gram + 1))
    counts = sorted(grams.values(), reverse=True)
    top = min(int(math.sqrt(len(counts))), sum(count > 1 for count in counts))
    word_grams = Counter(
        tuple(words[i : i + parameters.word_gram]) for i in range(len(words) - parameters.word_gram + 1)
    )
    pairs = []
    if parameters.pairs_joined_by is not None:
        pairs = [parameters.pairs_joined_by.join(words[i : i + 2]) for i in range(len(words) - 1)]
    shares = {}
    for name in ("stop_words", "flagged_words"):
        listed = set(LISTS[name].get(language, ()))
        shares[name] = min(sum(word in listed for word in words + pairs) / max(len(words), 1), 1.0)
    return {
        "roots_word_count": sum(bool(stripped(word)) for word in separated),
        "roots_character_repetition": sum(counts[:top]) / max(sum(counts), 1),
        "roots_word_repetition": sum(n for n in word_grams.values() if n > 1) / max(sum(word_grams.values()), 1),
        "roots_special_character_share": sum(c in SPECIAL for c in text) / max(len(text), 1),
        "roots_stop_word_share": shares["stop_words"] if language in LISTS["stop_words"] else 1.0,
        "roots_flagged_word_share": shares["flagged_words"],
    }


PARTS = st.sampled_from(
    [
        *"abz .,;!?-\n\t\u00a0\u3000/:é😀ØøГгΠⓂ",
        "the ",
        "of ",
        "www",
        "http",
        ".com",
        "//",
        "href",
        "và ",
        "có thể ",
        "x" * 30,
        "12 ",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PARTS, max_size=60).map("".join), st.sampled_from(["en", "fr", "vi", "ur", "xx"]))
def test_the_plain_twin_agrees(text: str, language: str) -> None:
    assert measure(text, language) == pytest.approx(plain(text, language), abs=1e-12)


def test_repetition_by_hand() -> None:
    # 21 grams of 10 characters of which 10 are different: the rotations of "abcdefghi ", each twice and one thrice;
    # the root of 10 is 3, so the three most frequent count: 3 + 2 + 2
    text = "abcdefghi abcdefghi abcdefghi "[:30] + "j"
    measured = measure(text, "xx")
    assert measured["roots_character_repetition"] == pytest.approx((3 + 2 + 2) / 22)
    assert measure("a b c d e a b c d e f", "en")["roots_word_repetition"] == pytest.approx(2 / 7)
    assert measure("a b c d e", "en")["roots_word_repetition"] == 0.0


def test_addresses_and_overlong_words_are_taken_out() -> None:
    assert measure("see www.example.org now", "en")["roots_word_count"] == 2
    assert measure("see www.example.org now", "xx")["roots_word_count"] == 3  # the default parameters remove nothing
    assert measure(f"see {'x' * 26} now", "en")["roots_word_count"] == 2
    assert measure(f"see {'x' * 25}, now", "en")["roots_word_count"] == 3  # the sign at its end does not count


def test_letters_that_are_special_in_one_case() -> None:
    """ROOTS lists only the capital of U+0413, and only the small letter of U+00F8."""
    assert measure("\u0413\u0434\u0435 " * 6, "xx")["roots_word_count"] == 6
    assert measure("\u0413 a", "xx")["roots_word_count"] == 1
    assert measure("\u00d8 a", "xx")["roots_word_count"] == 2
    assert measure("\u00f8 a", "xx")["roots_word_count"] == 1
    # stripped as it is, the first word would be the same as the others
    assert measure("\u0413\u0430" + " \u0430" * 5, "en")["roots_word_repetition"] == 0


def test_words_of_one_language_are_not_those_of_another() -> None:
    assert measure("the of and", "en")["roots_stop_word_share"] == 1.0
    assert measure("the of and", "fr")["roots_stop_word_share"] == 0.0
    assert measure("The OF And", "en")["roots_stop_word_share"] == 1.0
    assert measure("the of and", "de")["roots_stop_word_share"] == 1.0  # there is no list, so the rule does not apply


def test_chinese_is_divided_and_looked_up_in_pairs() -> None:
    measured = measure("我们去图书馆", "zh")
    assert measured["roots_word_count"] == 3
    listed = set(LISTS["stop_words"]["zh"])
    looked_up = ("我们", "去", "图书馆", "我们去", "去图书馆")
    assert "我们" in listed
    assert measured["roots_stop_word_share"] == sum(word in listed for word in looked_up) / 3 < 1
