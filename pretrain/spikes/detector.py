"""Tells a loss that spikes from one that is only noisy. Pure: numbers in, a verdict out; its state is plain JSON.

It looks at the logarithms of the loss and of the gradient norm before clipping, both reduced over all processes. The
baseline of each is a robust line through its last values (medians instead of means, so that a value far out moves
nothing) and their spread around it (MAD). What lies in a spike never enters the baseline: OLMo's does, which lets a
long spike pass for normal, see `docs/on_call.md`.

    ok ──> suspect ──> transient (it healed: back to ok)
               └─────> persistent (it will not: the policy acts)

The loss alone decides between transient and persistent. A high gradient norm only opens the suspicion, and so moves the
onset to where the trouble began: a norm that stays high while the loss falls is no divergence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from foundation.configuration import Settings

State = Literal["ok", "suspect", "transient", "persistent"]

_RECENT = 16
"""Values whose median a loss must exceed as well: a falling curve lies above the line through it at its end."""
_REFRESH = 4
"""The baseline is worked out again after this many new values: medians cost more than everything else here."""
_SIGMA_OF_MAD = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""
_LEAST_SIGMA = 0.002
"""A curve without noise has a MAD of 0."""
_NOT_FINITE = 20.0
"""Excess, in units of the logarithm, that stands for NaN and infinity."""
_UNKNOWN = 50.0
"""Level of a baseline that has seen too little: nothing finite is above it."""
_CUSUM_DRIFT, _CUSUM_LARGEST = 1.5, 2.0
"""Allowance and largest contribution of a step, in standard deviations, in the cumulative sum that dates the onset
(Page 1954, Biometrika 41, section 2). The cap keeps one outlier from reaching far back."""


class DetectorSettings(Settings):
    """When a loss counts as a spike, and when a spike counts as one that stays."""

    window: int = Field(default=128, ge=32)
    """Values that make the baseline (OLMo, arXiv:2501.00656, section 3.1, looks at 128 as well)."""
    minimum_history: int = Field(default=20, ge=8)
    """Values before the baseline is trusted; until then only NaN and a rise by half count."""
    deviations: float = Field(default=6.0, gt=0)
    """Standard deviations above the baseline that are high (OLMo, same place: 6)."""
    minimum_rise: float = Field(default=1.1, gt=1)
    """A loss that is high is so by this factor at least: in a run with little noise 6 deviations are nothing yet."""
    certain_rise: float = Field(default=1.8, gt=1)
    """A loss that is this many times its baseline is high however noisy the run is."""
    drift: float = Field(default=1.5, gt=1)
    """A loss that is this many times its lowest level so far is high, even when it rose too slowly to be seen."""
    minimum_norm_rise: float = Field(default=3.0, gt=1)
    """The same for the gradient norm, which varies more (BLOOM's spike: 0.24 to 960, chronicles of tr11-176B)."""
    high_steps: int = Field(default=20, ge=1)
    of_steps: int = Field(default=25, ge=1)
    """So many high steps of the last so many make a spike persistent, unless it has fallen by a quarter of its
    height, in logarithms."""
    patience_steps: int = Field(default=45, ge=1)
    """A spike that has not healed after this many steps is persistent. BLOOM's healed in 30; this is half as many
    again."""
    calm_steps: int = Field(default=10, ge=2)
    """A spike has healed when the median of so many steps is no longer high."""

    @model_validator(mode="after")
    def _windows_fit(self) -> DetectorSettings:
        if self.high_steps > self.of_steps:
            raise ValueError(f"high_steps: {self.high_steps} of of_steps {self.of_steps} can never be")
        if self.minimum_history > self.window:
            raise ValueError(f"minimum_history: {self.minimum_history} is more than window {self.window} holds")
        if self.calm_steps > self.patience_steps:
            raise ValueError(
                f"patience_steps: {self.patience_steps} ends before calm_steps {self.calm_steps} can show a recovery"
            )
        if self.minimum_rise > self.certain_rise:
            raise ValueError(f"minimum_rise: {self.minimum_rise} is more than certain_rise {self.certain_rise}")
        return self


@dataclass(frozen=True)
class Verdict:
    """What the detector makes of one step.

    Attributes:
        state: `transient` and `persistent` are said once, at the step where a spike ends as one or the other.
        onset: first step of the spike; None when the state is ok.
        steps: from the onset to this one.
        peak: the highest loss of the spike over its baseline, as a factor; infinity for NaN.
        reason: in words, for the ledger.
    """

    state: State
    onset: int | None = None
    steps: int = 0
    peak: float = 1.0
    reason: str = ""


@dataclass
class _Baseline:
    """Level and spread of one signal's logarithm, from the last values outside spikes."""

    window: int
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    added: int = 0
    slope: float = 0.0
    centre: float = 0.0
    recent: float = 0.0
    sigma: float = 0.0
    lowest: float | None = None
    cusum: float = 0.0
    cusum_start: int = 0

    def add(self, step: int, value: float) -> None:
        """Take in the signal's value, unless it is 0, of which there is no logarithm."""
        if value <= 0:
            return
        logarithm = math.log(value)
        self._follow(step, logarithm)
        self.steps.append(step)
        self.values.append(logarithm)
        del self.steps[: -self.window], self.values[: -self.window]
        self.added += 1
        if self.added % _REFRESH == 0 or self.added <= _RECENT:
            self._refresh()

    def _refresh(self) -> None:
        x, y = np.array(self.steps, float), np.array(self.values)
        half = len(y) // 2
        if half:
            # Slopes between points half a window apart: Theil 1950 takes all pairs, these see the trend and cost less.
            self.slope = min(_median((y[half:] - y[: len(y) - half]) / (x[half:] - x[: len(y) - half])), 0.0)
        residuals = y - self.slope * x
        self.centre = _median(residuals)
        self.sigma = max(_SIGMA_OF_MAD * _median(np.abs(residuals - self.centre)), _LEAST_SIGMA)
        self.recent = _median(y[-_RECENT:])
        if len(y) >= _RECENT // 2:
            self.lowest = self.recent if self.lowest is None else min(self.lowest, self.recent)

    def level(self, step: int) -> float:
        """What is expected at `step`: the trend, unless it rises, which nothing healthy promises."""
        return max(self.centre + self.slope * step, self.recent)

    def _follow(self, step: int, logarithm: float) -> None:
        # A step at which the sum leaves 0 is a candidate for an onset.
        if self.cusum == 0.0:
            self.cusum_start = step
        if self.sigma:
            deviations = (logarithm - self.level(step)) / self.sigma
            self.cusum = (
                max(0.0, self.cusum + min(deviations, _CUSUM_LARGEST) - _CUSUM_DRIFT) if deviations > 0 else 0.0
            )

    def onset(self, step: int) -> int:
        """First step of a rise that is noticed at `step`."""
        return self.cusum_start if self.cusum > 0.0 else step


def _median(values: npt.NDArray[np.float64]) -> float:
    """The upper one of two middle values: np.median takes ten times as long over so few."""
    middle = len(values) // 2
    return float(np.partition(values, middle)[middle])


@dataclass(frozen=True)
class _Bounds:
    """What is expected of a logarithm, and above what it is high."""

    level: float
    limit: float

    def excess(self, value: float) -> float:
        """Of the logarithm of `value` over the level."""
        if not math.isfinite(value):
            return _NOT_FINITE
        return math.log(value) - self.level if value > 0 else -self.level

    def is_high(self, value: float) -> bool:
        return self.excess(value) > self.limit - self.level


@dataclass
class _Episode:
    """A spike that is being watched.

    Attributes:
        loss, norm: bounds from before it.
        excesses: of the loss, one for each step from the one that raised the suspicion.
        loss_high, norm_high: likewise.
    """

    onset: int
    loss: _Bounds
    norm: _Bounds
    excesses: list[float] = field(default_factory=list)
    loss_high: list[bool] = field(default_factory=list)
    norm_high: list[bool] = field(default_factory=list)

    def peak(self) -> float:
        """Highest finite excess."""
        return max((excess for excess in self.excesses if excess < _NOT_FINITE), default=0.0)


class Detector:
    """See the top of this file.

    Args:
        settings: thresholds.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        self.settings = settings
        self._phase = 0
        self._episode: _Episode | None = None
        self._start_over()

    @property
    def state(self) -> State:
        """`ok` or `suspect`: the other two are said in a verdict and are over."""
        return "suspect" if self._episode else "ok"

    def norm_limit(self, step: int) -> float:
        """Gradient norm above which step number `step` would be high."""
        limit = (self._episode.norm if self._episode else self._norm_bounds(step)).limit
        return math.exp(limit) if limit < _UNKNOWN else math.inf

    def observe(self, step: int, loss: float, gradient_norm: float, phase: int = 0) -> Verdict:
        """Take in a finished step.

        After a persistent spike the detector starts over, as it does in another phase.

        Args:
            step: its number; greater than the one before.
            loss: of the global batch, nats; may be NaN or infinite.
            gradient_norm: of the whole model before clipping; may be NaN or infinite.
            phase: number of the phase of the data plan; another one than before starts over, because other data have
                another loss. A growing batch does not: there is less noise, which only makes the bounds generous.
        """
        if phase != self._phase:
            self._phase = phase
            self._start_over()
        if not math.isfinite(gradient_norm):
            loss = math.nan  # its update is dropped: the loss may stay as it is for ever, but nothing is learned
        episode = self._episode
        if episode is None:
            loss_bounds, norm_bounds = self._loss_bounds(step), self._norm_bounds(step)
            loss_high, norm_high = loss_bounds.is_high(loss), norm_bounds.is_high(gradient_norm)
            if not (loss_high or norm_high):
                self._loss.add(step, loss)
                self._norm.add(step, gradient_norm)
                return Verdict("ok")
            first = self._loss if loss_high else self._norm
            episode = self._episode = _Episode(first.onset(step), loss_bounds, norm_bounds)
        episode.excesses.append(episode.loss.excess(loss))
        episode.loss_high.append(episode.loss.is_high(loss))
        episode.norm_high.append(episode.norm.is_high(gradient_norm))
        return self._judge(episode, step)

    def _loss_bounds(self, step: int) -> _Bounds:
        settings, baseline = self.settings, self._loss
        certain = math.log(settings.certain_rise)
        noise = settings.deviations * baseline.sigma
        bounds = _Bounds(_UNKNOWN, _UNKNOWN)
        if len(baseline.values) >= settings.minimum_history:
            level = baseline.level(step)
            bounds = _Bounds(level, level + min(max(noise, math.log(settings.minimum_rise)), certain))
        if baseline.lowest is not None:
            drifted = baseline.lowest + max(math.log(settings.drift), min(noise, certain))
            if drifted < bounds.limit:
                bounds = _Bounds(baseline.lowest, drifted)
        return bounds

    def _norm_bounds(self, step: int) -> _Bounds:
        settings, baseline = self.settings, self._norm
        if len(baseline.values) < settings.minimum_history:
            return _Bounds(_UNKNOWN, _UNKNOWN)
        level = baseline.level(step)
        rise = max(settings.deviations * baseline.sigma, math.log(settings.minimum_norm_rise))
        return _Bounds(level, level + rise)

    def _judge(self, episode: _Episode, step: int) -> Verdict:
        settings = self.settings
        steps = step - episode.onset + 1
        not_finite = episode.excesses.count(_NOT_FINITE)
        peak = math.inf if not_finite else math.exp(max(episode.peak(), 0.0))

        def verdict(state: State, reason: str) -> Verdict:
            return Verdict(state, episode.onset, steps, peak, reason)

        half = settings.calm_steps // 2
        loss_stays = sum(episode.loss_high[-settings.calm_steps :]) > half
        norm_stays = sum(episode.norm_high[-settings.calm_steps :]) > half
        if len(episode.excesses) >= settings.calm_steps and not (loss_stays or norm_stays):
            self._episode = None
            if _is_noise(episode):
                return Verdict("ok")
            return verdict("transient", f"healed {steps} steps after its onset")
        high = sum(episode.loss_high[-settings.of_steps :])
        if high >= settings.high_steps and not _is_falling(episode):
            self._start_over()
            nature = f", {not_finite} of them not finite" if not_finite else ""
            return verdict(
                "persistent", f"{high} of {min(settings.of_steps, len(episode.excesses))} steps high{nature}"
            )
        if steps >= settings.patience_steps and loss_stays:
            self._start_over()
            return verdict("persistent", f"not healed {steps} steps after its onset")
        if steps >= settings.patience_steps:
            self._episode, self._norm = None, _Baseline(settings.window)
            return verdict("transient", f"the gradient norm stays high after {steps} steps, the loss does not")
        return verdict("suspect", "")

    def _start_over(self) -> None:
        self._loss, self._norm = _Baseline(self.settings.window), _Baseline(self.settings.window)
        self._episode = None

    def to_json(self) -> dict[str, Any]:
        """Everything but the settings; floats are exact."""
        return {
            "phase": self._phase,
            "loss": asdict(self._loss),
            "norm": asdict(self._norm),
            "episode": asdict(self._episode) if self._episode else None,
        }

    @classmethod
    def from_json(cls, settings: DetectorSettings, state: Mapping[str, Any]) -> Detector:
        """A detector that goes on where `state` was taken; a changed window takes effect with the next values."""
        detector = cls(settings)
        detector._phase = state["phase"]
        detector._loss = _Baseline(**{**state["loss"], "window": settings.window})
        detector._norm = _Baseline(**{**state["norm"], "window": settings.window})
        if (episode := state["episode"]) is not None:
            bounds = {name: _Bounds(**episode[name]) for name in ("loss", "norm")}
            detector._episode = _Episode(**{**episode, **bounds})
        return detector


def _is_noise(episode: _Episode) -> bool:
    """Whether all there was is one loss above its limit, by less than the limit is above the level."""
    return (
        sum(episode.loss_high) == 1
        and not any(episode.norm_high)
        and max(episode.excesses) < 2 * (episode.loss.limit - episode.loss.level)
    )


def _is_falling(episode: _Episode) -> bool:
    """Whether the spike is on its way down: the median of the last five excesses is a quarter below the highest."""
    last = sorted(episode.excesses[-5:])
    return last[len(last) // 2] < 0.75 * episode.peak()
