"""Shingles and signatures against a plain twin in Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.config import FingerprintConfig
from data_prep.signals.fingerprints import (
    exact_hash,
    fingerprint_text,
    jaccard,
    minhash_functions,
    shingle_set,
)
from data_prep.signals.text_statistics import measure_string

SHINGLE_WORDS = FingerprintConfig().shingle_words


def plain_shingles(text: str, by_character: bool = False) -> set[tuple[str, ...]]:
    lowered = [c.lower()[0] for c in text]
    words = "".join(lowered).split()
    units = list(" ".join(words)) if by_character else words
    if not units:
        return set()
    length = min(SHINGLE_WORDS, len(units))
    return {tuple(units[i : i + length]) for i in range(len(units) - length + 1)}


def fingerprint(texts: list[str], permutations: int = 112, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    found = fingerprint_text(data, offsets, FingerprintConfig(bands=permutations, rows=1, seed=seed))
    return found.counts, found.minima


def jaccard_of(a: str, b: str) -> float:
    return jaccard(shingle_set(a.encode(), SHINGLE_WORDS), shingle_set(b.encode(), SHINGLE_WORDS))


texts = st.lists(st.sampled_from(["a", "B", "c,", "Dé", "ß", "  ", "\n", "x-y", "İ", "Σ"]), max_size=40).map(" ".join)
unspaced = st.lists(st.sampled_from("我爱。カทA \n"), max_size=40).map(lambda parts: "我" + "".join(parts))


@given(texts, texts)
@settings(max_examples=150, deadline=None)
def test_jaccard_is_that_of_the_word_shingles(a: str, b: str) -> None:
    plain_a, plain_b = plain_shingles(a), plain_shingles(b)
    union = len(plain_a | plain_b)
    assert jaccard_of(a, b) == (len(plain_a & plain_b) / union if union else 0)
    assert fingerprint([a])[0].tolist() == [len(plain_a)]


@given(unspaced, unspaced)
@settings(max_examples=150, deadline=None)
def test_scripts_without_spaces_are_shingled_by_characters(a: str, b: str) -> None:
    share = [sum(c in "我爱カท" for c in text) / sum(c in "我爱カทA" for c in text) for text in (a, b)]
    plain_a, plain_b = plain_shingles(a, share[0] >= 0.2), plain_shingles(b, share[1] >= 0.2)
    assert jaccard_of(a, b) == len(plain_a & plain_b) / len(plain_a | plain_b)


def test_a_few_foreign_letters_do_not_change_the_unit() -> None:
    text = "the character 我 stands for the first person in this language"
    assert len(shingle_set(text.encode(), SHINGLE_WORDS)) == len(text.split()) - 4


def test_case_and_white_space_are_no_difference() -> None:
    assert jaccard_of("One two  three\nfour FIVE six", "one TWO three four five\tsix") == 1
    assert jaccard_of("One two three four five six", "One two, three four five six") < 1


def test_a_text_shorter_than_a_shingle_is_one() -> None:
    assert len(shingle_set(b"two words", SHINGLE_WORDS)) == 1
    assert jaccard_of("two words", "Two  words") == 1
    assert jaccard_of("two words", "two") == 0
    assert jaccard_of("", "") == 0
    counts, _ = fingerprint(["", " \n", "x"])
    assert counts.tolist() == [0, 0, 1]


def test_minima_are_those_of_the_stated_functions() -> None:
    text = "it was the best of times it was the worst of times it was the age of wisdom"
    _, minima = fingerprint([text], permutations=16, seed=7)
    multipliers, offsets = minhash_functions(16, 7)
    shingles = shingle_set(text.encode(), SHINGLE_WORDS)
    expected = [
        min((int(m) * int(s) + int(o)) % 2**64 >> 32 for s in shingles)
        for m, o in zip(multipliers, offsets, strict=True)
    ]
    assert minima[0].tolist() == expected


def test_functions_are_the_same_everywhere() -> None:
    # splitmix64 of seed 0 begins with this number (Vigna's reference implementation)
    _, offsets = minhash_functions(1, 0)
    assert minhash_functions(1, 0)[0][0] == 0xE220A8397B1DCDAF
    assert offsets[0] == 0x6E789E6AA1B965F4


def test_agreement_of_minima_estimates_jaccard() -> None:
    generator = np.random.default_rng(3)
    words = [f"w{i}" for i in generator.integers(0, 10**6, size=2000)]
    errors = []
    for changed in (0, 5, 20, 60, 150):
        other = list(words)
        for place in generator.choice(len(words), size=changed, replace=False):
            other[place] = f"x{place}"
        a, b = " ".join(words), " ".join(other)
        _, minima = fingerprint([a, b], permutations=1024)
        errors.append((minima[0] == minima[1]).mean() - jaccard_of(a, b))
    assert np.abs(errors).max() < 4 * np.sqrt(0.25 / 1024)  # four standard deviations at most


def test_a_batch_gives_what_each_text_gives_alone() -> None:
    batch = ["", "one two", "a b c d e f g " * 40, "我爱你" * 30, "z"]
    counts, minima = fingerprint(batch)
    for d, text in enumerate(batch):
        alone_counts, alone_minima = fingerprint([text])
        assert counts[d] == alone_counts[0]
        assert np.array_equal(minima[d], alone_minima[0])


def test_a_sample_is_the_small_hashes_of_the_set() -> None:
    batch = ["", " ".join(f"w{i}" for i in range(3000)), "one two", " ".join(f"w{i % 700}" for i in range(1500))]
    encoded = [text.encode() for text in batch]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    found = fingerprint_text(data, offsets, FingerprintConfig(bands=1, rows=8, sample_every=4))
    for d, text in enumerate(encoded):
        sampled = found.samples[found.sample_bounds[d] : found.sample_bounds[d + 1]]
        whole = shingle_set(text, SHINGLE_WORDS)
        assert sampled.tolist() == whole[whole < 2**62].tolist()
    assert 600 < found.sample_bounds[2] - found.sample_bounds[1] < 900  # a fourth of 2,996


def test_pages_in_books_are_searched_for() -> None:
    book = np.unique(np.random.default_rng(7).integers(0, 10**6, size=5000).astype(np.uint64))
    page = np.concatenate((book[::100], [np.uint64(10**6 + 1)]))
    assert jaccard(page, book) == jaccard(book, page) == (len(page) - 1) / (len(book) + 1)


def test_exact_hash_sees_every_byte() -> None:
    assert exact_hash(b"text") != exact_hash(b"text ")
    assert exact_hash(b"") == bytes.fromhex("99aa06d3014798d86001c324468d497f")  # xxHash's own test vector


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_cut_character_at_the_end_is_no_read_beyond_it(size: int) -> None:
    data = b"one two three four five \xf0\x9f\x98\x80"[: 24 + size]
    assert len(shingle_set(data, SHINGLE_WORDS)) == 2


def test_statistics_and_shingles_agree_on_what_separates_words() -> None:
    text = "a\u00a0b\u3000c\x1cd\x85e\u2028f"
    assert measure_string(text)["word_count"] == 6
    assert len(shingle_set(text.encode(), 1)) == 6
