"""What a ladder predicts, how far to trust it, and when it does not know.

The width of an interval has three sources. Resampled fits show how well the rungs determine the law: each rung has a
random weight (the Bayesian bootstrap, Rubin 1981, Annals of Statistics 9), so that no resample loses a size altogether.
The predicted run has a seed of its own, which moves its loss as seeds move those of the rungs. And backtests, in which
the largest rungs are predicted from the small ones, show how often such an interval is wrong although nothing in the
fit says so: where they miss by more than their own intervals allow, everything is widened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tools.ladder.law import EXPONENTS, Array, LossLaw, Powers, fit_loss, loss_law
from tools.ladder.rungs import Result
from tools.ladder.settings import LEAST_TOKENS_PER_PARAMETER

LEAST_RUNGS = 9
"""Fewest rungs of a fit: the law has five numbers, and backtests need fits without the largest rungs."""
LEAST_KINDS = 3
"""Fewest sizes, and fewest lengths: two points on a falling power cannot be told from two on another."""
BACKTEST_RUNGS = 7
"""Fewest rungs of a fit in a backtest."""
RESAMPLES = 1000
BACKTEST_RESAMPLES = 200
INTERVAL = 0.90
SEED = 20240501


class LadderError(ValueError):
    """What is asked cannot be known from these rungs."""


@dataclass(frozen=True)
class Points:
    """Rungs for a fit; runs that differ by their seed are one, with the mean of their logarithms.

    Attributes:
        parameters, tokens, flops, losses: [P], by rising FLOPs.
        seed_noise: standard deviation of the logarithm of a loss between seeds; None: no rung was repeated.
    """

    parameters: Array
    tokens: Array
    flops: Array
    losses: Array
    seed_noise: float | None

    def __len__(self) -> int:
        return len(self.losses)

    def cheapest(self, count: int) -> Points:
        """The first `count` of them."""
        return Points(
            self.parameters[:count], self.tokens[:count], self.flops[:count], self.losses[:count], self.seed_noise
        )

    def cheaper(self, place: int, ratio: float) -> int:
        """Number of points from which a backtest predicts that at `place`: those that are cheaper by the factor
        `ratio`, or by less where these would be too few."""
        return min(place, max(BACKTEST_RUNGS, int(np.sum(self.flops <= self.flops[place] / ratio))))

    @property
    def has_kinds(self) -> bool:
        """Whether there are enough sizes and lengths to tell the powers of the law apart."""
        return min(len(np.unique(self.parameters)), len(np.unique(self.tokens))) >= LEAST_KINDS


def points_of(results: Sequence[Result]) -> Points:
    """Rungs for a fit.

    Raises:
        LadderError: they are too few, or too alike, or trained too little; says what is missing.
    """
    groups: dict[tuple[float, float], list[Result]] = {}
    for result in results:
        ratio = result.tokens / result.parameters
        if ratio < LEAST_TOKENS_PER_PARAMETER * (1 - 1e-9):
            raise LadderError(
                f"{result.name}: {result.tokens:,.0f} tokens for {result.parameters:,.0f} parameters are {ratio:.1f} "
                f"for each; runs with fewer than {LEAST_TOKENS_PER_PARAMETER:g} do not follow the law: leave it out"
            )
        groups.setdefault((result.parameters, result.tokens), []).append(result)
    if len(groups) < LEAST_RUNGS:
        raise LadderError(f"{len(groups)} finished rungs are too few for a law of five numbers: {LEAST_RUNGS} at least")
    ordered = sorted(groups.values(), key=lambda group: (group[0].flops, group[0].parameters))
    squares, freedom = 0.0, 0
    for group in ordered:
        logs = np.log([one.loss for one in group])
        squares, freedom = squares + float(np.sum((logs - logs.mean()) ** 2)), freedom + len(group) - 1
    points = Points(
        np.array([group[0].parameters for group in ordered]),
        np.array([group[0].tokens for group in ordered]),
        np.array([group[0].flops for group in ordered]),
        np.array([np.exp(np.mean(np.log([one.loss for one in group]))) for group in ordered]),
        (squares / freedom) ** 0.5 if freedom else None,
    )
    if not points.has_kinds:
        raise LadderError(
            f"the rungs have {len(np.unique(points.parameters))} sizes and {len(np.unique(points.tokens))} lengths; "
            f"{LEAST_KINDS} of each are needed to tell what either of them does to the loss"
        )
    return points


def fit_points(points: Points) -> tuple[LossLaw, Powers]:
    """The law of the rungs, and the same with its exponents as `Powers` of one row."""
    found = fit_loss(points.parameters, points.tokens, points.losses[None])
    return loss_law(found), found


def check_inside(law: LossLaw) -> None:
    """Refuse a law with a number on its bound.

    Raises:
        LadderError: names the number, and what would determine it.
    """
    low, high = EXPONENTS
    for name, value, remedy in (
        ("E", law.E, "the losses do not bend towards an end yet: add rungs with more compute"),
        ("A", law.A, "the size makes no difference: add sizes further apart"),
        ("B", law.B, "the length makes no difference: add lengths further apart"),
    ):
        if value <= 0:
            raise LadderError(f"{name} of the law is on its bound, 0: {remedy}")
    for name, value, what in (("α", law.alpha, "sizes"), ("β", law.beta, "lengths")):
        if not low * 1.001 < value < high * 0.999:
            raise LadderError(
                f"{name} of the law is on its bound, {value:g}: the rungs do not determine it; add {what} further "
                "apart, or repeat rungs with other seeds"
            )


@dataclass(frozen=True)
class Backtest:
    """A large rung, predicted from the cheapest ones.

    Attributes:
        rungs: number of rungs that it was predicted from.
        ratio: its FLOPs relative to the largest of these.
        deviations: error in standard deviations of the resampled prediction, both of the logarithm.
    """

    parameters: float
    tokens: float
    rungs: int
    ratio: float
    predicted: float
    loss: float
    deviations: float


@dataclass(frozen=True)
class Forecast:
    """A predicted loss, in nats.

    Attributes:
        low, high: ends of the interval of probability `INTERVAL`.
        resampled_share: half the width of the interval relative to the loss, before backtests widen it.
        widening: root of the mean square of the backtests' deviations; below 1 nothing is widened.
        on_bound_share: share of the resampled fits that have a number on its bound.
    """

    loss: float
    low: float
    high: float
    resampled_share: float
    widening: float
    on_bound_share: float
    backtests: tuple[Backtest, ...]

    @property
    def half_width(self) -> float:
        """Half the width of the interval, relative to the loss."""
        return (self.high - self.low) / 2 / self.loss


def forecast(points: Points, parameters: float, tokens: float, flops: float) -> Forecast:
    """Predict the loss of a run.

    Raises:
        LadderError: the law has a number on its bound, the run is too short to follow it, or no backtest is possible.
    """
    if tokens < LEAST_TOKENS_PER_PARAMETER * parameters:
        raise LadderError(
            f"the run has {tokens / parameters:.1f} tokens for each parameter; the law holds from "
            f"{LEAST_TOKENS_PER_PARAMETER:g} on"
        )
    law, _ = fit_points(points)
    check_inside(law)
    random = np.random.default_rng(SEED)
    moves, on_bound = _moves(points, law, parameters, tokens, random, RESAMPLES)
    tests = backtests(points, max(flops / float(points.flops[-1]), 1.0), random)
    if not tests:
        raise LadderError(
            f"no rung can be predicted from {BACKTEST_RUNGS} cheaper ones of {LEAST_KINDS} sizes and lengths, so "
            "nothing shows how far the law reaches: add rungs"
        )
    square = float(np.sum([test.deviations**2 for test in tests]))
    # The scale of the errors is itself uncertain, the more the fewer the backtests: as in Student's t.
    scales = np.sqrt(np.maximum(1.0, square / random.chisquare(len(tests), len(moves))))
    middle, tail = np.log(law(parameters, tokens)), (1 - INTERVAL) / 2
    low, high = np.exp(middle + np.quantile(moves * scales, (tail, 1 - tail)))
    plain = np.exp(np.quantile(moves, (tail, 1 - tail)))
    return Forecast(
        float(np.exp(middle)),
        float(low),
        float(high),
        float(plain[1] - plain[0]) / 2,
        (square / len(tests)) ** 0.5,
        on_bound,
        tests,
    )


def noise_of(points: Points, law: LossLaw) -> float:
    """Standard deviation of the logarithm of a loss around the law: between seeds, or what the fit leaves over."""
    left = np.log(points.losses) - np.log([law(n, d) for n, d in zip(points.parameters, points.tokens, strict=True)])
    return max(float(np.sqrt(np.sum(left**2) / max(len(points) - 5, 1))), points.seed_noise or 0.0)


def resampled(points: Points, random: np.random.Generator, count: int) -> Powers:
    """Fits to rungs of random weights, [count]."""
    weights = random.dirichlet(np.ones(len(points)), count) * len(points)
    return fit_loss(points.parameters, points.tokens, np.repeat(points.losses[None], count, 0), weights)


def _moves(
    points: Points, law: LossLaw, parameters: float, tokens: float, random: np.random.Generator, count: int
) -> tuple[Array, float]:
    """Differences of the logarithm of a run's loss from the predicted one, [count], and the share of fits on a
    bound."""
    fits = resampled(points, random, count)
    found = np.log(fits(parameters, tokens)[:, 0])
    own = random.normal(0.0, noise_of(points, law), count)
    return found - np.log(law(parameters, tokens)) + own, float(1 - fits.is_inside.mean())


def backtests(points: Points, ratio: float, random: np.random.Generator) -> tuple[Backtest, ...]:
    """Predict rungs from those that are cheaper by the factor `ratio`, or by less where these would be too few."""
    found = []
    for k in range(BACKTEST_RUNGS, len(points)):
        count = points.cheaper(k, ratio)
        cheap = points.cheapest(count)
        if not cheap.has_kinds:
            continue
        law, _ = fit_points(cheap)
        parameters, tokens = float(points.parameters[k]), float(points.tokens[k])
        moves, _ = _moves(cheap, law, parameters, tokens, random, BACKTEST_RESAMPLES)
        spread = float(np.diff(np.quantile(moves, (0.1587, 0.8413)))[0]) / 2  # a standard deviation, without the tails
        predicted = law(parameters, tokens)
        error = float(np.log(points.losses[k] / predicted))
        found.append(
            Backtest(
                parameters,
                tokens,
                count,
                float(points.flops[k] / cheap.flops[-1]),
                predicted,
                float(points.losses[k]),
                error / spread,
            )
        )
    return tuple(found)
