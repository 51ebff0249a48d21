"""Samples of each step: a constant number, or a batch that grows at the beginning of a run.

The size of a growing batch depends on the samples consumed so far and on nothing else, as in Megatron-LM's
`--rampup-batch-size`: from `start` it grows by `increment` after each of equally long stretches of samples, so that
after `samples` samples it has its full size. BLOOM went from 192 to 2,048 samples in steps of 16 over its first
9,765,625 samples, 20 billion tokens (BigScience, tr11-176B-ml.slurm). The order of the samples does not change.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ramp:
    """Growth from `start` samples by `increment` at a time, over the first `samples` samples of the run."""

    start: int
    increment: int
    samples: int


@dataclass(frozen=True)
class BatchSizes:
    """Size of the global batch, in samples, at every position of a run.

    Args:
        full: size after the growth.
        ramp: growth at the beginning; None: the size is `full` from the first step on.

    Raises:
        ValueError: the ramp does not end at `full`.
    """

    full: int
    ramp: Ramp | None = None

    def __post_init__(self) -> None:
        ramp = self.ramp
        if ramp is None:
            return
        if not 0 < ramp.start < self.full:
            raise ValueError(f"start: {ramp.start} must be less than global_batch_size {self.full}, or nothing grows")
        if ramp.increment <= 0 or (self.full - ramp.start) % ramp.increment:
            raise ValueError(
                f"increment: steps of {ramp.increment} from start {ramp.start} do not end at global_batch_size "
                f"{self.full}: it must divide {self.full - ramp.start}"
            )
        if ramp.samples <= 0:
            raise ValueError(f"samples: {ramp.samples} must be positive")

    @property
    def _increments(self) -> int:
        assert self.ramp is not None
        return (self.full - self.ramp.start) // self.ramp.increment

    @property
    def all(self) -> tuple[int, ...]:
        """All sizes that occur, ascending."""
        if self.ramp is None:
            return (self.full,)
        return tuple(range(self.ramp.start, self.full + 1, self.ramp.increment))

    def at(self, consumed: int) -> int:
        """Size of the next batch after `consumed` samples."""
        if self.ramp is None or consumed >= self.ramp.samples:
            return self.full
        return self.ramp.start + self.ramp.increment * (consumed * self._increments // self.ramp.samples)

    def after(self, steps: int) -> int:
        """Number of samples that the first `steps` steps consume."""
        consumed = 0
        while steps > 0:
            size = self.at(consumed)
            stretch = steps
            if self.ramp is not None and size < self.full:
                stage = (size - self.ramp.start) // self.ramp.increment
                # The first position of the next stage: the smallest c with c * increments // samples > stage.
                following = -(-(stage + 1) * self.ramp.samples // self._increments)
                stretch = min(steps, -(-(following - consumed) // size))
            consumed += stretch * size
            steps -= stretch
        return consumed

    def steps_to(self, samples: int) -> int:
        """Smallest number of steps that consume at least `samples` samples."""
        few, many = 0, -(-samples // self.all[0])
        while few < many:
            middle = (few + many) // 2
            few, many = (middle + 1, many) if self.after(middle) < samples else (few, middle)
        return few
