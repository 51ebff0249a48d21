"""Detector that distinguishes a loss spike from noise. Pure: numbers in, a verdict out; its state is plain JSON.

It uses the logarithms of the loss and of its early signs: the gradient norm before clipping, the embedding's gradient
norm, and the largest logit, all over all processes. The baseline of each is a robust line through its last values
(medians instead of means, so that outliers have no effect) and their spread around it (MAD). Values during a spike
never enter the baseline: in OLMo's detector they do, so that a long spike becomes normal, see `docs/on_call.md`.

    ok ──> suspect ──> transient (it healed: back to ok)
               └─────> persistent (it does not heal: the policy acts)

The loss alone decides between transient and persistent. An early sign only raises the suspicion, and so dates the onset
to where the trouble began: a norm that stays high while the loss falls is not a divergence.
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
"""Early signs of a spike, by their names in the metrics; the first one that is high is reported as the cause of the
suspicion."""

_RECENT = 16
"""Number of last values whose median a loss must exceed as well: at its end, a curve that falls ever more slowly is
above the line through it."""
_REFRESH = 4
"""Number of new values after which the baseline is recomputed: medians cost more than everything else here."""
_SIGMA_OF_MAD = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""
_LEAST_SIGMA = 0.002
"""Smallest standard deviation that is assumed: a curve without noise has a MAD of 0."""
_NOT_FINITE = 20.0
"""Excess, in units of the logarithm, that represents NaN and infinity."""
_UNKNOWN = 50.0
"""Level of a baseline with too few values: nothing finite is above it."""
_CUSUM_DRIFT, _CUSUM_LARGEST = 1.5, 2.0
"""Allowance and largest contribution of a step, in standard deviations, in the cumulative sum that dates the onset
(Page 1954, Biometrika 41, section 2). The cap keeps one outlier from reaching far back."""


class DetectorSettings(Settings):
    """Thresholds of the detector: when a loss counts as a spike, and when a spike counts as persistent."""

    window: int = Field(default=128, ge=32)
    """Number of values in the baseline (as in OLMo-core's `SkipStepOptimizer`: `rolling_interval_length` 128)."""
    minimum_history: int = Field(default=20, ge=8)
    """Number of values before the baseline is used; until then only NaN and a rise by half count."""
    deviations: float = Field(default=6.0, gt=0)
    """Number of standard deviations above the baseline from which on a value is high (OLMo-core, same class:
    `sigma_factor` 6)."""
    minimum_rise: float = Field(default=1.1, gt=1)
    """Smallest factor over its baseline by which a loss is high: in a run with little noise 6 deviations are still
    small."""
    certain_rise: float = Field(default=1.8, gt=1)
    """Factor over its baseline from which on a loss is high, however noisy the run is."""
    drift: float = Field(default=1.5, gt=1)
    """Factor over its lowest level so far from which on a loss is high, even if it rose too slowly to be noticed."""
    minimum_norm_rise: float = Field(default=3.0, gt=1)
    """Smallest factor for the two gradient norms, which vary more (BLOOM's spike: 0.24 to 960, BigScience's chronicles
    of tr11-176B, 2022-04-12)."""
    minimum_logit_rise: float = Field(default=2.0, gt=1)
    """Smallest factor for the largest logit."""
    high_steps: int = Field(default=20, ge=1)
    """Number of high steps among the last `of_steps` that make a spike persistent."""
    of_steps: int = Field(default=25, ge=1)
    """A spike is persistent when `high_steps` of the last `of_steps` steps are high, unless it has fallen by a quarter
    of its height, in logarithms."""
    patience_steps: int = Field(default=45, ge=1)
    """Number of steps after which a spike that has not healed is persistent. BLOOM's healed in 30; the default is half
    as many again."""
    calm_steps: int = Field(default=10, ge=2)
    """Number of steps whose median must no longer be high for a spike to have healed."""

    @model_validator(mode="after")
    def _windows_fit(self) -> DetectorSettings:
        if self.high_steps > self.of_steps:
            raise ValueError(f"high_steps: {self.high_steps} of of_steps {self.of_steps} can never be")
        if self.minimum_history > self.window:
            raise ValueError(f"minimum_history: {self.minimum_history} is more than window {self.window}")
        if self.calm_steps > self.patience_steps:
            raise ValueError(
                f"patience_steps: {self.patience_steps} ends before calm_steps {self.calm_steps} can show a recovery"
            )
        if self.minimum_rise > self.certain_rise:
            raise ValueError(f"minimum_rise: {self.minimum_rise} is more than certain_rise {self.certain_rise}")
        return self


@dataclass(frozen=True)
class Verdict:
    """The detector's result for one step.

    Attributes:
        state: `transient` and `persistent` are reported once, at the step where a spike ends as one or the other.
        onset: first step of the spike; None when the state is ok.
        steps: number of steps from the onset to this one.
        peak: highest loss of the spike over its baseline, as a factor; infinity for NaN.
        reason: reason as text, for the ledger.
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
        may_rise: whether an upward trend counts as healthy.
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
        """Add a value of the signal, unless it has no finite logarithm."""
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
            # Slopes between points half a window apart: Theil 1950 uses all pairs; these show the trend and cost less.
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
        """Expected logarithm at `step`: that of the trend, and at least the recent median."""
        return max(self.centre + self.slope * step, self.recent)

    def noise_factor(self, batch_size: int) -> float:
        """Noise of a step of `batch_size` samples relative to the steps of the baseline: fewer samples average less.

        At least one: that a larger batch has less noise shows in the baseline once it is used.
        """
        return max(1.0, math.sqrt(self.typical_batch / batch_size))

    def _follow(self, step: int, logarithm: float) -> None:
        # The step at which the cumulative sum leaves 0 is a candidate for the onset.
        if self.cusum == 0.0:
            self.cusum_start = step
        if self.sigma:
            deviations = (logarithm - self.level(step)) / self.sigma
            self.cusum = (
                max(0.0, self.cusum + min(deviations, _CUSUM_LARGEST) - _CUSUM_DRIFT) if deviations > 0 else 0.0
            )

    def onset(self, step: int) -> int:
        """First step of a rise that is detected at `step`."""
        return self.cusum_start if self.cusum > 0.0 else step


def _median(values: npt.NDArray[np.float64]) -> float:
    """Median, the upper one of two middle values: np.median takes ten times as long for so few values."""
    middle = len(values) // 2
    return float(np.partition(values, middle)[middle])


@dataclass(frozen=True)
class _Bounds:
    """Expected level of a logarithm, and limit above which it is high."""

    level: float
    limit: float

    def excess(self, value: float) -> float:
        """Difference between the logarithm of `value` and the level. Values of 0 or less count as low."""
        if math.isnan(value) or value == math.inf:
            return _NOT_FINITE
        return math.log(value) - self.level if value > 0 else -_NOT_FINITE

    def is_high(self, value: float) -> bool:
        return self.excess(value) > self.limit - self.level


@dataclass
class _Episode:
    """A spike that is being watched.

    Attributes:
        raised_by: "loss", or the name of the early sign that was high before it.
        loss, signs: bounds from before the spike.
        excesses: excess of the loss in each step from the one that raised the suspicion on.
        loss_high: whether the loss was high, in the same steps.
        signs_high: names of the signs that were high, in the same steps.
        phase_changed: whether the phase of the data plan has changed since the spike began.
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
        """`ok` or `suspect`: the other two states only occur in verdicts."""
        return "suspect" if self._episode else "ok"

    def norm_limit(self, step: int, batch_size: int) -> float:
        """Gradient norm above which step `step`, of `batch_size` samples, would be high."""
        bounds = self._episode.signs[GRADIENT_NORM] if self._episode else None
        limit = (bounds or self._sign_bounds(GRADIENT_NORM, step, batch_size)).limit
        return math.exp(limit) if limit < _UNKNOWN else math.inf

    def observe(
        self, step: int, loss: float, signs: Mapping[str, float], *, phase: int = 0, batch_size: int = 1
    ) -> Verdict:
        """Process a finished step.

        After a persistent spike the detector starts over, as it does in another phase.

        Args:
            step: number of the step, greater than the one before.
            loss: loss of the global batch in nats; may be NaN or infinite.
            signs: values by the names in `SIGNS`. The gradient norm is that of the whole model before clipping,
                infinite if any gradient is NaN; the others are optional.
            phase: index of the phase of the data plan. In a new phase the detector starts over, because other data have
                another loss; during a spike only after its end, and until then only `certain_rise` counts as high,
                which is more than other data cause.
            batch_size: samples of the step. A step with fewer samples than usual is noisier, and its bounds are wider.
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
            loss = math.nan  # its update is dropped: the loss might never change, but nothing is learned
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
        else:  # the fewer gradients are averaged, the larger a norm is: by this factor if they are pure noise
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
        # Logits grow from almost zero while a model learns.
        return _Baseline(self.settings.window, may_rise=name == LARGEST_LOGIT)

    def to_json(self) -> dict[str, Any]:
        """State as JSON, without the settings; floats are exact."""
        return {
            "phase": self._phase,
            "loss": asdict(self._loss),
            "signs": {name: asdict(baseline) for name, baseline in self._signs.items()},
            "episode": asdict(self._episode) if self._episode else None,
        }

    @classmethod
    def from_json(cls, settings: DetectorSettings, state: Mapping[str, Any]) -> Detector:
        """A detector that continues from `state`; a changed window takes effect with the next values."""
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
    """Whether a short episode is no more than noise with heavy tails: at most two high steps; and a loss that was high
    twice by less than twice its bound, or once by less than `certain_rise`."""
    high = sum(episode.loss_high)
    if sum(loss or bool(signs) for loss, signs in zip(episode.loss_high, episode.signs_high, strict=True)) > 2:
        return False
    if high == 0:
        return True
    most = math.log(certain_rise) if high == 1 else 2 * (episode.loss.limit - episode.loss.level)
    return not any(episode.signs_high) and max(episode.excesses) < most


def _is_falling(episode: _Episode) -> bool:
    """Whether the spike is falling: the median of the last five excesses is a quarter below the highest."""
    last = sorted(episode.excesses[-5:])
    return last[len(last) // 2] < 0.75 * episode.peak()
