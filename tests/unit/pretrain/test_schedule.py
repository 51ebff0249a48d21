"""The learning rate against values computed by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from pydantic import ValidationError

from pretrain.config import ScheduleConfig
from pretrain.data.batch_sizes import BatchSizes, Ramp
from pretrain.schedule import learning_rate


def rate(step: int, **changes: Any) -> float:
    return learning_rate(step, BatchSizes(8), 3e-4, schedule(**changes))


def schedule(**changes: Any) -> ScheduleConfig:
    return ScheduleConfig.model_validate({"warmup_steps": 4, "total_steps": 12, **changes})


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
    seven = schedule(warmup_steps=5, total_steps=7, minimum_learning_rate_ratio=0.0)
    rates = [learning_rate(step, sizes, 1.0, seven) for step in range(7)]
    assert rates == pytest.approx([2 / 22, 4 / 22, 8 / 22, 14 / 22, 1.0, 0.5, 0.0])


def test_a_line_ends_at_the_minimum() -> None:
    assert [rate(step, kind="linear") for step in (5, 7, 11, 50)] == pytest.approx([2.325e-4, 1.65e-4, 0.3e-4, 0.3e-4])


def test_constant_and_inverse_square_root_begin_at_the_peak() -> None:
    assert [rate(step, kind="constant") for step in (1, 3, 4, 11, 99)] == pytest.approx([1.5e-4, *[3e-4] * 4])
    rates = [rate(step, kind="inverse_square_root") for step in (1, 3, 8, 15)]
    assert rates == pytest.approx([1.5e-4, 3e-4, 2e-4, 1.5e-4])  # sqrt(4/4), sqrt(4/9), sqrt(4/16)


def test_warmup_stable_decay() -> None:
    """Constant up to update 8; then shares 1/4 to 1 of the decay."""
    stable = [rate(step, kind="wsd", decay_steps=4) for step in range(4, 8)]
    assert stable == [rate(step, kind="constant") for step in range(4, 8)]
    falling = [rate(step, kind="wsd", decay_steps=4) for step in range(8, 12)]
    assert falling == pytest.approx([3e-4 * (0.1 + 0.9 * (1 - root)) for root in (0.5, 0.5**0.5, 0.75**0.5, 1)])
    line = {"kind": "wsd", "decay_steps": 4, "decay_shape": "linear", "minimum_learning_rate_ratio": 0}
    assert [rate(step, **line) for step in range(7, 12)] == pytest.approx([3e-4, 2.25e-4, 1.5e-4, 0.75e-4, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decay_steps": 4}, "decay_steps: has no effect with kind cosine, only with wsd"),
        ({"kind": "constant", "minimum_learning_rate_ratio": 0.1}, "minimum_learning_rate_ratio: has no effect with"),
        ({"kind": "linear", "decay_shape": "linear"}, "decay_shape: has no effect with kind linear"),
        ({"kind": "wsd"}, "decay_steps: missing; kind wsd needs"),
        ({"kind": "wsd", "decay_steps": 9}, "decay_steps: 9 is more than the 8 steps after the warm-up"),
        ({"kind": "inverse_square_root", "warmup_steps": 0}, "warmup_steps: kind inverse_square_root needs a warm-up"),
    ],
)
def test_settings_without_effect_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        schedule(**changes)


def test_resolved_settings_are_read_back() -> None:
    for kind in ("cosine", "linear", "constant", "inverse_square_root", "wsd"):
        one = schedule(kind=kind, **({"decay_steps": 3} if kind == "wsd" else {}))
        assert ScheduleConfig.model_validate(one.model_dump(mode="json")) == one
