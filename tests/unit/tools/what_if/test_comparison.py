"""Two ladders whose rungs are pairs: which is better, and when that cannot be known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_prep.rules.compare import names_of
from tools.ladder.interval import LadderError
from tools.ladder.law import LossLaw
from tools.ladder.rungs import Cost, Result
from tools.what_if.comparison import Comparison, compare

LAW = LossLaw(0.9, 30.0, 0.3, 150.0, 0.35)
TARGET = Cost(500_000, 21_000_000, 6 * 5e5 * 2.1e7)


def ladder(
    random: np.random.Generator, factor: float = 1.0, noise: float = 0.002, break_at: float = 1e9
) -> list[Result]:
    """Eleven rungs, two of them repeated twice. From `break_at` parameters on, losses are 3 % higher than the law."""
    found = []
    for size in (4e4, 8e4, 1.4e5, 2.3e5, 3.5e5):
        for length in (20, 40, 80):
            if size * length > 40 * 2.3e5:
                continue
            for seed in range(1 + 2 * (size == 4e4)):
                loss = factor * LAW(size, size * length) * float(np.exp(random.normal(0, noise)))
                loss *= 1.03 if size >= break_at else 1.0
                name = f"{size:g}-{length}-{seed}"
                found.append(Result(name, size, size * length, 6 * size * size * length, loss, 1000, seed))
    return found


def compared(factor: float, noise: float = 0.002, seed: int = 1, break_at: float = 1e9) -> Comparison:
    random = np.random.default_rng(seed)
    return compare(ladder(random, 1.0, noise, break_at), ladder(random, factor, noise, break_at), TARGET)


def test_a_clear_difference_is_found_with_its_size() -> None:
    worse, better = compared(1.05), compared(0.95)
    assert worse.better == 0 and worse.low < 0.05 < worse.high and worse.difference == pytest.approx(0.05, abs=0.02)
    assert better.better == 1 and better.low < -0.05 < better.high
    assert worse.first.loss == pytest.approx(LAW(*TARGET[:2]), rel=0.03)
    assert worse.pairs == 11


@pytest.mark.slow
def test_chance_is_not_ranked() -> None:
    """Twenty pairs of ladders of one law: a rank in a tenth of them is what an interval of 90 % allows."""
    ranked = 0
    for seed in range(20):
        try:
            ranked += compared(1.0, 0.004, seed).better is not None
        except LadderError:  # a law with a number on its bound: nothing is claimed
            continue
    assert ranked <= 4


def test_what_bends_both_laws_alike_cancels() -> None:
    """Large sizes that do worse than the law of the small ones, on either corpus."""
    found = compared(1.02, 0.001, break_at=3e5)
    assert found.first.widening > 3 and found.widening < found.first.widening / 2
    assert found.high - found.low < (found.first.high - found.first.low) / found.first.loss / 2


def test_a_difference_that_turns_with_size_is_not_trusted() -> None:
    random = np.random.default_rng(5)
    first, second = ladder(random, noise=0.001), ladder(random, 1.01, noise=0.001, break_at=3e5)
    found = compare(first, second, TARGET)
    assert found.widening > 3 and found.better is None


def test_only_pairs_on_the_same_text_count() -> None:
    random = np.random.default_rng(1)
    first, second = ladder(random), ladder(random)
    alone = replace(second[-1], name="another", parameters=5e5, tokens=1e7)
    assert compare([*first, alone], second, TARGET) == compare(first, second, TARGET)
    with pytest.raises(ValueError, match="held-out tokens: losses on different text cannot be compared"):
        compare(first, [replace(one, held_out_tokens=999) for one in second], TARGET)
    with pytest.raises(LadderError, match="too few for a law"):
        compare(first[:4], second, TARGET)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("configured", ["code", "language"]),
        ("configured+gopher", ["code", "language", "gopher"]),
        ("language+configured", ["language", "code"]),
        ("gopher", ["gopher"]),
    ],
)
def test_configured_stands_for_the_sources_own_rules(given: str, expected: list[str]) -> None:
    assert names_of(given, ("code", "language")) == expected
