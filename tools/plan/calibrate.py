"""Speeds of the machine at hand, measured with the run's own model: `altiplano plan CONFIG --calibrate FILE`.

Twenty steps of the real engine, on the ranks of one tensor group, give what a block, embedding and head, and the update
take: a step with L blocks and M micro-batches takes u + L v + M (h + L b), whose four numbers follow from two values of
L and two of M. Processes that share a machine slow each other down, so a group is measured alone and beside as many
others as the processors hold. Collectives are timed between as many processes as a group has.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from foundation.configuration import load_config
from foundation.progress import Progress
from pretrain.config import TrainConfig, check_world_size
from pretrain.device import local_device
from pretrain.topology import Topology
from tools.plan.calibration import Calibration, Collective, Computation, Spent, settings_of

STEPS = 20
"""Timed steps of each measurement, whose median counts, after two that are not timed."""
BLOCKS, MICRO_BATCHES = (1, 4), (1, 4)
"""Numbers of blocks and of micro-batches whose steps are compared."""
SMALL_BYTES, LARGE_BYTES = 1 << 12, 1 << 24
"""Sizes of collectives beside the size of the residual."""
LEARNING_RATE = 1e-4
DEGREES = (1, 2, 4, 8)
"""Numbers of ranks of a group that are measured."""
MEETING_SECONDS = 600
"""How long groups wait for each other, so that they compute at the same time."""


def calibrate(path: Path, overrides: Sequence[str], processes: int) -> Calibration:
    """Measure the machine at hand.

    Args:
        processes: most processes that a group is timed with.

    Raises:
        ValueError: the configuration is wrong.
        RuntimeError: a process failed; the message contains its output.
    """
    config = load_config(TrainConfig, path, overrides)
    cores = 0 if torch.cuda.is_available() else len(os.sched_getaffinity(0))
    degrees = [degree for degree in DEGREES if degree <= processes and _divides(config, degree)]
    measured = [(degree, groups) for degree in degrees for groups in _numbers_of_groups(degree, min(cores, processes))]
    sizes = [ranks for ranks in DEGREES[1:] if ranks <= processes]
    computation: dict[int, list[Computation]] = {degree: [] for degree in degrees}
    collectives: dict[str, dict[int, Collective]] = {"all_reduce": {}, "all_gather": {}, "send": {}}
    with Progress("calibrate", len(measured) + len(sizes), "measurements") as progress:
        for degree, groups in measured:
            computation[degree].append(_computation(path, overrides, degree, groups))
            progress.advance()
        for ranks in sizes:
            for name, timed in _measure(path, overrides, ranks, "collectives").items():
                collectives[name][ranks] = Collective(*(tuple(column) for column in timed))
            progress.advance()
    return Calibration(
        machine=_processor() if cores else torch.cuda.get_device_name(),
        cores=cores,
        settings=settings_of(config),
        computation=computation,
        **collectives,
    )


def measure_step(path: Path, overrides: Sequence[str], processes: int) -> float:
    """Median seconds of twenty steps of the run itself, in as many processes as its degrees multiply to.

    Raises:
        RuntimeError: a process failed; the message contains its output.
    """
    return float(_measure(path, overrides, processes, "step"))


def _divides(config: TrainConfig, degree: int) -> bool:
    model = config.model
    return not (model.attention_heads % degree or model.key_value_heads % degree or model.feed_forward_size % degree)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "processor"


def _numbers_of_groups(degree: int, processors: int) -> list[int]:
    """One group, and as many as `processors` hold; on GPUs, which do not slow each other down, one."""
    return sorted({1, max(1, processors // degree)})


def _measure(path: Path, overrides: Sequence[str], processes: int, what: str) -> Any:
    """Run `processes` processes of this module; returns what the first one prints."""
    return _measure_groups(path, overrides, processes, what, 1)[0]


def _measure_groups(path: Path, overrides: Sequence[str], processes: int, what: str, groups: int) -> list[Any]:
    """Run several groups of processes of this module at the same time; returns what the first of each prints."""
    task: dict[str, Any] = {"path": str(path), "overrides": list(overrides), "what": what, "groups": groups}
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as meeting, ThreadPoolExecutor(groups) as threads:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, "-W", "ignore", *launch, "-m", "tools.plan.calibrate"]
        command.append(json.dumps({**task, "meeting": meeting}))
        started = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(groups)
        ]

        def finish(process: subprocess.Popen[str]) -> str:
            printed, errors = process.communicate()
            if process.returncode:
                failures.append(f"calibration with {processes} processes ended with {process.returncode}:\n{errors}")
                for other in started:
                    other.terminate()  # or it would wait for this one
            return printed

        failures: list[str] = []
        printed = list(threads.map(finish, started))
    if failures:
        raise RuntimeError(failures[0])
    return [json.loads(lines.splitlines()[-1]) for lines in printed]


def _share_of(config: TrainConfig, degree: int, blocks: int, micro_batches: int) -> TrainConfig:
    """The run of one tensor group, with `blocks` blocks."""
    values = config.model_dump(mode="json")
    values["parallel"] = {"tensor": degree, "pipeline": 1, "data": 1}
    values["model"]["layers"] = blocks
    values["batch"]["global_batch_size"] = micro_batches * config.batch.micro_batch_size
    values["batch"]["ramp_up"] = None
    return TrainConfig.model_validate_json(json.dumps(values), strict=True)


def _steps(config: TrainConfig, topology: Topology) -> Spent:
    """What a step of the real engine takes."""
    from pretrain.engine.engine import Engine  # takes seconds to import

    engine = Engine(config, topology)
    shape = config.batch.micro_batch_size, config.data.sequence_length + 1
    tokens = torch.randint(0, config.model.vocabulary_size, shape, device=local_device())
    batch = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield batch

    return _median(lambda: engine.train_step(batches(), LEARNING_RATE), STEPS)


def _median(run: Callable[[], object], times: int) -> Spent:
    """What `run` takes, in the median after two untimed runs."""
    timed = []
    for number in range(times + 2):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        wall, processor = time.perf_counter(), time.process_time()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if number >= 2:
            timed.append((time.perf_counter() - wall, time.process_time() - processor))
    return Spent(*(statistics.median(column) for column in zip(*timed, strict=True)))


def _computation(path: Path, overrides: Sequence[str], degree: int, groups: int) -> Computation:
    """Measure `groups` tensor groups at the same time; the mean of their first ranks counts."""
    found = _measure_groups(path, overrides, degree, "computation", groups)
    parts = [
        Spent(*(statistics.fmean(column) for column in zip(*one, strict=True))) for one in zip(*found, strict=True)
    ]
    return Computation(degree * groups, *parts)


def _parts_of_step(config: TrainConfig, degree: int, meet: Callable[[], None]) -> list[Spent]:
    """What block, rest, and update of both take, in the order of `PARTS`.

    Args:
        meet: returns when all groups that are measured have called it.
    """
    steps: dict[tuple[int, int], Spent] = {}
    for blocks in BLOCKS:
        for micro in MICRO_BATCHES:
            meet()
            steps[blocks, micro] = _steps(_share_of(config, degree, blocks, micro), Topology(1, 1, degree))
    clock, processor = (parts_of({shape: spent[i] for shape, spent in steps.items()}) for i in range(2))
    return [Spent(*pair) for pair in zip(clock, processor, strict=True)]


def parts_of(seconds: Mapping[tuple[int, int], float]) -> tuple[float, float, float, float]:
    """b, h, v and u of steps by numbers of blocks and of micro-batches, which are those of `BLOCKS` and
    `MICRO_BATCHES`; noise makes none of them negative."""
    (few, many), (one, more) = BLOCKS, MICRO_BATCHES
    slopes = {blocks: (seconds[blocks, more] - seconds[blocks, one]) / (more - one) for blocks in BLOCKS}
    updates = {blocks: seconds[blocks, one] - one * slopes[blocks] for blocks in BLOCKS}
    block = (slopes[many] - slopes[few]) / (many - few)
    block_update = (updates[many] - updates[few]) / (many - few)
    parts = block, slopes[few] - few * block, block_update, updates[few] - few * block_update
    return tuple(max(0.0, part) for part in parts)  # type: ignore[return-value]


def _meet(folder: Path, groups: int) -> Callable[[], None]:
    """A barrier of groups that know nothing of each other but a folder."""
    name = str(os.getpid())
    times = count()

    def meet() -> None:
        if dist.get_rank() == 0:
            number = next(times)
            (folder / f"{number}-{name}").touch()
            until = time.monotonic() + MEETING_SECONDS
            while len(list(folder.glob(f"{number}-*"))) < groups:
                if time.monotonic() > until:
                    raise RuntimeError(f"the other groups were not ready within {MEETING_SECONDS} s")
                time.sleep(0.01)
        dist.barrier()

    return meet


def _collectives(config: TrainConfig) -> dict[str, list[list[float]]]:
    """Sizes, seconds and processor seconds of each collective, on rank 0."""
    residual = config.batch.micro_batch_size * config.data.sequence_length * config.model.hidden_size
    residual *= 2 if config.precision == "bf16" else 4
    sizes = sorted({SMALL_BYTES, max(residual, SMALL_BYTES + 4096), LARGE_BYTES})
    ranks, rank = dist.get_world_size(), dist.get_rank()
    found: dict[str, list[list[float]]] = {}

    def all_reduce(x: torch.Tensor) -> None:
        dist.all_reduce(x)

    def all_gather(x: torch.Tensor) -> None:
        dist.all_gather(list(x.chunk(ranks)), x[: x.numel() // ranks])

    def send(x: torch.Tensor) -> None:
        if rank == 0:
            dist.send(x, 1)
            dist.recv(x, 1)
        elif rank == 1:
            dist.recv(x, 0)
            dist.send(x, 0)

    for name, run in (("all_reduce", all_reduce), ("all_gather", all_gather), ("send", send)):
        rows = []
        for size in sizes:
            x = torch.zeros(size // 4 // ranks * ranks, device=local_device())
            dist.barrier()
            wall, processor = _median(lambda run=run, x=x: run(x), STEPS)  # type: ignore[misc]
            there_and_back = 2 if name == "send" else 1
            rows.append([size, wall / there_and_back, processor / there_and_back])
        found[name] = [list(column) for column in zip(*rows, strict=True)]
    return found


def _work(task: dict[str, Any]) -> None:
    """What a process of `_measure` does; the first prints the result as a line of JSON."""
    from pretrain.engine.processes import join_processes

    join_processes(600)
    path, overrides = Path(task["path"]), task["overrides"]
    config = load_config(TrainConfig, path, overrides)
    if task["what"] == "step":
        parallel, data = config.parallel, check_world_size(config, dist.get_world_size())
        found: Any = _steps(config, Topology(parallel.pipeline, data, parallel.tensor, parallel.context)).clock
    elif task["what"] == "computation":
        found = _parts_of_step(config, dist.get_world_size(), _meet(Path(task["meeting"]), task["groups"]))
    else:
        found = _collectives(config)
    if dist.get_rank() == 0:
        print(json.dumps(found), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    _work(json.loads(sys.argv[1]))
