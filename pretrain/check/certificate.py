"""The certificate of a run's parallelism: its tiny twin computes what one process computes, and a fault would show.

Everything happens in the run's own processes, before its model is built. The twin's process groups, memory and random
draws leave no trace: the run that follows has the bits of one without the check.
"""

from __future__ import annotations

import gc
import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from foundation.atomic_files import write_json
from foundation.progress import Progress, format_seconds, summary_table
from foundation.version import program
from pretrain.check.comparison import gradient_differences, own_part, rounding_bound, update_differences
from pretrain.check.reference import Reference
from pretrain.check.samples import RandomSamples
from pretrain.check.twin import twin_config
from pretrain.checkpoint.layout import step_folder
from pretrain.checkpoint.load import load_checkpoint
from pretrain.checkpoint.read import CheckpointReader
from pretrain.checkpoint.save import CheckpointWriter
from pretrain.config import PARITY_FILE, TrainConfig
from pretrain.data.objective import Batch
from pretrain.device import local_device
from pretrain.engine.engine import Engine, StepResult
from pretrain.engine.faults import FAULTS, Fault
from pretrain.engine.library import versions
from pretrain.launch.agreement import from_first_rank, gathered
from pretrain.monitor.replicas import ReplicaDriftError
from pretrain.topology import Topology

CHECKPOINT_FOLDER = ".check"
"""Folder inside a run's, for the twin's checkpoint while the check runs."""
NO_UPDATE = -1.0
"""A gradient norm limit that every norm exceeds, so that a step's update is dropped."""
STEPS_BESIDE_FAULTS = 5
ROUNDINGS = 8
"""Computations by one process in bf16 that tell how far rounding alone moves a gradient, beside the reference."""
FURTHER_THAN_ROUNDING = 4
"""Distances of that size which a gradient may be away from the reference: two, because both are rounded, and twice as
many because a few computations seldom see the largest one. The planted faults are at 10 and more."""


@dataclass(frozen=True)
class Row:
    """One line of a certificate.

    Attributes:
        what: what was compared, or the fault that was planted.
        verdict: "equal" or "DIFFERENT"; for a fault "detected", "MISSED" or "not applicable".
        difference: largest relative difference found; None where bits were compared, or nothing was.
        bound: largest one that rounding explains; None as above.
        note: where the difference is, or why a fault is not applicable.
    """

    what: str
    verdict: str
    difference: float | None = None
    bound: float | None = None
    note: str = ""

    @property
    def is_fine(self) -> bool:
        return self.verdict in ("equal", "detected", "not applicable")


@dataclass(frozen=True)
class Certificate:
    """Result of a check.

    Attributes:
        topology: of the run.
        precision: of the run, and the twin.
        twin: shape of the twin, as text.
        parameters: number of parameters whose gradients were compared.
        seconds: time of the check, without the start of the processes.
    """

    topology: str
    precision: str
    twin: str
    parameters: int
    seconds: float
    rows: tuple[Row, ...] = field(default=())

    @property
    def passed(self) -> bool:
        return all(row.is_fine for row in self.rows)

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        detected = sum(row.verdict == "detected" for row in self.rows)
        if self.passed:
            return f"{self.topology} computes what one process does, and each of {detected} planted faults was detected"
        return "; ".join(f"{row.what}: {row.verdict.lower()}" for row in self.rows if not row.is_fine)


class ParityError(ArithmeticError):
    """The run's twin does not compute what one process computes, or a planted fault was not noticed."""


def check(config: TrainConfig, topology: Topology) -> Certificate:
    """Check a run's parallelism, and write the certificate into its folder. Collective.

    Args:
        config: settings of the run, with degrees that fit `topology`.
    """
    started = time.perf_counter()
    with without_traces():
        twin = twin_config(config, topology)
        rows = _compared_with_one_process(twin, topology, config.output / CHECKPOINT_FOLDER)
    model = twin.model
    shape = (
        f"{model.family}, {model.layers} layers of {model.hidden_size}, {model.attention_heads} heads of "
        f"{model.head_size}, {twin.batch.global_batch_size} samples of {twin.data.sequence_length} tokens"
    )
    seconds = from_first_rank(time.perf_counter() - started)
    parameters = len(twin.trained_shapes)
    certificate = Certificate(str(topology), twin.precision, shape, parameters, round(seconds, 1), rows)
    if dist.get_rank() == 0:
        entries = {**asdict(certificate), "passed": certificate.passed, "program": program(), "versions": versions()}
        write_json(config.output / PARITY_FILE, entries)
    return certificate


def _compared_with_one_process(twin: TrainConfig, topology: Topology, folder: Path) -> tuple[Row, ...]:
    """Everything that is compared, in a function of its own, after which nothing refers to the twin's memory."""
    steps = STEPS_BESIDE_FAULTS + len(FAULTS)
    with ExitStack() as stack:
        progress = None
        if dist.get_rank() == 0:
            progress = stack.enter_context(Progress(f"check of {topology}", steps, "steps of a tiny model"))
        subject = _Subject(twin, topology, lambda: progress.advance() if progress else None)
        stack.callback(subject.close)
        return (
            *subject.compare_gradients(),
            *subject.plant_faults(),
            *subject.compare_update(),
            *subject.compare_checkpoint(folder),
        )


def require_parity(config: TrainConfig, topology: Topology) -> Certificate:
    """`check`, whose table rank 0 prints. Collective.

    Raises:
        ParityError: on every rank: the check has failed.
    """
    certificate = check(config, topology)
    if dist.get_rank() == 0:
        show(certificate)
    if not certificate.passed:
        raise ParityError(
            f"check: {certificate.verdict}. Nothing was trained; {config.output / PARITY_FILE} has the numbers"
        )
    return certificate


def show(certificate: Certificate) -> None:
    """Print a certificate as a table."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.1e}"

    rows = [(row.what, row.verdict, number(row.difference), number(row.bound), row.note) for row in certificate.rows]
    summary_table("", rows, ("what", "verdict", "difference", "bound", "where"))
    print(f"twin: {certificate.twin}, {certificate.precision}; {certificate.parameters} parameters compared")
    outcome = "passed" if certificate.passed else "FAILED"
    print(f"{outcome} in {format_seconds(certificate.seconds)}: {certificate.verdict}", flush=True)


@dataclass(frozen=True)
class _Difference:
    """A relative difference, and the largest one that rounding explains."""

    what: str
    size: float
    bound: float
    where: str = ""

    @property
    def excess(self) -> float:
        """The difference relative to its bound; infinite where a number is NaN."""
        return math.inf if math.isnan(self.size) else self.size / self.bound


class _Subject:
    """The twin's engine under the run's topology, beside the twin in one process."""

    def __init__(self, twin: TrainConfig, topology: Topology, advance: Callable[[], object]) -> None:
        self._config, self._topology, self._advance = twin, topology, advance
        self._samples = RandomSamples(twin)
        self._reference = Reference(twin, local_device())
        self._engine = Engine(twin, topology)
        self._fill_weights()
        self._found: dict[str, torch.Tensor] = {}
        self._engine.before_update(lambda: self._found.update(self._engine.gradients()))
        self._loss, self._gradients = self._reference.gradients(self._samples)
        self._bound = rounding_bound(twin.precision, twin.model.layers)
        self._bounds = {
            name: max(self._bound, FURTHER_THAN_ROUNDING * own)
            for name, own in self._rounding_of_the_reference().items()
        }
        self._advance()

    def close(self) -> None:
        """Let the twin's memory be freed."""
        self._engine.close()

    def compare_gradients(self) -> Iterator[Row]:
        """Loss and every gradient of a step whose update is dropped."""
        yield from map(_compared, self._step_differences())

    def plant_faults(self) -> Iterator[Row]:
        """A step with each fault: its loss or a gradient must be beyond the bound."""
        for fault in FAULTS:
            absences = gathered(fault.absence(self._engine))
            what = f"fault: {fault.name}"
            if all(absences):
                self._advance()
                yield Row(what, "not applicable", note=absences[0])
                continue
            with fault.plant(self._engine):
                differences = list(self._step_differences(fault))
            worst = max(differences, key=lambda difference: difference.excess)
            verdict = "detected" if worst.excess > 1 else "MISSED"
            yield Row(what, verdict, worst.size, worst.bound, worst.where or worst.what)

    def compare_update(self) -> Iterator[Row]:
        """One update: gradients clipped, and AdamW."""
        rate = self._config.optimizer.learning_rate
        before = {fragment.name: fragment.states["weight"].clone() for fragment in self._engine.fragments()}
        self._step(rate, math.inf)
        expected = self._reference.update(self._gradients, rate)
        yield _compared(self._worst("one update", update_differences(self._engine, before, expected)))

    def compare_checkpoint(self, folder: Path) -> Iterator[Row]:
        """A checkpoint that is saved, loaded over other values, and gone on from."""
        engine = self._engine
        writer = CheckpointWriter(engine, folder)
        facts = {"config": self._config.model_dump(mode="json"), "data_digest": "none", "versions": versions()}
        try:
            writer.save(1, self._config.batch.global_batch_size, facts)
        except ReplicaDriftError as error:
            yield _same_bits("replicated weights, bits", False, str(error).splitlines()[1].strip())
            return
        writer.wait()
        saved = self._state()
        next_step = self._step(0.0, NO_UPDATE)
        for fragment in engine.fragments():
            for values in fragment.states.values():
                values.mul_(1.5).add_(1)
        engine.restored(0)
        load_checkpoint(engine, CheckpointReader(step_folder(folder, 1)))
        restored = self._state()
        other = [name for name, values in saved.items() if not torch.equal(values, restored[name])]
        other += ["number of updates"] if engine.updates != 1 else []
        all_others = [name for names in gathered(other) for name in names]
        yield _same_bits("checkpoint loaded, bits", not all_others, ", ".join(all_others[:2]))
        if local_device().type == "cuda" and not self._config.deterministic:
            self._advance()
        else:
            again = self._step(0.0, NO_UPDATE)
            is_same = (again.loss, again.gradient_norm) == (next_step.loss, next_step.gradient_norm)
            yield _same_bits("step after loading, bits", is_same)
        dist.barrier()
        if engine.rank == 0:
            shutil.rmtree(folder)

    def _rounding_of_the_reference(self) -> dict[str, float]:
        """Largest relative difference, of the reference's gradients and of some that round otherwise, from those in
        fp32. One of them is no measure: a single sample whose gradients nearly cancel decides, by which way it rounds.
        Collective: the ranks share the work."""
        if self._config.precision == "fp32":
            return dict.fromkeys(self._gradients, 0.0)
        exact = Reference(self._config.model_copy(update={"precision": "fp32"}), local_device())
        _, gradients = exact.gradients(self._samples)
        rounded = [self._gradients]
        for seed in range(dist.get_rank(), ROUNDINGS, dist.get_world_size()):
            with self._reference.rounded_again(seed):
                rounded.append(self._reference.gradients(self._samples)[1])
        largest = {
            name: max(float(torch.linalg.vector_norm(other[name] - whole)) for other in rounded)
            / float(torch.linalg.vector_norm(whole))
            for name, whole in gradients.items()
        }
        by_rank = gathered(largest)
        return {name: max(found[name] for found in by_rank) for name in largest}

    def _step_differences(self, fault: Fault | None = None) -> Iterator[_Difference]:
        """Differences of loss and gradients."""
        self._found.clear()
        result = self._step(0.0, NO_UPDATE, fault.change if fault else lambda batch: batch)
        loss = _larger_of(gathered(abs(result.loss / self._loss - 1)))
        yield _Difference("loss", loss, self._bound)
        yield self._worst("every gradient", gradient_differences(self._engine, self._found, self._gradients))

    def _worst(self, what: str, differences: Mapping[str, float]) -> _Difference:
        """The parameter whose difference is largest relative to its bound."""
        found = (_Difference(what, size, self._bounds[name], name) for name, size in differences.items())
        return max(found, key=lambda difference: difference.excess)

    def _step(
        self, learning_rate: float, norm_limit: float, change: Callable[[Batch], Batch] = lambda batch: batch
    ) -> StepResult:
        batches = self._samples.micro_batches(self._topology, self._engine.coordinate.data, change)
        result = self._engine.train_step(batches, learning_rate, norm_limit)
        self._advance()
        return result

    def _state(self) -> dict[str, torch.Tensor]:
        """Copies of the weights and moments that this rank updates, and of the weights that it computes with."""
        found = {
            f"{state} of {fragment.name}": values.clone()
            for fragment in self._engine.fragments()
            for state, values in fragment.states.items()
        }
        found.update({name: parameter.detach().clone() for name, parameter in self._engine.parameters()})
        return found

    def _fill_weights(self) -> None:
        """Give the engine the weights of the reference."""
        engine, weights = self._engine, self._reference.weights
        for name, parameter in engine.frozen_parameters():
            with torch.no_grad():
                parameter.copy_(own_part(engine, name, weights[name]))
        for fragment in engine.fragments():
            own = own_part(engine, fragment.name, weights[fragment.name]).reshape(-1)
            fragment.states["weight"].copy_(own[fragment.start : fragment.stop])
        engine.restored(0)


def _compared(found: _Difference) -> Row:
    return Row(found.what, "DIFFERENT" if found.excess > 1 else "equal", found.size, found.bound, found.where)


def _same_bits(what: str, are_equal: bool, where: str = "") -> Row:
    return Row(what, "equal" if are_equal else "DIFFERENT", note=where)


def _larger_of(values: list[float]) -> float:
    return math.nan if any(math.isnan(value) for value in values) else max(values)


@contextmanager
def without_traces() -> Iterator[None]:
    """Undo what building and training a model leaves in a process: process groups, random draws, memory. Collective."""
    groups = set(dist.distributed_c10d._world.pg_map)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    on_gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        gc.collect()  # an engine refers to itself
        for group in list(dist.distributed_c10d._world.pg_map):
            if group not in groups:
                dist.destroy_process_group(group)
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu)
            torch.cuda.empty_cache()
