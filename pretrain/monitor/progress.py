"""Progress of a training run on the terminal."""

from __future__ import annotations

import atexit
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from foundation.progress import PLAIN_LINE_SECONDS, format_seconds
from pretrain.config import TrainConfig
from pretrain.evaluation.lm_eval_tasks import main_metric
from pretrain.families.mapping import parameter_count
from pretrain.launch.stopping import Stop
from pretrain.monitor.flops import Peak
from pretrain.topology import Topology

_DISPENSABLE = ("held-out", "rate", "norm")
"""Parts of the live line that a narrow terminal omits, in this order, so that the parts after them are visible."""


class TrainingProgress:
    """One live line on a terminal; elsewhere a plain line for the first step, every ten seconds, and for the last step.

    Args:
        step: number of steps finished before.
        last_step: number of steps after which the run ends.
    """

    def __init__(
        self, config: TrainConfig, topology: Topology, step: int, last_step: int, console: Console | None = None
    ) -> None:
        self._config = config
        self._topology = topology
        self._first_step = step
        self._last_step = last_step
        self._console = console or Console()
        self._live: Live | None = None
        self._sizes = config.batch.sizes
        self._start = self._last_line = time.monotonic()
        self._held_out = ""

    def start(self, notes: Sequence[str], peak: Peak) -> None:
        """Show model, topology, batch and peak speed."""
        config = self._config
        tokens = [size * config.data.sequence_length for size in (self._sizes.all[0], self._sizes.full)]
        growing = f"{tokens[0]:,} to " if self._sizes.ramp else ""
        self._print(
            f"training {_trained_text(config)}, {self._topology}, {config.precision}, "
            f"{growing}{tokens[1]:,} tokens a step"
        )
        for note in notes:
            self._print(f"note: {note}")
        if self._first_step >= self._last_step:
            self._print(f"all {self._last_step:,} steps are done already; nothing to train")
            return
        if self._first_step:
            self._print(f"continuing from the checkpoint of step {self._first_step:,}, to step {self._last_step:,}")
        self._print(f"MFU is relative to {peak}")
        self._print(f"status of the run, from any terminal: altiplano status {config.output}")
        self._start = self._last_line = time.monotonic()
        if self._console.is_terminal:
            self._live = Live(Text("first step …"), console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
            atexit.register(self._live.stop)  # so that an error does not leave the terminal without its cursor

    def step(self, line: Mapping[str, Any]) -> None:
        """Show a finished step, given its line of metrics."""
        step = line["step"]
        now = time.monotonic()
        first, done, last = (self._sizes.after(steps) for steps in (self._first_step, step, self._last_step))
        remaining = (now - self._start) / (done - first) * (last - done)
        parts = {
            "step": f"step {step:,}/{self._last_step:,}",
            "loss": f"loss {line['loss']:.4f}",
            "held-out": self._held_out,
            "rate": f"lr {line['learning_rate']:.2e}",
            "norm": f"grad {line['gradient_norm']:.2f}",
            "speed": f"{line['tokens_per_second']:,.0f} tokens/s",
            "share": f"MFU {line['mfu']:.1%}",
            "left": f"{format_seconds(remaining)} left" if remaining else "",
        }
        text = "  ".join(filter(None, parts.values()))
        if self._live is not None:
            for name in _DISPENSABLE:
                if len(text) > self._console.width:
                    parts[name] = ""
                    text = "  ".join(filter(None, parts.values()))
            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"))
        elif now - self._last_line >= PLAIN_LINE_SECONDS or step in (self._first_step + 1, self._last_step):
            self._last_line = now
            self._print(text)

    def rolled_back(self, step: int, note: str) -> None:
        """Show that the run continues from an earlier step, and why."""
        self._first_step, self._start = step, time.monotonic()
        self._print(note)

    def note(self, text: str) -> None:
        """Show a note for the person at the terminal."""
        self._print(f"note: {text}")

    def evaluation(self, step: int, loss: float) -> None:
        """Show the held-out loss."""
        self._held_out = f"held-out {loss:.4f}"
        if self._live is None:
            self._print(f"step {step:,}: held-out loss {loss:.4f}")

    def tasks(self, step: int, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Show one metric of each task."""
        parts = [f"{task} {name} {own[name]:.4f}" for task, own in metrics.items() for name in [main_metric(own)]]
        if parts:
            self._print(f"step {step:,}: {', '.join(parts)}")

    def saved(self, folder: Path) -> None:
        """Show the path of a finished checkpoint."""
        self._print(f"saved {folder}")

    def stopped(self, step: int, stop: Stop) -> None:
        """Show that the run ends before its last step, and why."""
        self._last_step = step
        self._print(f"stopping: {stop.reason}; step {step:,} is saved, and the same command continues from there")

    def finish(self) -> None:
        """Remove the live line, and show how long the run took."""
        if self._live is not None:
            self._live.stop()
        steps = self._last_step - self._first_step
        if steps > 0:
            seconds = time.monotonic() - self._start
            held_out = f" ({self._held_out})" if self._held_out else ""
            rest = self._config.schedule.steps - self._last_step
            stopped = f"; stopped as requested, {rest:,} steps remain" if rest else ""
            self._print(f"trained {steps:,} steps in {format_seconds(seconds)}{held_out}{stopped}")

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def _trained_text(config: TrainConfig) -> str:
    """Number of weights, and of those that are trained where others are frozen."""
    total = parameter_count(config.model)
    if not config.is_partial:
        return format_parameters(total)
    trained = config.trained_count
    return f"{trained:,} weights ({trained / total:.2%}) beside {format_parameters(total)}"


def format_parameters(count: int) -> str:
    """Number of parameters as text, such as `6,738.4 M parameters`; in thousands below a million."""
    size, unit = (count / 1e6, "M") if count >= 999_950 else (count / 1e3, "k")
    return f"{size:,.1f} {unit} parameters"
