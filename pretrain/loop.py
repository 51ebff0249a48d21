"""The loop: step, log, evaluate, save."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from pretrain.checkpoint.save import save_checkpoint
from pretrain.config import TrainConfig
from pretrain.data.loader import SampleReader, micro_batches
from pretrain.data.objective import Arrange, arrange
from pretrain.engine import Engine
from pretrain.monitor.metrics import MetricsWriter
from pretrain.monitor.progress import TrainingProgress
from pretrain.monitor.replicas import check_replicas
from pretrain.schedule import learning_rate
from pretrain.topology import Topology


@dataclass(frozen=True)
class Run:
    """What stays the same during a run.

    Attributes:
        facts: goes into every checkpoint: config and versions; the digest of the data is added to it.
    """

    config: TrainConfig
    topology: Topology
    engine: Engine
    training: SampleReader
    held_out: SampleReader | None
    facts: dict[str, Any]


def train_loop(run: Run, step: int, samples: int, notes: list[str]) -> None:
    """Train from `step` finished steps and `samples` consumed samples to the end or to `stop_after_step`.

    Args:
        notes: what the person at the terminal should know before the first step.
    """
    config, engine = run.config, run.engine
    schedule, batch = config.schedule, config.batch
    last_step = min(schedule.total_steps, config.stop_after_step or schedule.total_steps)
    metrics = MetricsWriter(config.output / "metrics.jsonl", step) if engine.rank == 0 else None
    progress = TrainingProgress(config, run.topology, step, last_step) if engine.rank == 0 else None
    if progress:
        progress.start(notes)
    check_replicas(engine.parameters(), engine.coordinate.tensor, step)
    if metrics and step < last_step:
        metrics.write("event", step=step, event="resumed" if step else "started", topology=str(run.topology))
    batches = micro_batches(
        run.training,
        samples,
        batch.global_batch_size,
        batch.micro_batch_size,
        engine.coordinate.data,
        run.topology.data,
        _arrange(run, "train"),
    )
    while step < last_step:
        started = time.perf_counter()
        first_sample = int(run.training.skipped.samples_at(samples))
        sequence_length = int(run.training.lengths(first_sample)[0])
        engine.set_sequence_length(sequence_length)
        rate = learning_rate(
            step,
            peak=config.optimizer.learning_rate,
            warmup_steps=schedule.warmup_steps,
            total_steps=schedule.total_steps,
            minimum_ratio=schedule.minimum_learning_rate_ratio,
        )
        try:
            result = engine.train_step(batches, rate)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"step {step + 1}, {batch.global_batch_size} samples from {first_sample}: {error}. The update was "
                "not applied and saved checkpoints are untouched: lower optimizer.learning_rate and start again, or "
                "look at these samples"
            ) from None
        step += 1
        samples += batch.global_batch_size
        seconds = time.perf_counter() - started
        if metrics and progress:
            line: dict[str, Any] = {
                "step": step,
                "consumed_samples": samples,
                "consumed_tokens": run.training.tokens_before(samples),
                "loss": result.loss,
                "gradient_norm": result.gradient_norm,
                "learning_rate": rate,
                "tokens_per_second": batch.global_batch_size * sequence_length / seconds,
                "step_seconds": seconds,
            }
            metrics.write("train", **line)
            progress.step(line)
        if run.held_out and (step % config.evaluation.every_steps == 0 or step == last_step):
            loss, tokens = evaluate(run, run.held_out)
            if metrics and progress:
                metrics.write("evaluation", step=step, loss=loss, perplexity=math.exp(min(loss, 700.0)), tokens=tokens)
                progress.evaluation(step, loss)
        if step % config.monitor.replicas_every_steps == 0:
            check_replicas(engine.parameters(), engine.coordinate.tensor, step)
        if step % config.checkpoint.every_steps == 0 or step == last_step:
            started = time.perf_counter()
            # Phases may be added later, for samples that are not reached yet: the digest is of what was.
            digest = run.training.digest(before=int(run.training.skipped.samples_at(samples)))
            facts = {**run.facts, "data_digest": digest}
            folder = save_checkpoint(
                engine,
                config.output / "checkpoints",
                step,
                samples,
                facts,
                config.checkpoint.keep_last,
                config.checkpoint.keep_every_steps,
            )
            if metrics and progress:
                metrics.write(
                    "event", step=step, event="saved", checkpoint=folder.name, seconds=time.perf_counter() - started
                )
                progress.saved(folder)
    if progress:
        progress.finish()
    if metrics:
        metrics.close()


def _arrange(run: Run, split: str) -> Arrange | None:
    config = run.config
    return arrange(config.objective, config.seed, split, two_dimensional=config.model.positions == "learned_2d")


def evaluate(run: Run, held_out: SampleReader) -> tuple[float, int]:
    """Mean loss over the first batches of the held-out part, the same ones each time; and how many tokens they have."""
    batch = run.config.batch
    assert held_out.sample_count is not None
    count = min(run.config.evaluation.batches, held_out.sample_count // batch.global_batch_size)
    batches = micro_batches(
        held_out,
        0,
        batch.global_batch_size,
        batch.micro_batch_size,
        run.engine.coordinate.data,
        run.topology.data,
        _arrange(run, "heldout"),
    )
    run.engine.set_sequence_length(run.config.data.sequence_length)
    loss = run.engine.evaluate(batches, count * run.config.accumulation_steps(run.topology.data))
    return loss, count * batch.global_batch_size * run.config.data.sequence_length
