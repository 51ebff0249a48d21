"""A training run from beginning to end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar, cast

import torch.distributed as dist

from foundation.atomic_files import digest, sha256_file
from foundation.configuration import write_resolved
from pretrain.checkpoint.layout import complete_checkpoints
from pretrain.checkpoint.load import check_same_past, check_same_run, load_checkpoint, load_weights
from pretrain.checkpoint.origin import STARTED_FROM, origin_of
from pretrain.checkpoint.read import CheckpointReader
from pretrain.checkpoint.same_tokenizer import check_same_tokenizer
from pretrain.checkpoint.save import CheckpointWriter
from pretrain.config import TrainConfig, check_vocabulary, check_world_size
from pretrain.data.batches import Batches
from pretrain.data.loader import SampleReader
from pretrain.data.mixture import Split, load_mixture
from pretrain.data.objective import Objective
from pretrain.data.skips import SkippedRanges
from pretrain.engine.engine import Engine
from pretrain.engine.library import versions
from pretrain.engine.processes import join_processes
from pretrain.launch.elastic import fit_processes
from pretrain.launch.exit_codes import ExitCode
from pretrain.launch.node_check import NodeError, check_device
from pretrain.launch.rendezvous import node_name
from pretrain.launch.run_lock import RunLock
from pretrain.launch.stopping import StopRequests, control_group
from pretrain.loop import HeldOut, Run, train_loop
from pretrain.monitor.health import Health
from pretrain.monitor.watchdog import Watchdog
from pretrain.monitor.weights_and_biases import WeightsAndBiases
from pretrain.spikes.watch import FACT, SpikeWatch, open_ledger
from pretrain.topology import Topology

COLLECTIVE_MARGIN_SECONDS = 300
"""Collectives give up later than the watchdog, which says more."""
T = TypeVar("T")


def train(config: TrainConfig) -> ExitCode:
    """Train, or go on with a run that was stopped: the newest whole checkpoint in the output folder is taken up.

    Called in every process of the launcher.

    Returns:
        What the process is to say to whoever started it.

    Raises:
        ValueError: on every rank, when a setting, the data or a checkpoint does not fit; says which and how.
        NodeError: on every rank, when some nodes cannot train and others can.
        SpikeError, FloatingPointError: see `train_loop`.
    """
    check_device()
    longest = max(config.monitor.hang.limits.values())
    world_size = join_processes(int(longest) + COLLECTIVE_MARGIN_SECONDS)
    exit_code = train_joined(fit_processes(config, world_size), world_size)
    dist.barrier()
    dist.destroy_process_group()
    return exit_code


def train_joined(config: TrainConfig, world_size: int) -> ExitCode:
    """`train` in processes that have found each other."""
    rank, hosts = dist.get_rank(), [""] * world_size
    dist.all_gather_object(hosts, node_name())
    attempt = _from_first_rank(datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%SZ"))
    with ExitStack() as stack:
        _agreed(lambda: stack.enter_context(RunLock(config.output)) if rank == 0 else None)
        stops = stack.enter_context(StopRequests(config.output, rank, control_group()))
        watchdog = stack.enter_context(Watchdog(config.output, rank, hosts, config.monitor.hang.limits, attempt))
        return _train(config, world_size, hosts, stops, watchdog)


def _train(config: TrainConfig, world_size: int, hosts: list[str], stops: StopRequests, watchdog: Watchdog) -> ExitCode:
    data_degree = check_world_size(config, world_size)
    topology = Topology(pipe=config.parallel.pipeline, data=data_degree, tensor=config.parallel.tensor)
    training, held_out_reader = _agreed(lambda: _open_data(config))
    settings = config.model_dump(mode="json")
    facts: dict[str, Any] = {"config": settings, "versions": versions()}
    _require_equal("configuration", digest(settings))
    _require_equal("token files or sample order", training.digest())
    _require_equal("library versions", digest(facts["versions"]))
    _require_equal("program code", code_digest())

    batches, held_out = _agreed(lambda: _make_batches(config, topology, training, held_out_reader))
    engine = Engine(config, topology)
    checkpoints = config.output / "checkpoints"
    ledger = _from_first_rank(_agreed(lambda: open_ledger(config.output) if engine.rank == 0 else []))
    spikes = SpikeWatch(config.spikes, config.output, engine.rank, ledger)
    training.skipped = SkippedRanges([*config.data.skipped_samples, *spikes.skipped])
    reader, complaints = _newest_whole(checkpoints)
    step, samples, origin = 0, 0, None
    if reader is not None:
        reached = training.reached(reader.consumed_samples)
        changes = _agreed(lambda: check_same_run(reader, settings, training.digest(before=reached)))
        _agreed(lambda: check_same_past(reader, training.skipped))
        load_checkpoint(engine, reader)
        spikes.restore(reader.index.get(FACT))
        step, samples = reader.step, reader.consumed_samples
        origin = origin_of(reader)
        complaints += [f"changed since {reader.path.name}: {change}" for change in changes]
    elif config.initial_weights is not None:
        start = _agreed(lambda: CheckpointReader(Path(config.initial_weights or "")))
        _agreed(start.verify)
        _agreed(lambda: check_same_tokenizer(start, training.mixture))
        load_weights(engine, start)
        origin = _agreed(lambda: origin_of(start))
        complaints.append(f"the weights are those of {start.path}")
    if origin is not None:
        facts[STARTED_FROM] = origin
    resolved = config.output / "config.resolved.yaml"
    _agreed(lambda: write_resolved(config, resolved) if engine.rank == 0 else None)
    keep = config.checkpoint
    writer = CheckpointWriter(engine, checkpoints, keep.keep_last, keep.keep_every_steps, background=keep.background)
    project = config.monitor.wandb_project if engine.rank == 0 else None
    board = _agreed(lambda: WeightsAndBiases(project, config.output, settings) if project else None)
    health = Health(config.monitor, engine, hosts, watchdog, stops)
    run = Run(config, topology, engine, batches, held_out, facts, spikes, writer, stops, health, board)
    return train_loop(run, step, samples, complaints)


def _open_data(config: TrainConfig) -> tuple[SampleReader, SampleReader | None]:
    mixture = load_mixture(Path(config.data.mixture))
    check_vocabulary(config, mixture.vocabulary_size)
    length = config.data.sequence_length
    training = SampleReader(mixture, length, config.seed, phases=config.data.phases)
    if training.has_loss_masks and config.objective.kind != "causal":
        raise ValueError(
            f"objective.kind: {config.objective.kind} cannot be trained on {mixture.path}: its token files have loss "
            "masks, which say of each token whether its prediction counts, and only causal samples predict each token"
        )
    if not any(entry.heldout for entry in mixture.datasets):
        return training, None
    return training, SampleReader(mixture, length, config.seed, "heldout")


def _make_batches(
    config: TrainConfig, topology: Topology, training: SampleReader, held_out: SampleReader | None
) -> tuple[Batches, HeldOut | None]:
    data_rank = topology.coordinate(dist.get_rank()).data

    def batches(reader: SampleReader, split: Split) -> Batches:
        model = config.model
        two_dimensional = model.positions == "learned_2d"
        objective = Objective(
            config.objective, config.seed, split, two_dimensional=two_dimensional, dropout=model.has_dropout
        )
        return Batches(reader, config.batch.micro_batch_size, data_rank, topology.data, objective)

    made = batches(training, "train")
    if held_out is None:
        return made, None
    measured = batches(held_out, "heldout")
    return made, HeldOut(measured, measured.held_out_parts(config.evaluation.batches * config.batch.global_batch_size))


def _newest_whole(checkpoints: Path) -> tuple[CheckpointReader | None, list[str]]:
    """The newest checkpoint that is whole, and which newer ones are not: each rank reads its part of the files and
    compares their checksums. Collective.

    Raises:
        ValueError: on every rank: there are checkpoints, and all are damaged.
    """
    folders = _from_first_rank(complete_checkpoints(checkpoints))
    complaints: list[str] = []
    for folder in folders:
        try:
            reader = _agreed(lambda folder=folder: CheckpointReader(folder))  # type: ignore[misc]
            _agreed(lambda reader=reader: reader.verify(dist.get_rank(), dist.get_world_size()))  # type: ignore[misc]
        except ValueError as error:
            complaints.append(f"passed over: {error}")
        else:
            return reader, complaints
    if folders:
        raise ValueError("no checkpoint is whole:\n  " + "\n  ".join(complaints))
    return None, []


def _agreed(function: Callable[[], T]) -> T:
    """The function's result; or, when it fails on any rank, the same error on all, so that none waits in vain."""
    failure: str | None = None
    result: Any = None
    try:
        result = function()
    except (ValueError, OSError) as error:
        failure = str(error)
    failures: list[tuple[str, str | None]] = [("", None)] * dist.get_world_size()
    dist.all_gather_object(failures, (node_name(), failure))
    messages = sorted({message for _, message in failures if message})
    if not messages:
        return cast(T, result)
    failed = {node for node, message in failures if message}
    fine = {node for node, _ in failures} - failed
    # What one rank does for all, it does on rank 0: that its node alone fails says nothing about the node.
    if fine and failures[0][0] not in failed:
        raise NodeError(sorted(failed), "; ".join(messages))
    raise ValueError("; ".join(messages))


def code_digest() -> str:
    """SHA-256 over our own modules that a training run is made of, names and contents."""
    root = Path(__file__).parents[1]
    files = [path for package in ("pretrain", "foundation", "data_prep") for path in (root / package).rglob("*.py")]
    return digest({str(path.relative_to(root)): sha256_file(path) for path in sorted(files)})


def _from_first_rank(value: T) -> T:
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _require_equal(what: str, fingerprint: str) -> None:
    """Refuse to train when a rank was started with something else than the others."""
    seen: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(seen, fingerprint)
    different = [rank for rank, value in enumerate(seen) if value != seen[0]]
    if different:
        raise ValueError(f"ranks {different} have another {what} than rank 0: give every node the same files")
