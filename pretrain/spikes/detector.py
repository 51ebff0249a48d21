"""Tells a loss that spikes from one that is only noisy. Pure: numbers in, a verdict out; its state is plain JSON.

It looks at the logarithms of the loss and of its early signs: the gradient norm before clipping, that of the embedding
alone, and the largest logit, all of them over all processes. The baseline of each is a robust line through its last
values (medians instead of means, so that a value far out moves nothing) and their spread around it (MAD). What lies in
a spike never enters the baseline: OLMo's does, which lets a long spike pass for normal, see `docs/on_call.md`.

    ok ──> suspect ──> transient (it healed: back to ok)
               └─────> persistent (it will not: the policy acts)

The loss alone decides between transient and persistent. An early sign only opens the suspicion, and so moves the onset
to where the trouble began: a norm that stays high while the loss falls is no divergence.
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

GRADIENT_NORM, EMBEDDING_GRADIENT_NORM, LARGEST_LOGIT = "gradient_norm", "embedding_gradient_norm", "largest_logit"
SIGNS = (GRADIENT_NORM, EMBEDDING_GRADIENT_NORM, LARGEST_LOGIT)
"""What may announce a spike, by its name in the metrics; the first that is high names the suspicion."""

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
    """Values that make the baseline (as in OLMo-core's `SkipStepOptimizer`: `rolling_interval_length` 128)."""
    minimum_history: int = Field(default=20, ge=8)
    """Values before the baseline is trusted; until then only NaN and a rise by half count."""
    deviations: float = Field(default=6.0, gt=0)
    """Standard deviations above the baseline that are high (OLMo-core, same place: `sigma_factor` 6)."""
    minimum_rise: float = Field(default=1.1, gt=1)
    """A loss that is high is so by this factor at least: in a run with little noise 6 deviations are nothing yet."""
    certain_rise: float = Field(default=1.8, gt=1)
    """A loss that is this many times its baseline is high however noisy the run is."""
    drift: float = Field(default=1.5, gt=1)
    """A loss that is this many times its lowest level so far is high, even when it rose too slowly to be seen."""
    minimum_norm_rise: float = Field(default=3.0, gt=1)
    """The same for the two gradient norms, which vary more (BLOOM's spike: 0.24 to 960, BigScience's chronicles of
    tr11-176B, 2022-04-12)."""
    minimum_logit_rise: float = Field(default=2.0, gt=1)
    """The same for the largest logit."""
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
    """Level and spread of one signal's logarithm, from the last values outside spikes.

    Attributes:
        may_rise: its trend is believed upwards too.
    """

    window: int
    may_rise: bool = False
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    typical_batch: int = 0
    added: int = 0
    slope: float = 0.0
    centre: float = 0.0
    recent: float = 0.0
    sigma: float = 0.0
    lowest: float | None = None
    cusum: float = 0.0
    cusum_start: int = 0

    def add(self, step: int, value: float, batch_size: int) -> None:
        """Take in the signal's value, unless it has no logarithm."""
        if not 0 < value < math.inf:
            return
        logarithm = math.log(value)
        self._follow(step, logarithm)
        self.steps.append(step)
        self.values.append(logarithm)
        self.batches.append(batch_size)
        del self.steps[: -self.window], self.values[: -self.window], self.batches[: -self.window]
        self.added += 1
        if self.added % _REFRESH == 0 or self.added <= _RECENT:
            self._refresh()

    def _refresh(self) -> None:
        x, y = np.array(self.steps, float), np.array(self.values)
        half = len(y) // 2
        if half:
            # Slopes between points half a window apart: Theil 1950 takes all pairs, these see the trend and cost less.
            self.slope = _median((y[half:] - y[: len(y) - half]) / (x[half:] - x[: len(y) - half]))
            if not self.may_rise:
                self.slope = min(self.slope, 0.0)
        residuals = y - self.slope * x
        self.centre = _median(residuals)
        self.sigma = max(_SIGMA_OF_MAD * _median(np.abs(residuals - self.centre)), _LEAST_SIGMA)
        self.recent = _median(y[-_RECENT:])
        self.typical_batch = sorted(self.batches)[len(self.batches) // 2]
        if len(y) >= _RECENT // 2:
            self.lowest = self.recent if self.lowest is None else min(self.lowest, self.recent)

    def level(self, step: int) -> float:
        """What is expected at `step`: the trend, unless it rises, which nothing healthy promises."""
        return max(self.centre + self.slope * step, self.recent)

    def noise_factor(self, batch_size: int) -> float:
        """How much noisier a step of `batch_size` samples is than those of the baseline: less of them average less.

        At least one: whether the noise of a larger batch is smaller is seen when it is there.
        """
        return max(1.0, math.sqrt(self.typical_batch / batch_size))

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
        """Of the logarithm of `value` over the level. What has no logarithm because it is 0 or less is low."""
        if math.isnan(value) or value == math.inf:
            return _NOT_FINITE
        return math.log(value) - self.level if value > 0 else -_NOT_FINITE

    def is_high(self, value: float) -> bool:
        return self.excess(value) > self.limit - self.level


@dataclass
class _Episode:
    """A spike that is being watched.

    Attributes:
        raised_by: the loss, or the early sign that was high before it.
        loss, signs: bounds from before it.
        excesses: of the loss, one for each step from the one that raised the suspicion.
        loss_high: likewise.
        signs_high: likewise, the names of the signs that were high.
        phase_changed: since it began.
    """

    onset: int
    raised_by: str
    loss: _Bounds
    signs: dict[str, _Bounds]
    excesses: list[float] = field(default_factory=list)
    loss_high: list[bool] = field(default_factory=list)
    signs_high: list[list[str]] = field(default_factory=list)
    phase_changed: bool = False

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

    def norm_limit(self, step: int, batch_size: int) -> float:
        """Gradient norm above which step number `step`, of so many samples, would be high."""
        bounds = self._episode.signs[GRADIENT_NORM] if self._episode else None
        limit = (bounds or self._sign_bounds(GRADIENT_NORM, step, batch_size)).limit
        return math.exp(limit) if limit < _UNKNOWN else math.inf

    def observe(
        self, step: int, loss: float, signs: Mapping[str, float], *, phase: int = 0, batch_size: int = 1
    ) -> Verdict:
        """Take in a finished step.

        After a persistent spike the detector starts over, as it does in another phase.

        Args:
            step: its number; greater than the one before.
            loss: of the global batch, nats; may be NaN or infinite.
            signs: by the names of `SIGNS`; the gradient norm is of the whole model before clipping, and infinite when
                a gradient is no number; others may be left out.
            phase: number of the phase of the data plan; another one than before starts over, because other data have
                another loss. In the middle of a spike that waits for its end; until then only `certain_rise` is high,
                which is more than other data make.
            batch_size: samples of the step. One with fewer than usual is noisier, and the bounds are wider for it.
        """
        if phase != self._phase:
            self._phase = phase
            if self._episode is None:
                self._start_over()
            else:
                self._episode.phase_changed = True
                level, limit = self._episode.loss.level, self._episode.loss.limit
                self._episode.loss = _Bounds(level, max(limit, level + math.log(self.settings.certain_rise)))
        if not math.isfinite(signs[GRADIENT_NORM]):
            loss = math.nan  # its update is dropped: the loss may stay as it is for ever, but nothing is learned
        episode = self._episode
        if episode is None:
            loss_bounds = self._loss_bounds(step, batch_size)
            sign_bounds = {name: self._sign_bounds(name, step, batch_size) for name in SIGNS if name in signs}
            high = ["loss"] if loss_bounds.is_high(loss) else []
            high += [name for name, bounds in sign_bounds.items() if bounds.is_high(signs[name])]
            if not high:
                self._loss.add(step, loss, batch_size)
                for name in sign_bounds:
                    self._signs[name].add(step, signs[name], batch_size)
                return Verdict("ok")
            raised_by = high[0]
            first = self._loss if raised_by == "loss" else self._signs[raised_by]
            episode = self._episode = _Episode(first.onset(step), raised_by, loss_bounds, sign_bounds)
        episode.excesses.append(episode.loss.excess(loss))
        episode.loss_high.append(episode.loss.is_high(loss))
        high = [name for name, bounds in episode.signs.items() if name in signs and bounds.is_high(signs[name])]
        episode.signs_high.append(high)
        return self._judge(episode, step)

    def _loss_bounds(self, step: int, batch_size: int) -> _Bounds:
        settings, baseline = self.settings, self._loss
        certain = math.log(settings.certain_rise)
        noise = settings.deviations * baseline.sigma * baseline.noise_factor(batch_size)
        bounds = _Bounds(_UNKNOWN, _UNKNOWN)
        if len(baseline.values) >= settings.minimum_history:
            level = baseline.level(step)
            bounds = _Bounds(level, level + min(max(noise, math.log(settings.minimum_rise)), certain))
        if baseline.lowest is not None:
            drifted = baseline.lowest + max(math.log(settings.drift), min(noise, certain))
            if drifted < bounds.limit:
                bounds = _Bounds(baseline.lowest, drifted)
        return bounds

    def _sign_bounds(self, name: str, step: int, batch_size: int) -> _Bounds:
        settings, baseline = self.settings, self._signs[name]
        if len(baseline.values) < settings.minimum_history:
            return _Bounds(_UNKNOWN, _UNKNOWN)
        level, least = baseline.level(step), settings.minimum_norm_rise
        if name == LARGEST_LOGIT:
            least = settings.minimum_logit_rise
        else:  # a norm is the larger the fewer gradients are averaged: by this factor if they are all noise
            level += math.log(baseline.noise_factor(batch_size))
        return _Bounds(level, level + max(settings.deviations * baseline.sigma, math.log(least)))

    def _judge(self, episode: _Episode, step: int) -> Verdict:
        settings = self.settings
        steps = step - episode.onset + 1
        not_finite = episode.excesses.count(_NOT_FINITE)
        peak = math.inf if not_finite else math.exp(max(episode.peak(), 0.0))

        def verdict(state: State, reason: str) -> Verdict:
            first = "" if episode.raised_by == "loss" else f"; the {episode.raised_by.replace('_', ' ')} was high first"
            return Verdict(state, episode.onset, steps, peak, reason + first)

        half = settings.calm_steps // 2
        loss_stays = sum(episode.loss_high[-settings.calm_steps :]) > half
        calm = episode.signs_high[-settings.calm_steps :]
        staying = [name for name in episode.signs if sum(name in high for high in calm) > half]
        if len(episode.excesses) >= settings.calm_steps and not (loss_stays or staying):
            self._end(episode)
            if _is_noise(episode, settings.certain_rise):
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
        if steps >= settings.patience_steps and staying:
            for name in staying:
                self._signs[name] = self._new_sign(name)
            self._end(episode)
            names = " and ".join(name.replace("_", " ") for name in staying)
            return verdict("transient", f"{names} high after {steps} steps, the loss not")
        return verdict("suspect", "")

    def _end(self, episode: _Episode) -> None:
        self._episode = None
        if episode.phase_changed:
            self._start_over()

    def _start_over(self) -> None:
        self._loss = _Baseline(self.settings.window)
        self._signs = {name: self._new_sign(name) for name in SIGNS}
        self._episode = None

    def _new_sign(self, name: str) -> _Baseline:
        # Logits grow from next to nothing while a model learns.
        return _Baseline(self.settings.window, may_rise=name == LARGEST_LOGIT)

    def to_json(self) -> dict[str, Any]:
        """Everything but the settings; floats are exact."""
        return {
            "phase": self._phase,
            "loss": asdict(self._loss),
            "signs": {name: asdict(baseline) for name, baseline in self._signs.items()},
            "episode": asdict(self._episode) if self._episode else None,
        }

    @classmethod
    def from_json(cls, settings: DetectorSettings, state: Mapping[str, Any]) -> Detector:
        """A detector that goes on where `state` was taken; a changed window takes effect with the next values."""
        detector = cls(settings)
        detector._phase = state["phase"]
        detector._loss = _Baseline(**{**state["loss"], "window": settings.window})
        for name in SIGNS:
            detector._signs[name] = _Baseline(**{**state["signs"][name], "window": settings.window})
        if (episode := state["episode"]) is not None:
            signs = {name: _Bounds(**bounds) for name, bounds in episode["signs"].items()}
            detector._episode = _Episode(**{**episode, "loss": _Bounds(**episode["loss"]), "signs": signs})
        return detector


def _is_noise(episode: _Episode, certain_rise: float) -> bool:
    """Whether it was over as soon as it had begun, and no more than noise with heavy tails makes: at most two high
    steps; a loss that was high twice by less than twice its bound, one that was high once by less than certain."""
    high = sum(episode.loss_high)
    if sum(loss or bool(signs) for loss, signs in zip(episode.loss_high, episode.signs_high, strict=True)) > 2:
        return False
    if high == 0:
        return True
    most = math.log(certain_rise) if high == 1 else 2 * (episode.loss.limit - episode.loss.level)
    return not any(episode.signs_high) and max(episode.excesses) < most


def _is_falling(episode: _Episode) -> bool:
    """Whether the spike is on its way down: the median of the last five excesses is a quarter below the highest."""
    last = sorted(episode.excesses[-5:])
    return last[len(last) // 2] < 0.75 * episode.peak()
