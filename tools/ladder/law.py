"""Laws of the loss, fitted by variable projection.

Both laws are an irreducible loss and a sum of falling powers: L(N, D) = E + A / N^α + B / D^β of Hoffmann et al. 2022
(arXiv:2203.15556, section 3.3), and L(C) = a C^b + c of the GPT-4 report (arXiv:2303.08774, section 3).

For given exponents a law is linear in its other numbers, which are not negative: an exact solution of three unknowns
takes no search. What is searched is a grid of the exponents alone, so that no starting values decide about the result
(Golub and Pereyra 1973, SIAM J. Numer. Anal. 10; for this law arXiv:2603.22339). The best cells are then improved in
all numbers at once, by Levenberg's and Marquardt's method, under Huber's loss of the logarithms, with δ as in Hoffmann
et al. The loss is summed: Hoffmann et al. averaged it and stopped too early (Besiroglu et al. 2024, arXiv:2404.10102).

Shapes: R fits that are computed together, P points, J powers, G cells of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

HUBER_DELTA = 1e-3
"""Largest residual of a logarithm that counts by its square (Hoffmann et al. 2022, section 3.3)."""
EXPONENTS = (0.02, 2.0)
"""Bounds of the exponents. Published ones of language models are between 0.05 (Kaplan et al. 2020, arXiv:2001.08361,
section 1.2) and 0.5."""

_STARTS = 2
_ROUNDS = 400


class _Effort(NamedTuple):
    """Work of a fit.

    Attributes:
        cells: cells of the grid along one exponent.
        converged: relative fall of the objective below which a fit is finished.
    """

    cells: int
    converged: float


_ALONE = _Effort(28, 1e-12)
_OF_MANY = _Effort(10, 1e-6)  # resamples differ by more than this


@dataclass(frozen=True)
class Powers:
    """Fitted laws, irreducible + Σ coefficient_j · x_j^-exponent_j.

    Attributes:
        irreducible: [R].
        coefficients: [R, J].
        exponents: [R, J].
        objective: sum of the Huber losses, [R].
    """

    irreducible: Array
    coefficients: Array
    exponents: Array
    objective: Array

    def __call__(self, *x: float | Array) -> Array:
        """Losses at each point of x, [R, P]."""
        total = self.irreducible[:, None]
        for j, values in enumerate(x):
            logs = np.log(np.atleast_1d(np.asarray(values, np.float64)))
            total = total + self.coefficients[:, j, None] * np.exp(-self.exponents[:, j, None] * logs)
        return total

    @property
    def is_inside(self) -> npt.NDArray[np.bool_]:
        """Whether no number of a fit is on its bound, [R]."""
        low, high = EXPONENTS
        inside = (self.exponents > low * 1.001) & (self.exponents < high * 0.999) & (self.coefficients > 0)
        return inside.all(1) & (self.irreducible > 0)


def fit(x: Array, losses: Array, weights: Array | None = None) -> Powers:
    """Fit laws to the same points, with other losses or weights of the points in each.

    Args:
        x: what the powers are of, positive, [P, J].
        losses: positive, [R, P].
        weights: how often each point counts, [R, P]; None: once.

    Returns:
        Fits with numbers on their bounds among them, see `Powers.is_inside`.
    """
    weights = np.ones_like(losses) if weights is None else weights
    logs = np.log(x / x.min(0))
    effort = _ALONE if len(losses) == 1 else _OF_MANY
    best: tuple[Array, Array] | None = None
    for start in _starts(logs, losses, weights, effort.cells):
        found, objective = _improved(start, logs, losses, weights, effort.converged)
        if best is not None:
            is_better = objective < best[1]
            found = np.where(is_better[:, None], found, best[0])
            objective = np.where(is_better, objective, best[1])
        best = found, objective
    assert best is not None
    numbers, objective = best
    powers = x.shape[1]
    exponents = numbers[:, 1 + powers :]
    coefficients = numbers[:, 1 : 1 + powers] * np.exp(exponents * np.log(x.min(0)))
    return Powers(numbers[:, 0], coefficients, exponents, objective)


def _starts(logs: Array, losses: Array, weights: Array, count: int) -> list[Array]:
    """Numbers of the best cells of the grid by relative least squares: the lowest, and others that are lower than the
    cells beside them; [R, 1 + 2 J] each."""
    axis = np.geomspace(*EXPONENTS, count)
    powers = logs.shape[1]
    cells = np.stack(np.meshgrid(*[axis] * powers, indexing="ij"), -1).reshape(-1, powers)
    columns = np.exp(-cells[:, None, :] * logs)  # [G, P, J]
    columns = np.concatenate([np.ones((*columns.shape[:2], 1)), columns], -1)
    products = np.einsum("gpi,gpj->pgij", columns, columns).reshape(len(logs), -1)
    unknowns = powers + 1
    squares = ((weights / losses**2) @ products).reshape(len(losses), len(cells), unknowns, unknowns)
    sums = ((weights / losses) @ columns.transpose(1, 0, 2).reshape(len(logs), -1)).reshape(squares.shape[:3])
    solved, objective = _non_negative(squares, sums)  # [R, G, unknowns], [R, G]
    shaped = objective.reshape(len(losses), *[count] * powers)
    lowest = np.ones(shaped.shape, bool)
    for dim in range(1, powers + 1):
        for shift in (1, -1):
            beside = np.roll(shaped, shift, dim)
            edge: list[slice | int] = [slice(None)] * shaped.ndim
            edge[dim] = 0 if shift == 1 else -1
            beside[tuple(edge)] = np.inf
            lowest &= shaped <= beside
    ranked = np.where(lowest.reshape(objective.shape), objective, np.inf)
    order = np.argsort(ranked, 1, kind="stable")[:, :_STARTS]
    rows = np.arange(len(losses))
    return [np.concatenate([solved[rows, order[:, k]], cells[order[:, k]]], 1) for k in range(order.shape[1])]


def _non_negative(squares: Array, sums: Array) -> tuple[Array, Array]:
    """Least squares with unknowns of at least zero: every set of unknowns that may be above zero is solved, and the
    best allowed solution is taken.

    Returns:
        Solutions, and what they leave of the sum of squares, but for a constant.
    """
    best, lowest = np.zeros_like(sums), np.zeros(sums.shape[:-1])
    unknowns = sums.shape[-1]
    for size in range(1, unknowns + 1):
        for chosen in combinations(range(unknowns), size):
            index = list(chosen)
            # nearly parallel columns (an exponent near zero) must not stop the others
            matrix = squares[..., index, :][..., index] + 1e-12 * np.eye(size)
            part = np.linalg.solve(matrix, sums[..., index, None])[..., 0]
            left = -np.einsum("rgi,rgi->rg", part, sums[..., index])
            is_better = (part >= 0).all(-1) & (left < lowest)
            lowest = np.where(is_better, left, lowest)
            whole = np.zeros_like(sums)
            whole[..., index] = part
            best = np.where(is_better[..., None], whole, best)
    return best, lowest


def _improved(start: Array, logs: Array, losses: Array, weights: Array, converged: float) -> tuple[Array, Array]:
    """Levenberg's and Marquardt's method on all numbers, each residual weighted by Huber's loss (iteratively reweighted
    least squares, which lowers the objective in every round)."""
    powers = logs.shape[1]
    low = np.array([0.0] * (1 + powers) + [EXPONENTS[0]] * powers)
    high = np.array([np.inf] * (1 + powers) + [EXPONENTS[1]] * powers)
    targets = np.log(losses)
    numbers = start.copy()
    residuals, slopes = _residuals(numbers, logs, targets)
    objective = _huber(residuals, weights)
    damping = np.full(len(numbers), 1e-3)
    todo = np.arange(len(numbers))
    for _ in range(_ROUNDS):
        own, slope = residuals[todo], slopes[todo]
        counted = weights[todo] * np.minimum(1.0, HUBER_DELTA / np.maximum(np.abs(own), 1e-300))
        gradient = np.einsum("rpi,rp->ri", slope, counted * own)
        matrix = np.einsum("rpi,rp,rpj->rij", slope, counted, slope)
        here = numbers[todo]
        is_fixed = ((here <= low) & (gradient > 0)) | ((here >= high) & (gradient < 0))
        matrix = np.where(is_fixed[:, :, None] | is_fixed[:, None, :], 0.0, matrix)
        gradient = np.where(is_fixed, 0.0, gradient)
        scale = np.maximum(np.einsum("rii->ri", matrix), 1e-12)
        damped = matrix + np.einsum("ri,ij->rij", scale * damping[todo, None], np.eye(len(low)))
        damped += np.einsum("ri,ij->rij", is_fixed.astype(np.float64), np.eye(len(low)))
        step = np.linalg.solve(damped, gradient[..., None])[..., 0]
        tried = np.clip(here - step, low, high)
        new_residuals, new_slopes = _residuals(tried, logs, targets[todo])
        new_objective = _huber(new_residuals, weights[todo])
        before = objective[todo]
        is_lower = new_objective < before
        lower = todo[is_lower]
        numbers[lower], residuals[lower], slopes[lower] = tried[is_lower], new_residuals[is_lower], new_slopes[is_lower]
        objective[lower] = new_objective[is_lower]
        damping[todo] = np.where(is_lower, damping[todo] / 3, damping[todo] * 4)
        is_done = is_lower & (before - new_objective <= converged * before) | (damping[todo] > 1e12)
        todo = todo[~is_done]
        if not len(todo):
            break
    return numbers, objective


def _residuals(numbers: Array, logs: Array, targets: Array) -> tuple[Array, Array]:
    """Differences of logarithms, [R, P], and their derivatives by the numbers, [R, P, 1 + 2 J]."""
    powers = logs.shape[1]
    falls = np.exp(-numbers[:, None, 1 + powers :] * logs)
    terms = numbers[:, None, 1 : 1 + powers] * falls
    found = np.maximum(numbers[:, :1] + terms.sum(-1), 1e-300)
    slopes = np.concatenate([np.ones((*found.shape, 1)), falls, -terms * logs], -1) / found[..., None]
    return np.log(found) - targets, slopes


def _huber(residuals: Array, weights: Array) -> Array:
    size = np.abs(residuals)
    each = np.where(size <= HUBER_DELTA, 0.5 * size**2, HUBER_DELTA * (size - 0.5 * HUBER_DELTA))
    return (weights * each).sum(1)


@dataclass(frozen=True)
class LossLaw:
    """L(N, D) = E + A / N^α + B / D^β, in nats; N parameters with embedding and head, D tokens."""

    E: float
    A: float
    alpha: float
    B: float
    beta: float

    def __call__(self, parameters: float, tokens: float) -> float:
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    def optimum(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of the lowest loss for 6 N D floating-point operations (Hoffmann et al. 2022, equation
        4)."""
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = ratio * (flops / 6) ** self.parameters_exponent
        return parameters, flops / 6 / parameters

    @property
    def parameters_exponent(self) -> float:
        """Exponent a of N_opt ∝ C^a; that of the tokens is 1 - a."""
        return self.beta / (self.alpha + self.beta)


def fit_loss(parameters: Array, tokens: Array, losses: Array, weights: Array | None = None) -> Powers:
    """Fit L(N, D); see `fit` for the shapes of `losses` and `weights`."""
    return fit(np.stack([parameters, tokens], 1), losses, weights)


def loss_law(found: Powers, row: int = 0) -> LossLaw:
    """One of the fits of `fit_loss`."""
    (a, b), (alpha, beta) = found.coefficients[row], found.exponents[row]
    return LossLaw(float(found.irreducible[row]), float(a), float(alpha), float(b), float(beta))
