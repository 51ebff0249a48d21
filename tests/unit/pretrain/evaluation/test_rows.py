"""Rows of tokens are divided so that each is scored once, whatever the degrees, and no padding is scored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.evaluation.rows import NO_ROW, Rows, divide, micro_batches
from pretrain.evaluation.settings import row_lengths


@pytest.mark.parametrize(
    ("arguments", "lengths"),
    [
        ((2048,), [64, 128, 256, 512, 1024, 2048]),
        ((300, 4), [76, 152, 300]),
        ((40,), [40]),
        ((256, 1, 100), [64, 100, 128, 256]),
        ((256, 1, 300), [64, 128, 256]),
    ],
)
def test_lengths_are_halves_of_the_longest(arguments: tuple[int, ...], lengths: list[int]) -> None:
    assert row_lengths(*arguments) == lengths


@given(
    st.lists(st.tuples(st.integers(2, 257), st.integers(1, 300)), min_size=1, max_size=40),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([16, 128, 700]),
)
def test_each_row_is_scored_once(sizes: list[tuple[int, int]], data_size: int, tokens_at_once: int) -> None:
    source = np.random.default_rng(1)
    given_rows = [(source.integers(1, 99, size).tolist(), min(scored, size - 1)) for size, scored in sizes]
    rows, lengths = Rows.of(given_rows), row_lengths(256)
    seen = []
    for division in divide(rows, lengths, tokens_at_once, data_size):
        count, ranks, at_once = division.numbers.shape
        assert ranks == data_size and (at_once == 1 or at_once * division.length <= tokens_at_once)
        for rank in range(data_size):
            batches = list(micro_batches(rows, division.length, division.numbers[:, rank]))
            assert len(batches) == count
            for (inputs, (targets, is_scored)), numbers in zip(batches, division.numbers[:, rank], strict=True):
                assert inputs.shape == targets.shape == is_scored.shape == (at_once, division.length)
                for place, number in enumerate(numbers.tolist()):
                    if number == NO_ROW:
                        assert not is_scored[place].any()
                        continue
                    tokens, scored = given_rows[number]
                    seen.append(number)
                    shorter = [length for length in lengths if length < division.length]
                    assert len(tokens) - 1 > max(shorter, default=0)
                    assert inputs[place, : len(tokens) - 1].tolist() == tokens[:-1]
                    assert targets[place][is_scored[place]].tolist() == tokens[-scored:]
    assert sorted(seen) == list(range(len(given_rows)))
