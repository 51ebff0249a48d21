"""All that is fitted to the rungs of a ladder, and what cannot be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from tools.ladder.frontier import ComputeLaw, Frontier, compute_law, curve_frontier, profile_frontier
from tools.ladder.interval import (
    INTERVAL,
    RESAMPLES,
    SEED,
    Backtest,
    LadderError,
    Points,
    backtests,
    check_inside,
    fit_points,
    points_of,
    resampled,
)
from tools.ladder.law import LossLaw
from tools.ladder.rungs import Result

Found = TypeVar("Found")
NAMES = ("E", "A", "alpha", "B", "beta")


@dataclass(frozen=True)
class LadderFit:
    """The laws of a ladder; in place of each that the rungs do not determine, the reason.

    Attributes:
        refusal: why no prediction can be made; None: it can.
        ranges: by number of the law, the ends of the middle `INTERVAL` of the resampled fits.
        exponent_range: the same for the exponent a of N_opt ∝ C^a.
        residuals: logarithm of each loss less that of the law, by rising FLOPs.
        tests: backtests, each rung predicted from all that are cheaper.
    """

    results: tuple[Result, ...]
    points: Points
    law: LossLaw
    refusal: str | None
    ranges: dict[str, tuple[float, float]]
    exponent_range: tuple[float, float]
    residuals: tuple[float, ...]
    tests: tuple[Backtest, ...]
    by_curves: Frontier | str
    by_profiles: Frontier | str
    by_compute: dict[float, ComputeLaw | str]

    def to_json(self) -> dict[str, Any]:
        """The numbers, for `fit.json`."""

        def plain(one: Any) -> Any:
            if isinstance(one, str):
                return {"refused": one}
            return {key: np.asarray(value).tolist() for key, value in asdict(one).items()}

        return {
            "law": asdict(self.law),
            "ranges": self.ranges,
            "refused": self.refusal,
            "seed_noise": self.points.seed_noise,
            "parameters_exponent": {"value": self.law.parameters_exponent, "range": self.exponent_range},
            "approach_1": plain(self.by_curves),
            "approach_2": plain(self.by_profiles),
            "by_compute": {f"{ratio:g}": plain(one) for ratio, one in self.by_compute.items()},
            "residuals": list(self.residuals),
            "backtests": [asdict(test) for test in self.tests],
            "rungs": [one.name for one in self.results],
        }


def fit_ladder(results: Sequence[Result]) -> LadderFit:
    """Fit everything.

    Raises:
        LadderError: the rungs are too few or too alike for any law.
    """
    points = points_of(results)
    law, _ = fit_points(points)
    random = np.random.default_rng(SEED)
    fits = resampled(points, random, RESAMPLES)
    tail = (1 - INTERVAL) / 2
    columns = np.column_stack(
        [fits.irreducible, *(x[:, j] for j in (0, 1) for x in (fits.coefficients, fits.exponents))]
    )
    low, high = np.quantile(columns, (tail, 1 - tail), axis=0)
    exponents = fits.exponents[:, 1] / fits.exponents.sum(1)
    losses = np.array([law(n, d) for n, d in zip(points.parameters, points.tokens, strict=True)])
    ratios = sorted({float(f"{one.tokens / one.parameters:.2g}") for one in results})
    return LadderFit(
        tuple(sorted(results, key=lambda one: one.flops)),
        points,
        law,
        _reason(lambda: check_inside(law)),
        {name: (float(a), float(b)) for name, a, b in zip(NAMES, low, high, strict=True)},
        (float(np.quantile(exponents, tail)), float(np.quantile(exponents, 1 - tail))),
        tuple(np.log(points.losses / losses).tolist()),
        backtests(points, 1.0, random),
        _or_reason(lambda: curve_frontier(results)),
        _or_reason(lambda: profile_frontier(points)),
        {ratio: _or_reason(lambda ratio=ratio: compute_law(points, ratio)) for ratio in ratios},  # type: ignore[misc]
    )


def law_rows(found: LadderFit) -> list[tuple[str, str, str]]:
    """Rows (number, value, range) about the law."""
    rows = [
        (name, f"{getattr(found.law, key):.4g}", "{:.4g} to {:.4g}".format(*found.ranges[key]))
        for name, key in zip(("E", "A", "α", "B", "β"), NAMES, strict=True)
    ]
    left = float(np.sqrt(np.mean(np.square(found.residuals))))
    rows.append(("error of the fit", f"{left:.2%}", f"largest {max(map(abs, found.residuals)):.2%}"))
    noise = found.points.seed_noise
    rows.append(("noise of seeds", "not measured" if noise is None else f"{noise:.2%}", ""))
    if found.tests:
        errors = [test.predicted / test.loss - 1 for test in found.tests]
        text = f"{len(errors)} rungs, each from all cheaper ones"
        rows.append(("backtests", f"{float(np.sqrt(np.mean(np.square(errors)))):.2%}", text))
    return rows


def outcome_rows(found: LadderFit) -> list[tuple[str, str, str]]:
    """Rows (approach, exponent, remark) about what is optimal."""

    def row(name: str, one: Frontier | str, remark: str) -> tuple[str, str, str]:
        return (name, "-", one) if isinstance(one, str) else (name, f"{one.exponent:.3f}", remark)

    return [
        row("1 lowest training curves", found.by_curves, ""),
        row("2 parabolas of equal compute", found.by_profiles, "biased, see arXiv:2603.22339"),
        (
            "3 law of the loss",
            f"{found.law.parameters_exponent:.3f}",
            "{:.3f} to {:.3f}".format(*found.exponent_range),
        ),
    ]


def _or_reason(act: Callable[[], Found]) -> Found | str:
    try:
        return act()
    except LadderError as error:
        return str(error)


def _reason(act: Callable[[], None]) -> str | None:
    found = _or_reason(act)
    return found if isinstance(found, str) else None
