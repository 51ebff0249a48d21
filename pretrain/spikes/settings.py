"""Settings of the answer to a loss spike."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from foundation.configuration import Settings
from pretrain.spikes.detector import DetectorSettings


class SpikesConfig(Settings):
    """What is done about a loss spike; PaLM is Chowdhery et al. 2022, arXiv:2204.02311, section 5.1."""

    enabled: bool = True
    """False: nothing is watched, and NaN ends the run. Ranges that the run has skipped before stay skipped."""
    transient: Literal["keep", "drop"] = "keep"
    """keep: a spike that heals by itself is let be. drop: updates whose gradient norm is above the detector's limit are
    not applied, as OLMo-core's `SkipStepOptimizer` does; on a GPU this waits for the norm before each update."""
    detector: DetectorSettings = DetectorSettings()
    rollback_steps: int = Field(default=100, ge=1)
    """The checkpoint that is gone back to lies at least so many steps before the onset (PaLM)."""
    skip_batches: int = Field(default=200, ge=1)
    """Global batches that are skipped, from `rollback_steps` before the onset (PaLM: 200 to 500)."""
    longer_skip_batches: int = Field(default=500, ge=1)
    """The same when it spikes again at the same place."""
    learning_rate_factor: float = Field(default=0.5, gt=0, lt=1)
    """When longer skipping has not helped either, the learning rate is lowered by this much, for the rest of the run
    (OPT-175B, arXiv:2205.01068, "Loss Divergences": a lower rate from an earlier checkpoint; by how much it does not
    say, half is our choice)."""
    rewarm_steps: int = Field(default=100, ge=1)
    """Steps over which the lowered learning rate is reached from 0. Our choice: as many as were gone back."""
    cooldown_steps: int = Field(default=1000, ge=1)
    """A spike is at the same place as the last one mended when their onsets are no further apart; a mend has held when
    so many steps have passed. Our choice: twice the longer skip."""
    maximum_rollbacks: int = Field(default=20, ge=1)
    """In the whole run (PaLM: about 20). After that the run stops with a report."""

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
