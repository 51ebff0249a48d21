"""Packed n-grams: every word comes back, and numbers are in the order of words from the last one on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.ngrams import counting
from data_prep.ngrams.counting import NGramCounter, VocabularyError
from data_prep.ngrams.packing import Packing


@pytest.mark.parametrize("order", range(2, 7))
def test_words_come_back_and_order_is_that_of_the_last_words(order: int) -> None:
    packing = Packing(order)
    largest = packing.largest_vocabulary - 1
    assert largest == {2: 2**32, 3: 2**32, 4: 2**32, 5: 2**21, 6: 2**21}[order] - 1
    generator = np.random.default_rng(order)
    words = [generator.choice([0, 1, 2, 77, largest - 1, largest], 500).astype(np.uint64) for _ in range(order)]
    high, low = packing.pack(words)
    for place in range(order):
        assert np.array_equal(packing.word(high, low, place), words[place])
    rows = list(zip(*(column.tolist() for column in words), strict=True))
    packed = list(zip(high.tolist(), low.tolist(), strict=True))
    assert [row for _, row in sorted(zip(packed, rows, strict=True))] == sorted(rows)
    for count in range(order + 1):
        shortened = packing.last_words(high, low, count)
        kept = [*words[:count], *[np.zeros(500, np.uint64)] * (order - count)]
        assert all(map(np.array_equal, shortened, packing.pack(kept)))


def test_more_words_than_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Packing, "largest_vocabulary", 6)
    counter = NGramCounter(Packing(5), tmp_path / "runs", 1_000_000)
    counter.add([["a", "b", "c", "a"]])
    assert counter.words == [counting.UNKNOWN, counting.BEGIN, counting.END, "a", "b", "c"]
    with pytest.raises(VocabularyError, match=r"^there are more than 3 different pieces.*byte fallback"):
        counter.add([["d"]])
