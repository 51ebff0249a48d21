"""The loop: step, log, watch, evaluate, save."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from pretrain.checkpoint.layout import step_folder
from pretrain.checkpoint.load import load_checkpoint
from pretrain.checkpoint.read import CheckpointReader
from pretrain.checkpoint.save import CheckpointWriter
from pretrain.checkpoint.start import Start
from pretrain.config import TrainConfig
from pretrain.data.device_batches import on_device, pinned
from pretrain.data.objective import Batch
from pretrain.data.prefetch import prefetch
from pretrain.data.run_data import RunData
from pretrain.device import local_device
from pretrain.engine.engine import Engine, StepResult
from pretrain.evaluation.held_out import evaluate
from pretrain.evaluation.tasks import TaskEvaluation
from pretrain.launch.exit_codes import ExitCode
from pretrain.launch.stopping import StopRequests
from pretrain.model.attention_backend import describe_attention
from pretrain.model.compilation import is_compiled
from pretrain.monitor.flops import peak_flops, precision_notes
from pretrain.monitor.health import Health
from pretrain.monitor.profiling import StepProfiler
from pretrain.monitor.replicas import check_replicas
from pretrain.monitor.run_log import RunLog
from pretrain.schedule import StepPlan, learning_rate
from pretrain.spikes.first_look import SPIKES_FOLDER, write_skipped_samples
from pretrain.spikes.ledger import Entry, branch_name, rollbacks
from pretrain.spikes.watch import FACT, SpikeWatch


@dataclass(frozen=True)
class Run:
    """The parts of a run.

    Attributes:
        facts: written into every checkpoint: config, versions, and the origin of imported weights.
        tasks: None when none are configured.
    """

    config: TrainConfig
    engine: Engine
    data: RunData
    tasks: TaskEvaluation | None
    facts: dict[str, Any]
    spikes: SpikeWatch
    checkpoints: CheckpointWriter
    stops: StopRequests
    health: Health
    profiler: StepProfiler
    log: RunLog


class SpikeError(ArithmeticError):
    """The loss has spiked, and no automatic answer has helped."""


def train_loop(run: Run, start: Start) -> ExitCode:
    """Train until the last step, `stop_after_step`, or a request to stop.

    Returns:
        Exit code for the launcher.

    Raises:
        SpikeError: the loss has spiked, and no automatic answer has helped.
        FloatingPointError: NaN or infinity while `spikes.enabled` is false.
    """
    config, spikes, log = run.config, run.spikes, run.log
    step, samples, last_step = start.step, start.samples, config.last_step
    begin(run, start)
    batches = batches_from(run, samples)
    saved_step, stop = step, None
    may_stop = True  # a step finds out itself, in the collective that it needs anyway
    while step < last_step:
        run.health.begin("training", step + 1)
        stop = run.stops.agreed() if may_stop else None
        if stop is not None:
            break
        may_stop = True
        started = time.perf_counter()
        plan = plan_step(run, step, samples)
        step, samples = plan.step, plan.consumed_samples
        if plan.has_targets:
            with run.profiler.around(step):
                result = train_step(run, plan, batches)
            may_stop = result.stop_wanted
            log.step(plan, result, time.perf_counter() - started)
            answer = watch(run, plan, result)
            if answer is not None:
                step, samples = roll_back(run, answer)
                saved_step, batches, may_stop = step, batches_from(run, samples), True
                continue
            run.health.after_step(step)
        else:  # no loss to average: an update would be weight decay and old momentum alone
            spikes.remember(step, plan.first_sample)
            note = f"step {step}: no token of its {plan.batch_size} samples counts in the loss; no update"
            log.event(step, "nothing to learn", note=note, first_sample=plan.first_sample)
        if run.data.held_out and (step % config.evaluation.every_steps == 0 or step == last_step):
            run.health.begin("evaluating", step)
            log.evaluation(step, evaluate(run.engine, run.data.held_out))
            may_stop = True
        if run.tasks is not None and (step % config.evaluation.task_steps == 0 or step == last_step):
            log.tasks(step, run.tasks.evaluate(partial(run.health.begin, "evaluating", step)))
            may_stop = True
        if step % config.monitor.replicas_every_steps == 0:
            check_replicas(run.engine.trained_parameters(), run.engine.coordinate.tensor, step)
        if step % config.checkpoint.every_steps == 0 or step == last_step:
            save(run, step, samples)
            saved_step, may_stop = step, True
        log_saved(run)
    run.profiler.close(step)
    if stop is not None and saved_step != step:
        save(run, step, samples)
    run.health.begin("saving", step)
    run.checkpoints.wait()
    log_saved(run)
    if stop is not None:
        log.stopped(step, stop)
    if spikes.suspects:
        log.note("the last steps may be a spike: `altiplano spikes` shows what is known, docs/on_call.md helps")
    log.finish()
    return stop.exit_code if stop is not None else ExitCode.DONE


def begin(run: Run, start: Start) -> None:
    """Announce the run, compare the replicas, and save a new run's initial weights. Collective."""
    config, engine, log = run.config, run.engine, run.log
    peak = peak_flops(config)
    notes = [*start.notes, *precision_notes(config), *([run.tasks.note] if run.tasks else [])]
    device = local_device()
    compiles = is_compiled(config.compile, device)
    if compiles or device.type == "cuda":
        compiled = "compiled to one graph a block" if compiles else "not compiled"
        notes.append(f"attention: {describe_attention(config, device)}; {compiled}")
    log.start(notes, peak)
    check_replicas(engine.parameters(), engine.coordinate.tensor, start.step)
    if start.step < config.last_step:
        log.event(
            start.step,
            "resumed" if start.step else "started",
            topology=str(engine.topology),
            peak_flops_per_device=peak.flops_per_second,
            peak_source=peak.source,
            time=time.time(),
        )
    if start.is_new and run.spikes.enabled:
        save(run, start.step, start.samples)  # a spike before the first checkpoint needs one to go back to


def plan_step(run: Run, step: int, samples: int) -> StepPlan:
    """The step after `step` finished steps and `samples` consumed samples."""
    config, training = run.config, run.data.training
    first_sample, batch_size = int(training.skipped.samples_at(samples)), config.batch.sizes.at(samples)
    rate = learning_rate(step, config.batch.sizes, config.optimizer.learning_rate, config.schedule)
    return StepPlan(
        step=step + 1,
        first_sample=first_sample,
        batch_size=batch_size,
        sequence_length=int(training.lengths(first_sample)[0]),
        phase=training.phase_at(first_sample),
        has_targets=run.data.batches.has_targets(samples, batch_size),
        learning_rate=run.spikes.rate_factor(step + 1) * rate,
        consumed_samples=samples + batch_size,
        consumed_tokens=training.tokens_before(samples + batch_size),
    )


def train_step(run: Run, plan: StepPlan, batches: Iterator[Batch]) -> StepResult:
    """Forward, backward and update over one global batch. Collective.

    Raises:
        FloatingPointError: NaN or infinity while `spikes.enabled` is false.
    """
    run.engine.set_sequence_length(plan.sequence_length)
    norm_limit = run.spikes.norm_limit(plan.step, plan.batch_size)
    result = run.engine.train_step(batches, plan.learning_rate, norm_limit, plan.batch_size, run.stops.is_wanted)
    if not (result.is_finite or run.spikes.enabled):
        raise FloatingPointError(
            f"step {plan.step}, {plan.batch_size} samples from {plan.first_sample}: loss {result.loss}, gradient norm "
            f"{result.gradient_norm}: not finite. The update was not applied and saved checkpoints are untouched: set "
            "spikes.enabled=true, lower optimizer.learning_rate and start again, or inspect these samples"
        )
    return result


def watch(run: Run, plan: StepPlan, result: StepResult) -> Entry | None:
    """Check a finished step for a loss spike. Collective when there is an answer.

    Returns:
        The answer to a spike that does not heal: a rollback or a stop.
    """
    verdict = run.spikes.observe(
        plan.step,
        result.loss,
        result.signs,
        first_sample=plan.first_sample,
        batch_size=plan.batch_size,
        phase=plan.phase,
    )
    if verdict.state != "persistent":
        return None
    run.checkpoints.wait()  # the answer depends on which checkpoints there are
    log_saved(run)
    return run.spikes.answer(verdict, plan.step, plan.batch_size)


def batches_from(run: Run, samples: int) -> Iterator[Batch]:
    """This rank's micro-batches after `samples` consumed samples, on its device; those of the next step are prepared in
    advance."""
    device = local_device()
    batches = pinned(run.data.batches.training(samples, run.config.batch.sizes), device)
    return on_device(prefetch(batches, ahead=run.config.accumulation_steps(run.engine.topology.data)), device)


def save(run: Run, step: int, samples: int) -> None:
    """Begin to save a checkpoint from all ranks. Collective."""
    run.health.begin("saving", step)
    training = run.data.training
    facts = {
        **run.facts,
        # Only the plan of the samples so far: phases may be added later, for samples that are not reached yet.
        "data_digest": training.digest(before=training.reached(samples)),
        "skipped_samples": training.skipped.ranges,
        FACT: run.spikes.to_json(),
    }
    run.checkpoints.save(step, samples, facts)


def log_saved(run: Run) -> None:
    """Log the checkpoints that have become whole since the last call; stop after one that could not be written."""
    for saved in run.checkpoints.finished():
        run.log.saved(saved)
        run.health.after_save(saved.step, saved.folder)
    if run.checkpoints.failure is not None:  # stop now: the next save would raise it
        run.stops.request(run.checkpoints.failure, ExitCode.REFUSED)


def roll_back(run: Run, answer: Entry) -> tuple[int, int]:
    """Carry out the ledger's answer to a spike: load earlier weights, and skip a range of samples. Collective.

    Returns:
        Finished steps and consumed samples from which the run continues.

    Raises:
        SpikeError: the answer is to stop.
    """
    if answer.kind == "stop" or answer.to_step is None or answer.skipped is None:
        run.log.event(answer.step, "stopped", onset=answer.onset, reason=answer.reason)
        run.log.close()
        raise SpikeError(
            f"step {answer.step}: the loss has spiked since step {answer.onset} and the run stops: {answer.reason}. "
            f"See docs/on_call.md and `altiplano spikes {run.config.output}`"
        )
    run.health.begin("starting", answer.step)
    reader = CheckpointReader(step_folder(run.config.output / "checkpoints", answer.to_step))
    load_checkpoint(run.engine, reader)
    run.spikes.restore(reader.index.get(FACT))
    training = run.data.training
    training.skipped = training.skipped.and_then(*answer.skipped, position=reader.consumed_samples)
    branch = branch_name(len(rollbacks(run.spikes.entries)))
    run.log.rolled_back(answer, branch)
    if run.engine.rank == 0:
        folder = run.config.output / SPIKES_FOLDER / branch
        note = f"the skipped samples as text: altiplano spikes {run.config.output} --samples {branch}"
        try:
            remarkable = write_skipped_samples(training, answer, folder)
            run.log.event(answer.to_step, "first look", note=note, folder=str(folder), remarkable=remarkable)
        except (OSError, ValueError) as error:  # a report for a person must not stop a run that has just recovered
            run.log.event(answer.to_step, "no first look", reason=str(error))
    return reader.step, reader.consumed_samples
