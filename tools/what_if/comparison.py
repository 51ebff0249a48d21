"""Which of two corpora leads to the lower loss, and whether that can be known.

The rungs of two ladders are pairs: the same size, length and seed on either corpus. So both laws are resampled with the
same weights of the pairs, and what bends one as it bends the other cancels in the ratio of the predicted losses. As in
`tools/ladder/interval.py`, the predicted runs have seeds of their own, and backtests widen what turns out too narrow:
there, the ratio of the larger rungs is predicted from the cheaper ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tools.ladder.interval import (
    BACKTEST_RESAMPLES,
    BACKTEST_RUNGS,
    INTERVAL,
    RESAMPLES,
    SEED,
    Forecast,
    LadderError,
    Points,
    fit_points,
    forecast,
    noise_of,
    points_of,
)
from tools.ladder.law import Array, fit_loss
from tools.ladder.rungs import Cost, Result


@dataclass(frozen=True)
class Comparison:
    """Predicted losses on two corpora, in nats, and by how much the second is higher.

    Attributes:
        difference: loss of the second less that of the first, relative to the first.
        low, high: ends of its interval of probability `INTERVAL`.
        widening: root of the mean square of the backtests' deviations; below 1 nothing is widened.
        pairs: number of pairs of rungs, seeds of one rung together.
    """

    first: Forecast
    second: Forecast
    difference: float
    low: float
    high: float
    widening: float
    pairs: int

    @property
    def better(self) -> int | None:
        """Which one leads to the lower loss, 0 or 1; None: the interval holds both answers."""
        return 0 if self.low > 0 else 1 if self.high < 0 else None


def compare(first: Sequence[Result], second: Sequence[Result], target: Cost) -> Comparison:
    """Compare two ladders by the loss of a run.

    Args:
        first, second: results of the rungs; those that only one of the ladders has finished are left out.
        target: cost of the run.

    Raises:
        LadderError: a ladder does not allow a prediction, see `forecast`.
        ValueError: the ladders were judged by different text.
    """
    judged = {one.held_out_tokens for one in (*first, *second)}
    if len(judged) > 1:
        sizes = " and ".join(sorted(map(str, judged)))
        raise ValueError(
            f"the runs were evaluated on {sizes} held-out tokens: losses on different text cannot be compared"
        )
    shared = {one.name for one in first} & {one.name for one in second}
    left, right = (points_of([one for one in side if one.name in shared]) for side in (first, second))
    forecasts = [forecast(points, *target) for points in (left, right)]
    random = np.random.default_rng(SEED)
    middle = _ratio(left, right, target.parameters, target.tokens)
    moves = _moves(left, right, target.parameters, target.tokens, random, RESAMPLES)
    deviations = _deviations(left, right, max(target.flops / float(left.flops[-1]), 1.0), random)
    if not len(deviations):
        raise LadderError("no pair of rungs can be predicted from cheaper ones: add rungs")
    square = float(np.sum(deviations**2))
    scales = np.sqrt(np.maximum(1.0, square / random.chisquare(len(deviations), len(moves))))
    tail = (1 - INTERVAL) / 2
    low, high = np.expm1(middle + np.quantile(moves * scales, (tail, 1 - tail)))
    widening = (square / len(deviations)) ** 0.5
    return Comparison(forecasts[0], forecasts[1], float(np.expm1(middle)), float(low), float(high), widening, len(left))


def _ratio(first: Points, second: Points, parameters: float, tokens: float) -> float:
    """Logarithm of the ratio of the second predicted loss to the first."""
    laws = [fit_points(points)[0] for points in (first, second)]
    return float(np.log(laws[1](parameters, tokens) / laws[0](parameters, tokens)))


def _moves(
    first: Points, second: Points, parameters: float, tokens: float, random: np.random.Generator, count: int
) -> Array:
    """Differences of resampled logarithms of the ratio from the predicted one, [count]."""
    weights = random.dirichlet(np.ones(len(first)), count) * len(first)
    logs = []
    for points in (first, second):
        fits = fit_loss(points.parameters, points.tokens, np.repeat(points.losses[None], count, 0), weights)
        own = random.normal(0.0, noise_of(points, fit_points(points)[0]), count)
        logs.append(np.log(fits(parameters, tokens)[:, 0]) + own)
    found: Array = logs[1] - logs[0] - _ratio(first, second, parameters, tokens)
    return found


def _deviations(first: Points, second: Points, ratio: float, random: np.random.Generator) -> Array:
    """Errors of the ratios of large rungs, each predicted from cheaper ones, in standard deviations of the resampled
    ratio."""
    found = []
    for k in range(BACKTEST_RUNGS, len(first)):
        count = first.cheaper(k, ratio)
        cheap = first.cheapest(count), second.cheapest(count)
        if not cheap[0].has_kinds:
            continue
        size, length = float(first.parameters[k]), float(first.tokens[k])
        moves = _moves(*cheap, size, length, random, BACKTEST_RESAMPLES)
        spread = float(np.diff(np.quantile(moves, (0.1587, 0.8413)))[0]) / 2  # a standard deviation, without the tails
        error = float(np.log(second.losses[k] / first.losses[k])) - _ratio(*cheap, size, length)
        found.append(error / spread)
    return np.array(found)
