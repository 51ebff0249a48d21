"""Goodput: the share of a run's time spent in steps that count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Goodput:
    """Seconds of the training steps that count, divided by all seconds since the run was first started.

    Lost time is: start-up, evaluation, checkpoints, steps whose update was dropped, steps that are repeated after a
    rollback or a restart, and the time between a stop and the next start.

    Args:
        kept: lines of the run's metrics that were not abandoned, including the `started` event with its time.
        now: seconds since the epoch.
    """

    def __init__(self, kept: Sequence[Mapping[str, Any]], now: float) -> None:
        self._began = min((line["time"] for line in kept if "time" in line), default=now)
        self._steps = {
            line["step"]: line["step_seconds"]
            for line in kept
            if line["kind"] == "train" and "step_seconds" in line and not line.get("dropped")
        }
        self._seconds = sum(self._steps.values())

    def step(self, step: int, seconds: float, *, counts: bool) -> None:
        """Add a finished step; `counts` is False when its update was dropped."""
        if counts:
            self._steps[step] = seconds
            self._seconds += seconds

    def roll_back(self, to_step: int) -> None:
        """Remove the steps after `to_step`, which are repeated."""
        for step in [step for step in self._steps if step > to_step]:
            self._seconds -= self._steps.pop(step)

    def share(self, now: float) -> float:
        """Goodput between 0 and 1; 1 before anything is measured."""
        return min(1.0, self._seconds / (now - self._began)) if now > self._began else 1.0
