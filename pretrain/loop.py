"""The loop: step, log, watch, evaluate, save."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pretrain.checkpoint.layout import step_folder
from pretrain.checkpoint.load import load_checkpoint
from pretrain.checkpoint.read import CheckpointReader
from pretrain.checkpoint.save import CheckpointWriter
from pretrain.config import TrainConfig
from pretrain.data.batches import Batches, HeldOutPart
from pretrain.data.loader import SampleReader
from pretrain.data.objective import Batch
from pretrain.data.prefetch import prefetch
from pretrain.engine.engine import Engine
from pretrain.launch.exit_codes import ExitCode
from pretrain.launch.stopping import StopRequests
from pretrain.monitor.flops import Peak, hardware_flops_per_token, model_flops_per_token, peak_flops
from pretrain.monitor.goodput import Goodput
from pretrain.monitor.health import Health
from pretrain.monitor.metrics import MetricsWriter, read_metrics
from pretrain.monitor.progress import TrainingProgress
from pretrain.monitor.replicas import check_replicas
from pretrain.monitor.weights_and_biases import WeightsAndBiases
from pretrain.schedule import learning_rate
from pretrain.spikes.documents import write_skipped_samples
from pretrain.spikes.ledger import Entry, describe, rollbacks
from pretrain.spikes.watch import FACT, SpikeWatch
from pretrain.topology import Topology


@dataclass(frozen=True)
class HeldOut:
    """What is evaluated: the same samples each time, by dataset."""

    batches: Batches
    parts: list[HeldOutPart]


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over everything that counts in the evaluated samples, in nats; and number of targets.

    Attributes:
        datasets: loss and number of targets of each dataset.
    """

    loss: float
    tokens: int
    datasets: dict[str, tuple[float, int]]


@dataclass(frozen=True)
class Run:
    """What stays the same during a run.

    Attributes:
        facts: goes into every checkpoint: config and versions; the digest of the data is added to it.
    """

    config: TrainConfig
    topology: Topology
    engine: Engine
    batches: Batches
    held_out: HeldOut | None
    facts: dict[str, Any]
    spikes: SpikeWatch
    checkpoints: CheckpointWriter
    stops: StopRequests
    health: Health
    board: WeightsAndBiases | None = None

    @property
    def training(self) -> SampleReader:
        """The train samples."""
        return self.batches.reader


class SpikeError(ArithmeticError):
    """The loss has spiked, and nothing that could be done on its own has helped."""


def train_loop(run: Run, step: int, samples: int, notes: list[str]) -> ExitCode:
    """Train from `step` finished steps and `samples` consumed samples to the end, to `stop_after_step`, or until
    somebody asks to stop.

    Args:
        notes: what the person at the terminal should know before the first step.

    Returns:
        What the process is to say to whoever started it.

    Raises:
        SpikeError: the loss has spiked, and nothing that could be done on its own has helped.
        FloatingPointError: NaN or infinity, and nobody watches for spikes.
    """
    config, engine, spikes = run.config, run.engine, run.spikes
    schedule, sizes = config.schedule, config.batch.sizes
    last_step = min(schedule.total_steps, config.stop_after_step or schedule.total_steps)
    metrics = MetricsWriter(config.output / "metrics.jsonl", step, run.board) if engine.rank == 0 else None
    goodput = goodput_so_far(config, step) if engine.rank == 0 else None
    progress = TrainingProgress(config, run.topology, step, last_step) if engine.rank == 0 else None
    peak = peak_flops(config)
    if progress:
        progress.start(notes, peak)
    check_replicas(engine.parameters(), engine.coordinate.tensor, step)
    if metrics and step < last_step:
        event = "resumed" if step else "started"
        shares_of = {"peak_flops_per_device": peak.flops_per_second, "peak_source": peak.source}
        metrics.write("event", step=step, event=event, topology=str(run.topology), **shares_of, time=time.time())
    if step == 0 and spikes.enabled:
        save(run, step, samples)  # a spike before the first checkpoint needs one to go back to
    batches = batches_from(run, samples)
    saved_step, stop = step, None
    while step < last_step:
        run.health.begin("training", step + 1)
        stop = run.stops.agreed()
        if stop is not None:
            break
        started = time.perf_counter()
        first_sample = int(run.training.skipped.samples_at(samples))
        sequence_length = int(run.training.lengths(first_sample)[0])
        engine.set_sequence_length(sequence_length)
        batch_size = sizes.at(samples)
        if not run.batches.has_targets(samples, batch_size):
            # There is no loss to average, and an update would be weight decay and old momentum alone.
            step += 1
            samples += batch_size
            spikes.remember(step, first_sample)
            if metrics and progress:
                metrics.write("event", step=step, event="nothing to learn", first_sample=first_sample)
                progress.note(f"step {step}: no token of its {batch_size} samples counts in the loss; no update")
            saved_step = finish_step(run, step, samples, last_step, metrics, progress) or saved_step
            continue
        rate = spikes.rate_factor(step + 1) * learning_rate(
            step,
            sizes,
            peak=config.optimizer.learning_rate,
            warmup_steps=schedule.warmup_steps,
            total_steps=schedule.total_steps,
            minimum_ratio=schedule.minimum_learning_rate_ratio,
        )
        result = engine.train_step(batches, rate, spikes.norm_limit(step + 1, batch_size), batch_size)
        if not (result.is_finite or spikes.enabled):
            raise FloatingPointError(
                f"step {step + 1}, {batch_size} samples from {first_sample}: loss {result.loss}, gradient "
                f"norm {result.gradient_norm}: not finite. The update was not applied and saved checkpoints are "
                "untouched: set spikes.enabled=true, lower optimizer.learning_rate and start again, or look at these "
                "samples"
            )
        step += 1
        samples += batch_size
        seconds = time.perf_counter() - started
        if metrics and progress and goodput:
            goodput.step(step, seconds, counts=result.applied)
            line: dict[str, Any] = {
                "step": step,
                "consumed_samples": samples,
                "consumed_tokens": run.training.tokens_before(samples),
                "first_sample": first_sample,
                "global_batch_size": batch_size,
                "loss": result.loss,
                **result.signs,
                "learning_rate": rate,
                **speed(config, run.topology, batch_size, sequence_length, seconds, peak),
                "goodput": goodput.share(time.time()),
                "time": time.time(),
            }
            metrics.write("train", **line, **({} if result.applied else {"dropped": True}))
            progress.step(line)
        phase = run.training.phase_at(first_sample)
        verdict = spikes.observe(
            step, result.loss, result.signs, first_sample=first_sample, batch_size=batch_size, phase=phase
        )
        if verdict.state == "persistent":
            run.checkpoints.wait()  # the answer looks at what is there
            tell_saved(run, metrics, progress)
            step, samples = roll_back(run, spikes.answer(verdict, step, batch_size), metrics, progress)
            saved_step = step
            if goodput:
                goodput.roll_back(step)
            batches = batches_from(run, samples)
            continue
        run.health.after_step(step, metrics, progress)
        saved_step = finish_step(run, step, samples, last_step, metrics, progress) or saved_step
    if stop is not None and saved_step != step:
        save(run, step, samples)
    run.health.begin("saving", step)
    run.checkpoints.wait()
    tell_saved(run, metrics, progress)
    if stop is not None and metrics and progress:
        metrics.write("event", step=step, event="stopped", reason=stop.reason, exit_code=int(stop.exit_code))
        progress.stopped(step, stop)
    if progress and spikes.suspects:
        progress.note("the last steps may be a spike: `altiplano spikes` shows what is known, docs/on_call.md helps")
    if progress:
        progress.finish()
    if metrics:
        metrics.close()
    return stop.exit_code if stop is not None else ExitCode.DONE


def finish_step(
    run: Run,
    step: int,
    samples: int,
    last_step: int,
    metrics: MetricsWriter | None,
    progress: TrainingProgress | None,
) -> int | None:
    """Evaluate, compare replicas and save where this step is due for it. Collective.

    Returns:
        The step, if it is being saved.
    """
    config, engine, saved = run.config, run.engine, None
    if run.held_out and (step % config.evaluation.every_steps == 0 or step == last_step):
        run.health.begin("evaluating", step)
        found = evaluate(run, run.held_out)
        if metrics and progress:
            metrics.write(
                "evaluation",
                step=step,
                loss=found.loss,
                perplexity=math.exp(min(found.loss, 700.0)),
                tokens=found.tokens,
                **{f"loss/{name}": loss for name, (loss, _) in found.datasets.items()},
                **{f"tokens/{name}": tokens for name, (_, tokens) in found.datasets.items()},
            )
            progress.evaluation(step, found.loss)
    if step % config.monitor.replicas_every_steps == 0:
        check_replicas(engine.parameters(), engine.coordinate.tensor, step)
    if step % config.checkpoint.every_steps == 0 or step == last_step:
        save(run, step, samples)
        saved = step
    tell_saved(run, metrics, progress)
    if run.checkpoints.failure is not None:  # rather than train on until the next one, which says so too
        run.stops.request(run.checkpoints.failure, ExitCode.REFUSED)
    return saved


def speed(
    config: TrainConfig, topology: Topology, batch_size: int, sequence_length: int, seconds: float, peak: Peak
) -> dict[str, float]:
    """Tokens and floating-point operations per second of a step, over all devices and of one; and the shares of the
    device's peak: MFU of what the model needs, HFU of what is computed with recomputation."""
    tokens_per_second = batch_size * sequence_length / seconds
    of_one = tokens_per_second / topology.world_size
    model_flops = of_one * model_flops_per_token(config.model, sequence_length)
    hardware_flops = of_one * hardware_flops_per_token(config.model, sequence_length, config.recomputation)
    return {
        "tokens_per_second": tokens_per_second,
        "tokens_per_second_per_device": of_one,
        "model_flops_per_second_per_device": model_flops,
        "hardware_flops_per_second_per_device": hardware_flops,
        "step_seconds": seconds,
        "mfu": model_flops / peak.flops_per_second,
        "hfu": hardware_flops / peak.flops_per_second,
    }


def goodput_so_far(config: TrainConfig, step: int) -> Goodput:
    """From the run's metrics up to the checkpoint of `step` that it goes on from; a new run begins now."""
    path = config.output / "metrics.jsonl"
    return Goodput(read_metrics(path) if step and path.is_file() else [], time.time())


def batches_from(run: Run, samples: int) -> Iterator[Batch]:
    """This rank's micro-batches of a run that has consumed `samples` samples, those of the next step made ahead."""
    batches = run.batches.training(samples, run.config.batch.sizes)
    return prefetch(batches, ahead=run.config.accumulation_steps(run.topology.data))


def save(run: Run, step: int, samples: int) -> None:
    """Begin to save a checkpoint from all ranks. Collective."""
    run.health.begin("saving", step)
    facts = {
        **run.facts,
        # Phases may be added later, for samples that are not reached yet: the digest is of what was.
        "data_digest": run.training.digest(before=run.training.reached(samples)),
        "skipped_samples": run.training.skipped.ranges,
        FACT: run.spikes.to_json(),
    }
    run.checkpoints.save(step, samples, facts)


def tell_saved(run: Run, metrics: MetricsWriter | None, progress: TrainingProgress | None) -> None:
    """Say which checkpoints have become whole since the last time."""
    for saved in run.checkpoints.finished():
        if metrics and progress:
            metrics.write(
                "event",
                step=saved.step,
                event="saved",
                checkpoint=saved.folder.name,
                seconds=saved.seconds,
                blocked_seconds=saved.blocked_seconds,
                in_background=saved.in_background,
            )
            progress.saved(saved.folder)
            run.health.after_save(saved.step, saved.folder, metrics, progress)


def roll_back(
    run: Run, answer: Entry, metrics: MetricsWriter | None, progress: TrainingProgress | None
) -> tuple[int, int]:
    """Do what the ledger says: earlier weights into the running engine, and a range of samples out of the plan.

    Collective.

    Returns:
        Steps done and samples consumed from where the run goes on.

    Raises:
        SpikeError: the ledger says stop.
    """
    if answer.kind == "stop" or answer.to_step is None or answer.skipped is None:
        if metrics:
            metrics.write("event", step=answer.step, event="stopped", onset=answer.onset, reason=answer.reason)
            metrics.close()
        raise SpikeError(
            f"step {answer.step}: the loss has spiked since step {answer.onset} and the run stops: {answer.reason}. "
            f"See docs/on_call.md and `altiplano spikes {run.config.output}`"
        )
    run.health.begin("starting", answer.step)
    reader = CheckpointReader(step_folder(run.config.output / "checkpoints", answer.to_step))
    load_checkpoint(run.engine, reader)
    run.spikes.restore(reader.index.get(FACT))
    run.training.skipped = run.training.skipped.and_then(*answer.skipped, position=reader.consumed_samples)
    if metrics and progress:
        branch = f"abandoned-{len(rollbacks(run.spikes.entries)):02d}"
        metrics.roll_back(answer.to_step, branch)
        told = answer.model_dump(mode="json", exclude_none=True, exclude={"kind", "step", "time"})
        metrics.write("event", step=answer.to_step, event="rolled back", from_step=answer.step, branch=branch, **told)
        progress.rolled_back(answer.to_step, describe(answer))
        folder = run.config.output / "spikes" / branch
        try:
            remarkable = write_skipped_samples(run.training, answer, folder)
            metrics.write("event", step=answer.to_step, event="first look", folder=str(folder), remarkable=remarkable)
        except (OSError, ValueError) as error:  # a page for a person must not stop a run that has just been mended
            metrics.write("event", step=answer.to_step, event="no first look", reason=str(error))
    return reader.step, reader.consumed_samples


def evaluate(run: Run, held_out: HeldOut) -> Evaluation:
    """Mean loss over the evaluated held-out samples, in total and by dataset. Collective."""
    run.engine.set_sequence_length(run.config.data.sequence_length)
    losses = {part.dataset: run.engine.evaluate(*held_out.batches.evaluation(part)) for part in held_out.parts}
    return Evaluation(
        sum(part.weight * losses[part.dataset] for part in held_out.parts)
        / sum(part.weight for part in held_out.parts),
        sum(part.targets for part in held_out.parts),
        {part.dataset: (losses[part.dataset], part.targets) for part in held_out.parts},
    )
