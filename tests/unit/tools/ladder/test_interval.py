"""Predictions of known laws, intervals that hold what they promise, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from tools.ladder.frontier import compute_law, curve_frontier, profile_frontier
from tools.ladder.interval import Forecast, LadderError, forecast, points_of
from tools.ladder.law import LossLaw
from tools.ladder.rungs import Result, training_curve

LAW = LossLaw(0.9, 30.0, 0.3, 150.0, 0.35)
SIZES = (4e4, 8e4, 1.4e5, 2.3e5, 3.5e5)
TARGET = (5e5, 2.1e7)


def ladder(
    random: np.random.Generator, noise: float, law: LossLaw = LAW, repeats: int = 0, break_at: float | None = None
) -> list[Result]:
    """Twelve rungs. From `break_at` parameters on, the loss is 3 % higher than the law."""
    found = []
    for size in SIZES:
        for length in (20, 40, 80):
            if size * length > 40 * 2.3e5:
                continue
            for seed in range(1 + repeats * (size == SIZES[0])):
                loss = law(size, size * length) * float(np.exp(random.normal(0, noise)))
                if break_at is not None and size >= break_at:
                    loss *= 1.03
                flops = 6 * size * size * length
                found.append(Result(f"{size:g}-{length}", size, size * length, flops, loss, seed=seed))
    return found


def predicted(results: list[Result]) -> Forecast:
    return forecast(points_of(results), *TARGET, 6 * TARGET[0] * TARGET[1])


def test_without_noise_the_loss_is_predicted() -> None:
    found = predicted(ladder(np.random.default_rng(0), 0.0))
    assert found.loss == pytest.approx(LAW(*TARGET), rel=1e-5)
    assert found.half_width < 1e-3


@pytest.mark.slow
def test_intervals_are_right_as_often_as_they_say() -> None:
    """Forty ladders of one law with noise of 0.4 %: at least 32 intervals of 90 % have to hold the run's loss; fewer
    would happen once in a hundred times if they were right. Nor may they be right by being useless."""
    random = np.random.default_rng(11)
    inside, widths = 0, []
    for _ in range(40):
        try:
            found = predicted(ladder(random, 0.004, repeats=2))
        except LadderError:  # a law with a number on its bound: nothing is claimed
            inside += 1
            continue
        reached = LAW(*TARGET) * float(np.exp(random.normal(0, 0.004)))
        inside += found.low <= reached <= found.high
        widths.append(found.half_width)
    assert inside >= 32
    assert len(widths) >= 30 and float(np.median(widths)) < 0.04


def test_backtests_widen_what_resamples_find_narrow() -> None:
    """Large sizes that do worse than the law of the small ones, as with a learning rate that does not fit them."""
    smooth, broken = (predicted(ladder(np.random.default_rng(3), 0.002, break_at=at)) for at in (None, 3e5))
    assert broken.widening > 2 * smooth.widening
    assert abs(broken.backtests[-1].deviations) > 3
    assert broken.half_width > 3 * broken.resampled_share
    assert broken.half_width > 3 * smooth.half_width


def test_the_same_numbers_every_time() -> None:
    results = ladder(np.random.default_rng(2), 0.003)
    assert predicted(results) == predicted(list(reversed(results)))


def test_seeds_are_one_rung_and_give_the_noise() -> None:
    points = points_of(ladder(np.random.default_rng(4), 0.01, repeats=6))
    assert len(points) == len(points_of(ladder(np.random.default_rng(4), 0.01)))
    assert points.seed_noise == pytest.approx(0.01, rel=0.4)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (lambda one: one.parameters < 1.4e5, "6 finished rungs are too few for a law of five numbers: 9 at least"),
        (lambda one: one.parameters < 9e4, "too few"),
    ],
)
def test_too_few_rungs(keep: object, message: str) -> None:
    results = [one for one in ladder(np.random.default_rng(0), 0.0) if keep(one)]  # type: ignore[operator]
    with pytest.raises(LadderError, match=message):
        points_of(results)


def test_too_few_sizes() -> None:
    results = [Result("", n, n * k, 6 * n * n * k, LAW(n, n * k)) for n in (4e4, 8e4) for k in range(20, 70, 10)]
    with pytest.raises(LadderError, match="the rungs have 2 sizes and 8 lengths; 3 of each are needed"):
        points_of(results)


def test_rungs_of_too_few_tokens() -> None:
    short = Result("short", 1e5, 1.5e6, 9e11, 4.0)
    with pytest.raises(LadderError, match=r"short: 1,500,000 tokens for 100,000 parameters are 15.0 for each"):
        points_of([*ladder(np.random.default_rng(0), 0.0), short])


def test_a_law_on_its_bound() -> None:
    straight = LossLaw(0.0, 8.0, 0.08, 5.0, 0.09)
    results = ladder(np.random.default_rng(0), 0.0, straight)
    lower = [Result(one.name, one.parameters, one.tokens, one.flops, one.loss - 0.6) for one in results]
    with pytest.raises(LadderError, match="E of the law is on its bound, 0: the losses do not bend"):
        predicted(lower)


def test_a_run_of_too_few_tokens() -> None:
    with pytest.raises(LadderError, match=r"the run has 10.0 tokens for each parameter; the law holds from 20 on"):
        forecast(points_of(ladder(np.random.default_rng(0), 0.0)), 1e6, 1e7, 6e13)


def test_the_approaches_without_a_law() -> None:
    """Sizes around the optimum of a law: all approaches find its exponent."""
    law = LossLaw(1.7, 400.0, 0.34, 700.0, 0.30)
    results = []
    for size in np.geomspace(1e8, 4e9, 9):
        for length in (20, 40, 80, 160, 320):
            tokens = size * length
            way = np.geomspace(tokens / 100, tokens, 200)
            curve = training_curve([(float(t), law(size, t)) for t in way])
            results.append(Result("", size, tokens, 6 * size * tokens, law(size, tokens), curve=curve))
    points = points_of(results)
    ratios = [law.optimum(c)[1] / law.optimum(c)[0] for c in (points.flops[0], points.flops[-1])]
    assert min(ratios) > 20, "or the lowest losses are outside the rungs"
    assert curve_frontier(results).exponent == pytest.approx(law.parameters_exponent, abs=0.05)
    assert profile_frontier(points).exponent == pytest.approx(law.parameters_exponent, abs=0.05)


def test_the_approaches_refuse_what_they_cannot_see() -> None:
    results = ladder(np.random.default_rng(0), 0.0)
    with pytest.raises(LadderError, match="training curves of 0 sizes; 3 are needed"):
        curve_frontier(results)
    with pytest.raises(LadderError, match="profiles of equal compute"):
        profile_frontier(points_of(results))
    with pytest.raises(LadderError, match="0 rungs have about 33 tokens for each parameter; 4 are needed"):
        compute_law(points_of(results), 33)
