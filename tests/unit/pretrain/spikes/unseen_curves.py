"""Curves of other shapes than those that the detector's constants were chosen on, which are in `test_detector.py`.

Loss, gradient norm, embedding-gradient norm and largest logit of a run that nobody has seen: other decays, schedules,
noises and divergences. Nothing in `pretrain/spikes/detector.py` may be changed to please these; a shape that shows a
fault of the detector moves to `test_detector.py`, and another one takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Shape = Callable[[int, np.random.Generator], Floats]


@dataclass(frozen=True)
class Curve:
    """What a run shows, [steps] each.

    Attributes:
        onset: the first step, counted from 1, of a divergence; 0 where there is none.
        phases, batches: of each step.
    """

    loss: Floats
    signs: dict[str, Floats]
    phases: npt.NDArray[np.int64]
    batches: npt.NDArray[np.int64]
    onset: int = 0


# Quiet: (steps, random) -> loss without noise, in nats.


def two_powers(steps: int, random: np.random.Generator) -> Floats:
    """E + A / N^α + B / D^β at a fixed model, which leaves E' + B / D^β (Hoffmann et al. 2022, arXiv:2203.15556,
    equation 2 and its fitted 1.69 and β 0.28), from the loss of a uniform guess."""
    tokens = (np.arange(steps) + random.uniform(1, 30)) / random.uniform(50, 500)
    return 1.69 + random.uniform(0.1, 0.6) + random.uniform(0.8, 1.6) * tokens**-0.28


def warmup_stable_decay(steps: int, random: np.random.Generator) -> Floats:
    """Slow for four fifths, then the rate falls and the loss with it (Hu et al. 2024, arXiv:2404.06395)."""
    x = np.arange(steps) / steps
    slow = random.uniform(2.2, 3.0) - 0.3 * np.log1p(20 * x) / np.log1p(20)
    return slow - random.uniform(0.1, 0.3) * np.clip((x - 0.8) / 0.2, 0, 1) ** 0.5


def staircase(steps: int, random: np.random.Generator) -> Floats:
    """A batch that grows in steps: each makes the loss fall a little faster."""
    stage = np.arange(steps) * 8 // steps
    return random.uniform(2.4, 3.4) - 0.0002 * np.cumsum(1 + stage) * random.uniform(0.2, 1.0)


def sharp_drop(steps: int, random: np.random.Generator) -> Floats:
    """A plateau and then a sudden ability: copying from context, at some hundreds of steps."""
    x = np.arange(steps)
    where, width = random.uniform(0.2, 0.7) * steps, random.uniform(3, 40)
    return random.uniform(2.5, 3.2) + random.uniform(0.4, 1.5) / (1 + np.exp((x - where) / width))


def mixture_changes(steps: int, random: np.random.Generator) -> Floats:
    """Sources come in blocks: the level moves by up to 2.5 % for some tens of steps and back."""
    level = np.repeat(random.uniform(-0.025, 0.025, steps // 20 + 1), 20)[:steps]
    smooth = np.convolve(level, np.ones(9) / 9, mode="same")
    return random.uniform(1.8, 2.8) * np.exp(smooth)


def second_phase(steps: int, random: np.random.Generator) -> Floats:
    """Other data from the middle on, with a loss up to four tenths higher; the plan says so."""
    curve = np.full(steps, random.uniform(1.5, 2.5))
    curve[steps // 2 :] *= random.uniform(0.7, 1.4)
    return curve


QUIET: tuple[Shape, ...] = (two_powers, warmup_stable_decay, staircase, sharp_drop, mixture_changes, second_phase)


def noise(steps: int, random: np.random.Generator, sigma: float, batches: npt.NDArray[np.int64]) -> Floats:
    """A factor on the loss: logistic, gamma with its tail upwards, uniform, two mixed sources, or slow waves and white
    noise; all of standard deviation sigma at the largest batch and larger at the smaller ones."""
    kind = random.integers(5)
    if kind == 0:
        values = random.logistic(scale=math.sqrt(3) / math.pi, size=steps)
    elif kind == 4:
        values = (random.gamma(6, size=steps) - 6) / math.sqrt(6)
    elif kind == 1:
        values = random.uniform(-math.sqrt(3), math.sqrt(3), steps)
    elif kind == 2:
        values = random.standard_normal(steps) * np.where(random.random(steps) < 0.2, 1.8, 0.67)
    else:
        white = random.standard_normal(steps)
        slow = np.convolve(random.standard_normal(steps + 14), np.ones(15) / math.sqrt(15), mode="valid")
        values = 0.6 * slow + 0.8 * white
    return np.exp(sigma * values * np.sqrt(batches.max() / batches))


def _curve(shape: Shape, steps: int, random: np.random.Generator, largest_sigma: float) -> Curve:
    batches = np.full(steps, 256)
    if shape is staircase:
        batches = 64 + 24 * (np.arange(steps) * 8 // steps + 1)
    phases = (np.arange(steps) >= steps // 2).astype(np.int64) * (shape is second_phase)
    loss = shape(steps, random) * noise(steps, random, random.uniform(0.002, largest_sigma), batches)
    x = np.arange(steps)
    warm = 1 + random.uniform(2, 20) * np.exp(-x / random.uniform(10, 200))
    norm = random.uniform(0.1, 0.6) * warm * np.exp(random.uniform(0.03, 0.2) * random.standard_normal(steps))
    share = random.uniform(0.05, 0.5) * np.exp(0.1 * random.standard_normal(steps))
    grown = random.uniform(8, 40) * (1 - np.exp(-(x + 5) / random.uniform(30, 400)))
    logit = grown * np.exp(random.uniform(0.02, 0.08) * random.standard_normal(steps))
    signs = {"gradient_norm": norm, "embedding_gradient_norm": norm * share, "largest_logit": logit}
    return Curve(loss, signs, phases, batches)


def quiet(index: int, steps: int) -> Curve:
    """Quiet curve number `index`; noise of 0.2 to 4 %."""
    random = np.random.default_rng([4, index])
    return _curve(QUIET[index % len(QUIET)], steps, random, 0.04)


# Divergences: (steps from the onset, random) -> factor on the loss, above 2 for 50 steps and more once it is up.


def exponential(steps: int, random: np.random.Generator) -> Floats:
    """The excess doubles every two to four steps, up to the loss of a uniform guess."""
    excess = 0.06 * 2 ** (np.arange(steps) / random.uniform(2, 4))
    return 1 + np.minimum(excess, random.uniform(1.4, 3.5))


def overshoot(steps: int, random: np.random.Generator) -> Floats:
    """Far up, and swinging around a level that is too high."""
    x = np.arange(steps)
    return random.uniform(2.6, 3.6) + random.uniform(1, 2) * np.exp(-x / 15) * np.cos(x / random.uniform(2, 5))


def noisy_plateau(steps: int, random: np.random.Generator) -> Floats:
    """What is broken is noisy too."""
    return random.uniform(2.8, 4.5) * np.exp(0.12 * np.clip(random.standard_normal(steps), -2, 2))


def climbing(steps: int, random: np.random.Generator) -> Floats:
    """A step up and ever higher from there."""
    return random.uniform(1.3, 2.0) + 0.15 * np.arange(1, steps + 1) ** random.uniform(0.8, 1.0)


def two_stages(steps: int, random: np.random.Generator) -> Floats:
    """Half up for some steps, and then the rest of the way."""
    return np.where(np.arange(steps) < random.integers(3, 12), random.uniform(1.4, 1.7), random.uniform(2.2, 4.0))


def flickering(steps: int, random: np.random.Generator) -> Floats:
    """Every fourth or fifth step looks nearly healed."""
    curve = np.full(steps, random.uniform(2.4, 4.0))
    curve[:: int(random.integers(4, 6))] = random.uniform(1.15, 1.6)
    curve[0] = curve[1]
    return curve


def not_a_number(steps: int, random: np.random.Generator) -> Floats:
    """Up, and then NaN."""
    curve = np.full(steps, random.uniform(2.1, 3.0))
    curve[int(random.integers(3, 15)) :] = math.nan
    return curve


DIVERGENCES: tuple[Shape, ...] = (
    exponential,
    overshoot,
    noisy_plateau,
    climbing,
    two_stages,
    flickering,
    not_a_number,
)


def diverging(index: int, before: int = 300, after: int = 90) -> Curve:
    """Diverging curve number `index`: quiet for about `before` steps, in some cases right after a new phase; the norms
    explode with it, a few steps ahead of it, or not at all; noise of 0.2 to 3 %."""
    random = np.random.default_rng([5, index])
    shape = QUIET[index % len(QUIET)]
    onset = int(before + random.integers(-60, 60))
    curve = _curve(shape, 2 * before, random, 0.03)
    factor = DIVERGENCES[(index // len(QUIET)) % len(DIVERGENCES)](after, random)
    stop = onset - 1 + after
    loss = curve.loss[:stop].copy()
    loss[onset - 1 :] *= factor
    signs = {name: values[:stop].copy() for name, values in curve.signs.items()}
    ahead = int(random.integers(0, 5)) if index % 3 else None
    if ahead is not None:
        onset -= ahead
        signs["gradient_norm"][onset - 1 :] *= random.uniform(8, 500)
        signs["embedding_gradient_norm"][onset - 1 :] *= random.uniform(10, 900)
        signs["largest_logit"][onset - 1 + ahead :] *= random.uniform(1.0, 3.0)
    return Curve(loss, signs, curve.phases[:stop], curve.batches[:stop], onset)
