"""A training run from beginning to end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from typing import Any

import torch.distributed as dist

from foundation.atomic_files import digest
from foundation.configuration import write_resolved
from foundation.version import code_digest
from pretrain.check.certificate import require_parity
from pretrain.checkpoint.origin import STARTED_FROM
from pretrain.checkpoint.save import CheckpointWriter
from pretrain.checkpoint.start import load_start
from pretrain.checkpoint.whole import BASE
from pretrain.config import RESOLVED_FILE, TrainConfig, check_world_size
from pretrain.data.epochs import with_steps
from pretrain.data.run_data import RunData, open_data
from pretrain.data.withdrawn import record_withdrawn
from pretrain.device import use_fixed_order, use_whole_precision
from pretrain.engine.engine import Engine
from pretrain.engine.library import versions
from pretrain.engine.processes import join_processes
from pretrain.evaluation.tasks import load_run_tasks, plan_run_tasks
from pretrain.launch.agreement import agreed, from_first_rank, gathered, require_equal
from pretrain.launch.elastic import fit_processes
from pretrain.launch.exit_codes import ExitCode
from pretrain.launch.node_check import check_device
from pretrain.launch.rendezvous import node_name
from pretrain.launch.run_lock import RunLock
from pretrain.launch.stopping import StopRequests, control_group
from pretrain.loop import Run, train_loop
from pretrain.monitor.health import Health
from pretrain.monitor.profiling import StepProfiler
from pretrain.monitor.run_log import RunLog, open_run_log
from pretrain.monitor.watchdog import Watchdog
from pretrain.spikes.watch import FACT, SpikeWatch
from pretrain.topology import Topology

COLLECTIVE_MARGIN_SECONDS = 300
"""Seconds by which collectives time out later than the watchdog, whose report says more."""


def train(config: TrainConfig) -> ExitCode:
    """Train, or resume a run that was stopped from the newest whole checkpoint in its output folder.

    Called in every process of the launcher.

    Returns:
        Exit code for the launcher.

    Raises:
        ValueError: on every rank, when a setting, the data or a checkpoint does not fit; says which and how.
        NodeError: on every rank, when some nodes cannot train and others can.
        ParityError: on every rank: `check` is set and has failed.
        SpikeError, FloatingPointError: see `train_loop`.
    """
    config, topology = join(config)
    config = agreed(lambda: with_steps(config))
    rank = dist.get_rank()
    with supervised(config, rank) as (hosts, stops, watchdog):
        facts = agree_on_facts(config)
        if config.check:
            require_parity(config, topology)
        data = agreed(lambda: open_data(config, topology, rank))
        require_equal("token files or sample order", data.training.digest())
        loaded_tasks = load_run_tasks(config, rank)

        engine = Engine(config, topology)
        spikes = SpikeWatch(config.spikes, config.output, rank)
        data.skip(config.data.skipped_samples, spikes.skipped)
        start = load_start(engine, data.training)
        if start.index:
            spikes.restore(start.index.get(FACT))
        if start.origin is not None:
            facts[STARTED_FROM] = start.origin
        if start.base is not None:
            facts[BASE] = start.base
        tasks = plan_run_tasks(config, engine, loaded_tasks, data.training.mixture, start)

        agreed(lambda: write_resolved(config, config.output / RESOLVED_FILE) if rank == 0 else None)
        keep, folder = config.checkpoint, config.output / "checkpoints"
        checkpoints = CheckpointWriter(
            engine, folder, keep.keep_last, keep.keep_every_steps, background=keep.background
        )
        log = agreed(lambda: open_run_log(config, topology, start.step, rank))
        agreed(lambda: _say_withdrawn(config, data, start.step, log) if rank == 0 else None)
        health = Health(config.monitor, engine, hosts, watchdog, stops, log)
        profiler = agreed(lambda: StepProfiler(config.monitor.profile, config.output, engine, log))
        run = Run(config, engine, data, tasks, facts, spikes, checkpoints, stops, health, profiler, log)
        exit_code = train_loop(run, start)
    dist.barrier()
    dist.destroy_process_group()
    return exit_code


def _say_withdrawn(config: TrainConfig, data: RunData, step: int, log: RunLog) -> None:
    """Record which documents were taken out of the token files, and say so."""
    for name, (documents, tokens) in record_withdrawn(config.output, data.training, step).items():
        note = (
            f"{documents:,} documents of {name} were taken out of its token files: the loss does not count their "
            f"{tokens:,} tokens"
        )
        log.event(step, "withdrawn", note=note, dataset=name, documents=documents, tokens=tokens)


def check_parallelism(config: TrainConfig) -> ExitCode:
    """Check what `check: true` checks, and nothing else. Called in every process of the launcher.

    Raises:
        ValueError, NodeError: see `train`.
        ParityError: on every rank: the check has failed.
    """
    config, topology = join(config)
    agree_on_facts(config)
    require_parity(config, topology)
    dist.barrier()
    dist.destroy_process_group()
    return ExitCode.DONE


def join(config: TrainConfig) -> tuple[TrainConfig, Topology]:
    """Join the launcher's processes. Collective.

    Returns:
        The configuration with the degrees that fit these processes, and their mesh.
    """
    use_whole_precision()
    if config.deterministic:
        use_fixed_order()
    check_device()
    world_size = join_processes(int(max(config.monitor.hang.limits.values())) + COLLECTIVE_MARGIN_SECONDS)
    config = fit_processes(config, world_size)
    data_size, parallel = check_world_size(config, world_size), config.parallel
    return config, Topology(parallel.pipeline, data_size, parallel.tensor, parallel.context)


def agree_on_facts(config: TrainConfig) -> dict[str, Any]:
    """Facts for the checkpoints: configuration and library versions, once they and the code are the same on all ranks.

    Collective.

    Raises:
        ValueError: on every rank; says on which ranks something differs.
    """
    facts: dict[str, Any] = {"config": config.model_dump(mode="json"), "versions": versions()}
    require_equal("configuration", digest(facts["config"]))
    require_equal("library versions", digest(facts["versions"]))
    require_equal("program code", code_digest())
    return facts


@contextmanager
def supervised(config: TrainConfig, rank: int) -> Iterator[tuple[list[str], StopRequests, Watchdog]]:
    """Lock the output folder, listen for requests to stop, and watch for hangs. Collective.

    Yields:
        Node of each rank, the stop requests and the watchdog.

    Raises:
        LockedError: on every rank: another run uses the output folder.
    """
    hosts = gathered(node_name())
    attempt = from_first_rank(datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%SZ"))
    with ExitStack() as stack:
        agreed(lambda: stack.enter_context(RunLock(config.output)) if rank == 0 else None)
        stops = stack.enter_context(StopRequests(config.output, rank, control_group()))
        watchdog = stack.enter_context(Watchdog(config.output, rank, hosts, config.monitor.hang.limits, attempt))
        yield hosts, stops, watchdog
