"""The learning rate against values computed by hand."""

from __future__ import annotations

import itertools

import pytest

from pretrain.data.batch_sizes import BatchSizes, Ramp
from pretrain.schedule import learning_rate


def rate(step: int, **changes: float) -> float:
    settings = {"peak": 3e-4, "warmup_steps": 4, "total_steps": 12, "minimum_ratio": 0.1} | changes
    return learning_rate(step, BatchSizes(8), **settings)  # type: ignore[arg-type]


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    assert [rate(step) for step in range(4)] == pytest.approx([0.75e-4, 1.5e-4, 2.25e-4, 3e-4])


def test_half_a_cosine_ends_at_the_minimum() -> None:
    # Shares 1/4, 1/2, 3/4 and 1 of the decay: cos = √2/2, 0, -√2/2, -1; rate = 3e-4 · (0.1 + 0.45 · (1 + cos)).
    assert [rate(step) for step in (5, 7, 9, 11)] == pytest.approx(
        [2.604594e-4, 1.65e-4, 0.695406e-4, 0.3e-4], rel=1e-6
    )


def test_after_the_end_the_rate_stays() -> None:
    assert rate(12) == rate(10_000) == pytest.approx(0.3e-4)


def test_without_warm_up_the_decay_starts_at_once() -> None:
    assert rate(5, warmup_steps=0) == pytest.approx(1.65e-4)
    assert rate(0, warmup_steps=0) < 3e-4


def test_the_rate_falls_from_step_to_step() -> None:
    rates = [rate(step, total_steps=100) for step in range(3, 100)]
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))


def test_while_the_batch_grows_the_rate_counts_samples() -> None:
    """Steps of 2, 2, 4, 6, 8, 8, … samples: after four of them 14 samples of the warm-up's 22 are done."""
    sizes = BatchSizes(8, Ramp(start=2, increment=2, samples=12))
    assert [sizes.after(steps) for steps in range(8)] == [0, 2, 4, 8, 14, 22, 30, 38]
    settings = {"peak": 1.0, "warmup_steps": 5, "total_steps": 7, "minimum_ratio": 0.0}
    rates = [learning_rate(step, sizes, **settings) for step in range(7)]  # type: ignore[arg-type]
    assert rates == pytest.approx([2 / 22, 4 / 22, 8 / 22, 14 / 22, 1.0, 0.5, 0.0])
