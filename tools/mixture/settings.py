"""Settings of a search for the weights of sources, `mixture.yaml` of `configs/mixture`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from foundation.configuration import Settings


class MixtureConfig(Settings):
    """Small runs on random mixtures, and what the best mixture is to be good at."""

    output: Path
    """Folder of the runs and of what is fitted to them."""
    train: Path
    """Configuration of a small run. Each run has its settings, and weights of its own."""
    runs: int = Field(gt=0)
    """Number of random mixtures. Two for each number of the law, which has one for each source and one more, is the
    least; RegMix trained 512 on 17 sources (Liu et al. 2024, arXiv:2407.01492, section 3.1)."""
    seed: int = 0
    """Seed of the random mixtures."""
    repeats: int = Field(default=2, ge=2)
    """Runs on the weights of `train` with different seeds, which show how much of a loss is chance."""
    strengths: tuple[float, float] = (0.1, 5.0)
    """Bounds of the concentration of the random weights around the sources' shares of the tokens: with a low one, runs
    differ more (arXiv:2407.01492, appendix A)."""
    goal: dict[str, float] | None = None
    """Weights of the sources' held-out losses in what is minimised; left out: all count alike."""
    tokens: float | None = Field(default=None, gt=0)
    """Tokens of the run that the mixture is for, which limit how much a small source can give; left out: those of
    `train`."""
    maximum_epochs: float = Field(default=4.0, gt=0)
    """Most passes over a source: up to four, repeated tokens are worth nearly as much as new ones (Muennighoff et al.
    2023, arXiv:2305.16264, section 6)."""

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> MixtureConfig:
        low, high = self.strengths
        if not 0 < low <= high:
            raise ValueError(f"strengths: {low:g} to {high:g} must be positive and in order")
        if self.goal is not None and (min(self.goal.values(), default=0) < 0 or sum(self.goal.values()) <= 0):
            raise ValueError("goal: weights must not be negative, and one must be positive")
        return self
