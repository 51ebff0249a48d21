"""The log of a run: metrics on disk and on dashboards, progress on the terminal, goodput.

Rank 0 writes it. On the other ranks the same calls do nothing, so that the loop reads alike everywhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from pretrain.checkpoint.save import Saved
from pretrain.config import TrainConfig
from pretrain.engine.engine import StepResult
from pretrain.evaluation.held_out import Evaluation
from pretrain.evaluation.tasks import TaskScores
from pretrain.launch.stopping import Stop
from pretrain.monitor.flops import Peak, recomputed_flops_per_token, training_flops_per_token
from pretrain.monitor.goodput import Goodput
from pretrain.monitor.metrics import METRICS_FILE, MetricsWriter, read_metrics
from pretrain.monitor.progress import TrainingProgress
from pretrain.monitor.weights_and_biases import WeightsAndBiases
from pretrain.schedule import StepPlan
from pretrain.spikes.ledger import Entry, describe
from pretrain.topology import Topology


class RunLog:
    """A log that writes nothing, for every rank but the first; see `FirstRankLog`."""

    @property
    def no_room(self) -> str | None:
        """Reason why the latest line could not be written; None while there is room on the disk."""
        return None

    def start(self, notes: Sequence[str], peak: Peak) -> None:
        """Announce what is about to be trained."""

    def step(self, plan: StepPlan, result: StepResult, seconds: float) -> None:
        """Record a finished step."""

    def event(self, step: int, event: str, *, note: str | None = None, **details: Any) -> None:
        """Record an event."""

    def note(self, text: str) -> None:
        """Show a note to the person at the terminal."""

    def evaluation(self, step: int, found: Evaluation) -> None:
        """Record an evaluation."""

    def tasks(self, step: int, found: TaskScores | None) -> None:
        """Record an evaluation of the tasks."""

    def saved(self, saved: Saved) -> None:
        """Record a checkpoint that has become whole."""

    def rolled_back(self, answer: Entry, branch: str) -> None:
        """Set the steps of an abandoned branch apart and record the rollback."""

    def stopped(self, step: int, stop: Stop) -> None:
        """Record that the run ends before its last step."""

    def finish(self) -> None:
        """Sum up on the terminal, and close the files."""

    def close(self) -> None:
        """Close the files."""


class FirstRankLog(RunLog):
    """The log that rank 0 writes.

    Args:
        step: finished steps; lines of later steps are abandoned ones, which are set apart.

    Raises:
        ValueError: the metrics file is damaged, or `monitor.wandb_project` is set and wandb is not installed.
    """

    def __init__(self, config: TrainConfig, topology: Topology, step: int) -> None:
        self._config = config
        self._topology = topology
        project, path = config.monitor.wandb_project, config.output / METRICS_FILE
        board = WeightsAndBiases(project, config.output, config.model_dump(mode="json")) if project else None
        self._metrics = MetricsWriter(path, step, board)
        self._goodput = Goodput(read_metrics(path) if step else [], time.time())
        self._progress = TrainingProgress(config, topology, step, config.last_step)
        self._peak: Peak | None = None

    @property
    def no_room(self) -> str | None:
        return self._metrics.no_room

    def start(self, notes: Sequence[str], peak: Peak) -> None:
        """Show model, topology and batch; from now on the shares of peak speed are shares of `peak`."""
        self._peak = peak
        self._progress.start(notes, peak)

    def step(self, plan: StepPlan, result: StepResult, seconds: float) -> None:
        """Write a `train` line, which the terminal shows too."""
        self._goodput.step(plan.step, seconds, counts=result.applied)
        line: dict[str, Any] = {
            "step": plan.step,
            "consumed_samples": plan.consumed_samples,
            "consumed_tokens": plan.consumed_tokens,
            "first_sample": plan.first_sample,
            "global_batch_size": plan.batch_size,
            "loss": result.loss,
            **result.signs,
            "learning_rate": plan.learning_rate,
            **self._speed(plan.batch_size, plan.sequence_length, seconds),
            "goodput": self._goodput.share(time.time()),
            "time": time.time(),
        }
        self._metrics.write("train", **line, **({} if result.applied else {"dropped": True}))
        self._progress.step(line)

    def event(self, step: int, event: str, *, note: str | None = None, **details: Any) -> None:
        """Write an `event` line, and show `note` at the terminal."""
        self._metrics.write("event", step=step, event=event, **details)
        if note is not None:
            self._progress.note(note)

    def note(self, text: str) -> None:
        self._progress.note(text)

    def evaluation(self, step: int, found: Evaluation) -> None:
        """Write an `evaluation` line, with loss and number of targets of each dataset."""
        self._metrics.write(
            "evaluation",
            step=step,
            loss=found.loss,
            perplexity=math.exp(min(found.loss, 700.0)),
            tokens=found.tokens,
            **{f"loss/{name}": loss for name, (loss, _) in found.datasets.items()},
            **{f"tokens/{name}": tokens for name, (_, tokens) in found.datasets.items()},
        )
        self._progress.evaluation(step, found.loss)

    def tasks(self, step: int, found: TaskScores | None) -> None:
        """Write a `tasks` line, with each metric of each task."""
        assert found is not None
        if found.failure is not None:
            note = f"step {step:,}: the tasks have no metrics: {found.failure}"
            self.event(step, "no task metrics", note=note, reason=found.failure)
            return
        metrics = {f"{task}/{name}": value for task, own in found.metrics.items() for name, value in own.items()}
        self._metrics.write("tasks", step=step, **metrics, seconds=found.seconds)
        shown = {task.name: found.metrics.get(task.name) for task in self._config.evaluation.tasks}
        self._progress.tasks(step, {name: metrics for name, metrics in shown.items() if metrics})

    def saved(self, saved: Saved) -> None:
        self.event(
            saved.step,
            "saved",
            checkpoint=saved.folder.name,
            seconds=saved.seconds,
            blocked_seconds=saved.blocked_seconds,
            in_background=saved.in_background,
        )
        self._progress.saved(saved.folder)

    def rolled_back(self, answer: Entry, branch: str) -> None:
        assert answer.to_step is not None
        self._metrics.roll_back(answer.to_step, branch)
        details = answer.model_dump(mode="json", exclude_none=True, exclude={"kind", "step", "time"})
        self.event(answer.to_step, "rolled back", from_step=answer.step, branch=branch, **details)
        self._progress.rolled_back(answer.to_step, describe(answer))
        self._goodput.roll_back(answer.to_step)

    def stopped(self, step: int, stop: Stop) -> None:
        self.event(step, "stopped", reason=stop.reason, exit_code=int(stop.exit_code))
        self._progress.stopped(step, stop)

    def finish(self) -> None:
        self._progress.finish()
        self.close()

    def close(self) -> None:
        self._metrics.close()

    def _speed(self, batch_size: int, sequence_length: int, seconds: float) -> dict[str, float]:
        """Tokens and floating-point operations per second of a step, over all devices and of one; and the shares of
        the device's peak: MFU of what the model needs, HFU of what is computed with recomputation."""
        assert self._peak is not None
        config, peak = self._config, self._peak.flops_per_second
        tokens_per_second = batch_size * sequence_length / seconds
        per_device = tokens_per_second / self._topology.world_size
        model_flops = per_device * training_flops_per_token(config, sequence_length)
        recomputed = recomputed_flops_per_token(config.model, sequence_length, config.recomputation)
        hardware_flops = model_flops + per_device * recomputed
        return {
            "tokens_per_second": tokens_per_second,
            "tokens_per_second_per_device": per_device,
            "model_flops_per_second_per_device": model_flops,
            "hardware_flops_per_second_per_device": hardware_flops,
            "step_seconds": seconds,
            "mfu": model_flops / peak,
            "hfu": hardware_flops / peak,
        }


def open_run_log(config: TrainConfig, topology: Topology, step: int, rank: int) -> RunLog:
    """The log of a rank in a run that has finished `step` steps."""
    return FirstRankLog(config, topology, step) if rank == 0 else RunLog()
