"""What is optimal, read off the runs without a law of the loss, and the loss as a function of compute alone.

Approach 1 of Hoffmann et al. 2022 (arXiv:2203.15556, section 3.1) takes, for each amount of compute, the run whose
training loss is lowest at that point of its way. Approach 2 (section 3.2) takes the lowest point of a parabola through
the losses of several sizes with the same compute. Both then fit a power of C to what they found. A parabola is not the
shape of the law, so that approach 2 is biased even without noise, the more the wider its sizes are apart
(arXiv:2603.22339).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tools.ladder.interval import LadderError, Points
from tools.ladder.law import Array, fit
from tools.ladder.rungs import Result

_BUDGETS = 400
"""Amounts of compute at which approach 1 looks for the lowest curve; Hoffmann et al. took 1,500 over nine decades."""
_PROFILES = 9
_LEAST_SIZES = 3
_LEAST_OPTIMA = 3
SAME_RATIO = 0.1
"""Relative difference of tokens for each parameter up to which rungs are on one curve of compute."""


@dataclass(frozen=True)
class Frontier:
    """Optimal sizes by compute, N_opt ∝ C^exponent.

    Attributes:
        flops, parameters: the optima that the exponent was fitted to.
    """

    exponent: float
    flops: Array
    parameters: Array


def curve_frontier(results: Sequence[Result]) -> Frontier:
    """Approach 1.

    Raises:
        LadderError: the lowest curve is that of the smallest or largest size nearly everywhere.
    """
    sizes = sorted({one.parameters for one in results if len(one.curve) > 1})
    if len(sizes) < _LEAST_SIZES:
        raise LadderError(f"training curves of {len(sizes)} sizes; {_LEAST_SIZES} are needed")
    curves = [one for one in results if len(one.curve) > 1]
    ranges = [np.log([x for x, _ in one.curve]) + np.log(one.flops / one.tokens) for one in curves]
    budgets = np.linspace(min(r[0] for r in ranges), max(r[-1] for r in ranges), _BUDGETS)
    losses = np.array(
        [
            np.interp(budgets, logs, [y for _, y in one.curve], left=np.inf, right=np.inf)
            for one, logs in zip(curves, ranges, strict=True)
        ]
    )
    best = np.array([one.parameters for one in curves])[losses.argmin(0)]
    # Where the smallest or the largest size is best, the optimum may lie beyond it.
    inner = (best > sizes[0]) & (best < sizes[-1]) & np.isfinite(losses.min(0))
    if len(np.unique(best[inner])) < 2:
        raise LadderError("the lowest training curve is that of the smallest or the largest size nearly everywhere")
    exponent = float(np.polyfit(budgets[inner], np.log(best[inner]), 1)[0])
    return Frontier(exponent, np.exp(budgets[inner]), best[inner])


def profile_frontier(points: Points) -> Frontier:
    """Approach 2. Losses between the lengths of a size are interpolated on a logarithmic scale.

    Raises:
        LadderError: too few amounts of compute have a lowest loss among the sizes.
    """
    sizes = np.unique(points.parameters)
    ranges = []
    for size in sizes:
        own = points.parameters == size
        ranges.append((np.log(points.flops[own]), np.log(points.losses[own])))
    budgets = np.linspace(np.log(points.flops[0]), np.log(points.flops[-1]), _PROFILES + 2)[1:-1]
    flops, optima, profiles = [], [], 0
    for budget in budgets:
        within = [i for i, (logs, _) in enumerate(ranges) if len(logs) > 1 and logs[0] <= budget <= logs[-1]]
        if len(within) < _LEAST_SIZES:
            continue
        profiles += 1
        width = np.log(sizes[within])
        bend, slope, _ = np.polyfit(width, [np.interp(budget, *ranges[i]) for i in within], 2)
        lowest = -slope / (2 * bend) if bend > 0 else np.inf
        if width[0] <= lowest <= width[-1]:
            flops.append(float(np.exp(budget)))
            optima.append(float(np.exp(lowest)))
    if len(optima) < _LEAST_OPTIMA:
        raise LadderError(
            f"of {profiles} profiles of equal compute with {_LEAST_SIZES} sizes or more, {len(optima)} have their "
            f"lowest loss between their sizes; {_LEAST_OPTIMA} are needed: add sizes, or lengths that overlap in "
            "compute"
        )
    exponent = float(np.polyfit(np.log(flops), np.log(optima), 1)[0])
    return Frontier(exponent, np.array(flops), np.array(optima))


@dataclass(frozen=True)
class ComputeLaw:
    """L(C) = a C^b + c (GPT-4 report, arXiv:2303.08774, section 3), of runs with about the same number of tokens for
    each parameter."""

    a: float
    b: float
    c: float
    ratio: float
    rungs: int

    def __call__(self, flops: float) -> float:
        return self.a * flops**self.b + self.c


def compute_law(points: Points, ratio: float) -> ComputeLaw:
    """Fit the loss by compute to the rungs with `ratio` tokens for each parameter.

    Raises:
        LadderError: there are fewer than four of them, or a number of the law is on its bound.
    """
    own = np.abs(points.tokens / points.parameters / ratio - 1) <= SAME_RATIO
    if own.sum() < 4:
        raise LadderError(f"{own.sum()} rungs have about {ratio:g} tokens for each parameter; 4 are needed")
    found = fit(points.flops[own, None], points.losses[None, own])
    if not found.is_inside[0]:
        raise LadderError(f"a number of the law is on its bound: the {own.sum()} rungs do not determine it")
    return ComputeLaw(
        float(found.coefficients[0, 0]),
        -float(found.exponents[0, 0]),
        float(found.irreducible[0]),
        ratio,
        int(own.sum()),
    )
