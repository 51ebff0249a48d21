"""Settings of the answer to loss spikes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from foundation.configuration import Settings
from pretrain.spikes.detector import DetectorSettings


class SpikesConfig(Settings):
    """Answer to loss spikes; PaLM is Chowdhery et al. 2022, arXiv:2204.02311, section 5.1."""

    enabled: bool = True
    """Whether spikes are detected. Without detection NaN ends the run; ranges that were skipped before stay skipped."""
    transient: Literal["keep", "drop"] = "keep"
    """Answer to a spike that heals by itself. keep: none. drop: updates whose gradient norm is above the detector's
    limit are not applied, as in OLMo-core's `SkipStepOptimizer`; a GPU then waits for the norm before each update."""
    detector: DetectorSettings = DetectorSettings()
    rollback_steps: int = Field(default=100, ge=1)
    """Smallest number of steps between the checkpoint that the run goes back to and the onset (PaLM)."""
    skip_batches: int = Field(default=200, ge=1)
    """Number of global batches that are skipped, from `rollback_steps` before the onset on (PaLM: 200 to 500)."""
    longer_skip_batches: int = Field(default=500, ge=1)
    """Number of global batches that are skipped when the loss spikes again at the same place."""
    learning_rate_factor: float = Field(default=0.5, gt=0, lt=1)
    """Factor by which the learning rate is lowered for the rest of the run when longer skipping has not helped either
    (OPT-175B, arXiv:2205.01068, "Loss Divergences": a lower rate from an earlier checkpoint; the paper gives no factor,
    half is our choice)."""
    rewarm_steps: int = Field(default=100, ge=1)
    """Number of steps in which the lowered learning rate is reached from 0. Our choice: as many as a rollback goes
    back."""
    cooldown_steps: int = Field(default=1000, ge=1)
    """Number of steps without a spike after which a rollback counts as successful; and largest distance of two onsets
    at the same place. Our choice: twice the longer skip."""
    maximum_rollbacks: int = Field(default=20, ge=1)
    """Number of rollbacks in the whole run (PaLM: about 20), after which the run stops with a report."""

    @model_validator(mode="after")
    def _skips_cover_the_spike(self) -> SpikesConfig:
        seen = self.rollback_steps + self.detector.patience_steps
        if self.skip_batches < seen:
            raise ValueError(
                f"skip_batches: {self.skip_batches} ends before a spike is recognised: at least rollback_steps "
                f"{self.rollback_steps} + detector.patience_steps {self.detector.patience_steps} = {seen}"
            )
        if self.longer_skip_batches <= self.skip_batches:
            raise ValueError(
                f"longer_skip_batches: {self.longer_skip_batches} must be more than skip_batches {self.skip_batches}"
            )
        return self
