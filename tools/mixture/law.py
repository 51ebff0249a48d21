"""The law of a source's held-out loss by the weights of the sources, and the best weights.

L(w) = c + exp(t · w) with a number t_j for each source and an irreducible c: Ye et al. 2024, arXiv:2403.16952, equation
6; or linear, L(w) = t · w, as in the linear regression of RegMix (Liu et al. 2024, arXiv:2407.01492). The first percent
of a source teaches more than the last: the weights may be raised to a power below one, as in the power laws of Ge et
al. 2024 (BiMix, arXiv:2405.14908), and there is a constant then. For a given c and power the law is linear in t, and is
fitted by ridge regression; law, c, power and ridge are those whose predictions of runs left out are best.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

FLOORS = tuple(0.02 * number for number in range(50))
"""Irreducible losses that are tried, relative to the lowest loss."""
POWERS = (1.0, 0.7, 0.5, 0.35, 0.25)
"""Powers of the weights that are tried."""
RIDGES = (1e-6, 1e-3)
"""Ridges that are tried, relative to the mean square of a column."""
RUNS_FOR_EACH_NUMBER = 2
"""Fewest runs for each number of the law."""
RESAMPLES = 400
INTERVAL = 0.9
STEPS = (0.1, 0.03, 0.01, 0.003, 0.001)
"""Weights that the search moves from one source to another, the largest first."""
LEAST_WEIGHT = 1e-4
"""Least weight of a source: a mixture has all of its sources."""
SAMPLES = 2000
"""Random weights that the search starts from the best of."""


class MixtureError(Exception):
    """The runs do not allow what is asked."""


@dataclass(frozen=True)
class SourceLaw:
    """Law of one source's loss.

    Attributes:
        floor: c; None: the law is linear.
        power: of the weights.
        numbers: the constant, and t.
        left_out: prediction of each run by the law of the others.
    """

    floor: float | None
    power: float
    numbers: Array
    left_out: Array

    def __call__(self, weights_RS: Array) -> Array:
        """Losses [R] of mixtures [R, S]."""
        value = columns_of(weights_RS, self.power) @ self.numbers
        return value if self.floor is None else self.floor + np.exp(value)


def fit_source(weights_RS: Array, losses_R: Array) -> SourceLaw:
    """The law whose predictions of runs that were left out have the least squared error.

    Raises:
        MixtureError: there are too few runs.
    """
    runs, sources = weights_RS.shape
    least = RUNS_FOR_EACH_NUMBER * (sources + 1)
    if runs < least:
        raise MixtureError(f"{runs} runs on {sources} sources: at least {least} are needed")
    best: tuple[float, SourceLaw] | None = None
    floors = [None, *(share * float(losses_R.min()) for share in FLOORS)]
    for floor in floors:
        targets = losses_R if floor is None else np.log(losses_R - floor)
        for power, ridge in itertools.product(POWERS, RIDGES):
            numbers, left_out = _ridge(columns_of(weights_RS, power), targets, ridge)
            predicted = left_out if floor is None else floor + np.exp(left_out)
            error = float(np.mean((predicted - losses_R) ** 2))
            if best is None or error < best[0]:
                best = error, SourceLaw(floor, power, numbers, predicted)
    assert best is not None
    return best[1]


def refit(law: SourceLaw, weights_RS: Array, losses_R: Array, counts_R: Array) -> SourceLaw:
    """The same kind of law on weighted runs."""
    targets = losses_R if law.floor is None else np.log(np.maximum(losses_R - law.floor, 1e-6))
    numbers, _ = _ridge(columns_of(weights_RS, law.power), targets, RIDGES[0], counts_R)
    return SourceLaw(law.floor, law.power, numbers, law.left_out)


def columns_of(weights_RS: Array, power: float) -> Array:
    """A one, and the weights to a power [R, 1 + S]. Weights themselves sum to one, and the one is a zero then."""
    first = np.full((len(weights_RS), 1), float(power != 1))
    return np.concatenate([first, np.maximum(weights_RS, 0) ** power], axis=1)


def _ridge(x_RS: Array, y_R: Array, ridge: float, counts_R: Array | None = None) -> tuple[Array, Array]:
    """Numbers of the ridge regression, and the prediction of each run without it (Allen's PRESS)."""
    counts = np.ones(len(y_R)) if counts_R is None else counts_R
    weighted = x_RS * counts[:, None]
    normal = weighted.T @ x_RS
    normal += ridge * np.trace(normal) / len(normal) * np.eye(len(normal))
    numbers = np.linalg.solve(normal, weighted.T @ y_R)
    leverage = np.einsum("rs,st,rt->r", x_RS, np.linalg.inv(normal), weighted)
    residual = y_R - x_RS @ numbers
    return numbers, y_R - residual / np.maximum(1 - leverage, 1e-9)


@dataclass(frozen=True)
class Goal:
    """What is minimised: a weighted mean of the sources' laws."""

    laws: Sequence[SourceLaw]
    shares: Array

    def __call__(self, weights_RS: Array) -> Array:
        return np.stack([law(weights_RS) for law in self.laws], axis=1) @ self.shares

    @property
    def left_out(self) -> Array:
        """Prediction of each run by the laws of the others."""
        return np.stack([law.left_out for law in self.laws], axis=1) @ self.shares


def starting_weights(most_S: Array, generator: np.random.Generator) -> Array:
    """Random weights [K, S], none above its limit, for `best_weights` to start from.

    Raises:
        MixtureError: the limits do not add up to one.
    """
    if most_S.sum() < 1:
        raise MixtureError(
            f"the sources have tokens for {most_S.sum():.0%} of the run: raise maximum_epochs, or give a shorter run"
        )
    drawn = np.maximum(generator.dirichlet(np.ones(len(most_S)), SAMPLES), LEAST_WEIGHT)
    return np.array([capped(weights, most_S) for weights in drawn])


def best_weights(goal: Goal, most_S: Array, starts_KS: Array) -> Array:
    """Weights that minimise the goal, none above its limit: the best of `starts_KS`, from which weight is then moved
    between two sources at a time while that helps."""
    weights = starts_KS[np.argmin(goal(starts_KS))]
    pairs = [(i, j) for i in range(len(weights)) for j in range(len(weights)) if i != j]
    for step in STEPS:
        while True:
            moved = np.repeat(weights[None], len(pairs), axis=0)
            for row, (source, target) in enumerate(pairs):
                left = max(0.0, moved[row, source] - LEAST_WEIGHT)
                size = min(step, left, most_S[target] - moved[row, target])
                moved[row, source] -= size
                moved[row, target] += size
            values = goal(moved)
            if values.min() >= goal(weights[None])[0] - 1e-12:
                break
            weights = moved[np.argmin(values)]
    return weights


def capped(weights_S: Array, most_S: Array) -> Array:
    """Weights of which none is above its limit: what is too much goes to the others in proportion."""
    weights = weights_S / weights_S.sum()
    for _ in range(len(weights)):
        over = weights > most_S
        if not over.any():
            break
        rest = 1 - most_S[over | (weights >= most_S)].sum()
        free = ~(over | (weights >= most_S))
        weights = np.where(free, weights, most_S)
        if free.any() and weights[free].sum() > 0:
            weights[free] *= rest / weights[free].sum()
    return weights


@dataclass(frozen=True)
class Answer:
    """The best mixture, and what is known of it.

    Attributes:
        weights: by source.
        low, high: bounds of each weight in 90 % of the resampled fits.
        loss: predicted value of the goal; loss_low, loss_high: its 90 % interval.
        by_source: predicted held-out loss of each source.
        left_out: goal of each run by the laws of the others.
        error: root of their mean squared error.
        explained: share of the variance of the goal that predictions of runs left out explain.
        rank: rank correlation of predicted and reached goals of runs left out.
    """

    weights: Array
    low: Array
    high: Array
    loss: float
    loss_low: float
    loss_high: float
    by_source: Array
    left_out: Array
    error: float
    explained: float
    rank: float


def answer(weights_RS: Array, losses_RG: Array, shares_G: Array, most_S: Array, seed: int) -> Answer:
    """Fit the laws and find the best mixture.

    The interval has two parts: fits to resampled runs (Bayesian bootstrap, Rubin 1981), and the errors of runs that
    were left out of the fit.

    Raises:
        MixtureError: there are too few runs, or predictions of runs left out are no better than their mean.
    """
    generator = np.random.default_rng(seed)
    goal = Goal([fit_source(weights_RS, losses) for losses in losses_RG.T], shares_G)
    reached = losses_RG @ shares_G
    errors = goal.left_out - reached
    explained = 1 - float(np.mean(errors**2) / np.var(reached))
    if explained <= 0:
        raise MixtureError(
            "predictions of runs that were left out are no better than the mean of all runs: the runs do not tell "
            "mixtures apart. Make them longer, or more"
        )
    starts = starting_weights(most_S, generator)
    best = best_weights(goal, most_S, starts)
    resampled: list[Array] = []
    losses: list[float] = []
    for counts in generator.dirichlet(np.ones(len(reached)), RESAMPLES) * len(reached):
        laws = [refit(law, weights_RS, column, counts) for law, column in zip(goal.laws, losses_RG.T, strict=True)]
        drawn = Goal(laws, shares_G)
        losses.append(float(drawn(best[None])[0]) + float(generator.choice(errors)))
        if len(resampled) < RESAMPLES // 4:  # each is a search of its own
            resampled.append(best_weights(drawn, most_S, starts))
    tail = (1 - INTERVAL) / 2
    low, high = np.quantile(np.array(resampled), [tail, 1 - tail], axis=0)
    loss_low, loss_high = np.quantile(losses, [tail, 1 - tail])
    return Answer(
        best,
        low,
        high,
        float(goal(best[None])[0]),
        float(loss_low),
        float(loss_high),
        np.array([float(law(best[None])[0]) for law in goal.laws]),
        goal.left_out,
        float(np.sqrt(np.mean(errors**2))),
        explained,
        rank_correlation(goal.left_out, reached),
    )


def rank_correlation(one: Array, other: Array) -> float:
    """Spearman's correlation of two series without ties."""
    ranks = [np.argsort(np.argsort(series)).astype(np.float64) for series in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
