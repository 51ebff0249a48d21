"""Predictions: published laws and how often intervals hold the loss; published and measured seconds of a step.

The peer of ladders is the procedure of Hoffmann et al. 2022 (arXiv:2203.15556, section 3.3): SciPy's L-BFGS-B on the
logarithms of E, A and B, from each start of their grid of 4,500, with the losses summed (Besiroglu et al. 2024,
arXiv:2404.10102).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import product

import numpy as np

from foundation.progress import Progress
from tools.bench.page import show
from tools.bench.planned import machine_rows, published_rows
from tools.ladder.interval import INTERVAL, LadderError, forecast, points_of
from tools.ladder.law import HUBER_DELTA, Array, LossLaw, fit_loss, loss_law
from tools.ladder.rungs import Result

PUBLISHED = {
    "Hoffmann et al. 2022": LossLaw(1.69, 406.4, 0.34, 410.7, 0.28),
    "Besiroglu et al. 2024": LossLaw(1.8172, 482.01, 0.3478, 2085.43, 0.3658),
    "Muennighoff et al. 2023": LossLaw(1.87, 521.0, 0.353, 1488.0, 0.353),
}
_LOGS, _ENDS, _EXPONENTS = range(0, 30, 5), (-1.0, -0.5, 0.0, 0.5, 1.0), (0.0, 0.5, 1.0, 1.5, 2.0)
STARTS = tuple(product(_LOGS, _LOGS, _ENDS, _EXPONENTS, _EXPONENTS))
"""log A, log B, log E, α and β of the starts (Hoffmann et al. 2022, appendix D.3)."""
SIZES = 1e8 * np.array([1, 1.6, 2.5, 4, 6.3])
LENGTHS = np.array([20.0, 40.0, 80.0])
LAW = PUBLISHED["Besiroglu et al. 2024"]
NOISE = (0.001, 0.003, 0.006)
"""Standard deviations of the logarithm of a loss between seeds."""


def ladder_points() -> tuple[Array, Array]:
    """Parameters and tokens of fifteen rungs."""
    parameters = np.repeat(SIZES, len(LENGTHS))
    return parameters, parameters * np.tile(LENGTHS, len(SIZES))


def peer_fit(
    parameters: Array, tokens: Array, losses: Array, starts: Sequence[tuple[float, ...]]
) -> tuple[LossLaw, float]:
    """The law by L-BFGS-B, best of many starts, and its objective."""
    from scipy.optimize import minimize

    logs = np.stack([np.log(parameters), np.log(tokens), np.zeros(len(losses))])
    targets = np.log(losses)

    def objective(numbers: Array) -> tuple[float, Array]:
        a, b, e, alpha, beta = numbers
        terms = np.stack([a - alpha * logs[0], b - beta * logs[1], e + logs[2]])
        most = terms.max(0)
        falls = np.exp(terms - most)
        total = falls.sum(0)
        left = most + np.log(total) - targets
        shares = falls / total
        size = np.abs(left)
        value = np.where(size <= HUBER_DELTA, left**2 / 2, HUBER_DELTA * (size - HUBER_DELTA / 2)).sum()
        slope = np.clip(left, -HUBER_DELTA, HUBER_DELTA)
        by_a, by_b, by_e = (slope * shares).sum(1)
        by_alpha, by_beta = -(slope * shares[0] * logs[0]).sum(), -(slope * shares[1] * logs[1]).sum()
        return float(value), np.array([by_a, by_b, by_e, by_alpha, by_beta])

    options = {"ftol": 1e-15, "gtol": 1e-12, "maxiter": 1000}  # its defaults stop far from the optimum
    found = [minimize(objective, np.array(start), jac=True, method="L-BFGS-B", options=options) for start in starts]
    best = min(found, key=lambda one: one.fun)
    a, b, e, alpha, beta = best.x
    return LossLaw(float(np.exp(e)), float(np.exp(a)), float(alpha), float(np.exp(b)), float(beta)), float(best.fun)


def recovery(starts: Sequence[tuple[float, ...]]) -> list[list[object]]:
    """Rows: the largest relative error of E, α and β, and seconds, of ours and of the peer."""
    parameters, tokens = ladder_points()
    rows: list[list[object]] = []
    for name, law in PUBLISHED.items():
        losses = np.array([law(n, d) for n, d in zip(parameters, tokens, strict=True)])
        begun = time.process_time()
        ours = loss_law(fit_loss(parameters, tokens, losses[None]))
        middle = time.process_time()
        peer, _ = peer_fit(parameters, tokens, losses, starts)
        ended = time.process_time()
        rows.append(
            [
                name,
                error_of(ours, law),
                error_of(peer, law),
                middle - begun,
                ended - middle,
                (ended - middle) / (middle - begun),
            ]
        )
    return rows


def error_of(found: LossLaw, law: LossLaw) -> float:
    """Largest relative error of E, α and β."""
    return max(abs(getattr(found, name) / getattr(law, name) - 1) for name in ("E", "alpha", "beta"))


def coverage(ladders: int) -> list[list[object]]:
    """Rows: share of intervals that hold the loss of a run of 4.3 times the compute of the largest rung, and half their
    width."""
    parameters, tokens = ladder_points()
    target = 1.6e9, 8.5e10
    rows: list[list[object]] = []
    with Progress("intervals", ladders * len(NOISE), "ladders") as progress:
        for noise in NOISE:
            random = np.random.default_rng(1)
            inside, widths, wide, refused = 0, [], 0, 0
            for _ in range(ladders):
                results = [
                    Result("", n, d, 6 * n * d, LAW(n, d) * float(np.exp(random.normal(0, noise))), seed=seed)
                    for n, d in zip(parameters, tokens, strict=True)
                    for seed in range(3 if (n, d) == (parameters[0], tokens[0]) else 1)
                ]
                reached = LAW(*target) * float(np.exp(random.normal(0, noise)))
                progress.advance()
                try:
                    found = forecast(points_of(results), *target, 6 * target[0] * target[1])
                except LadderError:
                    refused += 1
                    continue
                inside += found.low <= reached <= found.high
                wide += abs(reached / found.loss - 1) <= found.resampled_share
                widths.append(found.half_width)
            made = len(widths)
            shares = (
                [f"{inside / made:.0%}", f"{wide / made:.0%}", f"{float(np.median(widths)):.1%}"] if made else ["-"] * 3
            )
            rows.append([f"{noise:.1%}", made, refused, *shares])
    return rows


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="altiplano bench predict", description=__doc__)
    parser.add_argument("--ladders", type=int, default=60, help="simulated ladders for each amount of noise (60)")
    parser.add_argument("--starts", type=int, default=len(STARTS), help="starts of the peer (all)")
    parser.add_argument("--processes", type=int, default=8, help="most processes of a measured layout (8)")
    parser.add_argument("--hidden", type=int, default=256, help="hidden size of the measured model (256)")
    parser.add_argument("--layers", type=int, default=8, help="layers of the measured model (8)")
    parser.add_argument("--sequence", type=int, default=256, help="sequence length of the measured model (256)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurement; returns the exit code."""
    command = make_parser()
    given = command.parse_args(arguments)
    if not (given.ladders > 0 and 0 < given.starts <= len(STARTS)):
        command.error(f"--ladders must be at least 1, and --starts 1 to {len(STARTS)}")
    chosen = [STARTS[i] for i in np.linspace(0, len(STARTS) - 1, given.starts).astype(int)]
    show(
        f"Published laws from fifteen points without noise; L-BFGS-B from {given.starts:,} starts",
        recovery(chosen),
        ("law", "error of E, α, β", "error, L-BFGS-B", "CPU seconds", "L-BFGS-B", "times as fast"),
    )
    show(
        f"Simulated ladders of fifteen rungs and two repeats; {INTERVAL:.0%} intervals for 4.3 times the compute",
        coverage(given.ladders),
        ("noise of seeds", "predicted", "refused", "inside", "inside without backtests", "half width, median"),
    )
    show(
        "Published runs, seconds of a step",
        published_rows(),
        ("source", "run", "published", "predicted", "error", "assumed"),
    )
    show(
        f"{given.layers} layers of {given.hidden}, sequence {given.sequence}, fp32, on this machine after `altiplano "
        "plan --calibrate`; seconds of a step, medians of twenty",
        machine_rows(given.hidden, given.layers, given.sequence, given.processes),
        ("tensor × pipeline × data", "predicted", "measured", "error", "where the time goes, predicted"),
    )
    return 0
