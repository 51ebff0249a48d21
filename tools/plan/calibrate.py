"""Speeds of the machine at hand, measured with the run's own model: `altiplano plan CONFIG --calibrate FILE`.

Twenty steps of the real engine in one process give the seconds of a block, of embedding and head, and of the update:
a step with L blocks and M micro-batches takes u + L v + M (h + L b), whose four numbers follow from two values of L and
two of M. For each tensor degree a process computes what one rank would: fewer heads, a narrower MLP, fewer rows of the
vocabulary. Collectives are timed between as many processes as a group has.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from foundation.configuration import load_config
from foundation.progress import Progress
from pretrain.config import TrainConfig, check_world_size
from pretrain.device import local_device
from pretrain.topology import Topology
from tools.plan.calibration import Calibration, Collective, Computation, settings_of

STEPS = 20
"""Timed steps of each measurement, whose median counts, after two that are not timed."""
BLOCKS, MICRO_BATCHES = (1, 4), (1, 4)
"""Numbers of blocks and of micro-batches whose steps are compared."""
SMALL_BYTES, LARGE_BYTES = 1 << 12, 1 << 24
"""Sizes of collectives beside the size of the residual."""
LEARNING_RATE = 1e-4


def calibrate(path: Path, overrides: Sequence[str], processes: int) -> Calibration:
    """Measure the machine at hand.

    Args:
        processes: most processes that a group is timed with.

    Raises:
        ValueError: the configuration is wrong.
        RuntimeError: a process failed; the message contains its output.
    """
    config = load_config(TrainConfig, path, overrides)
    degrees = [degree for degree in (1, 2, 4, 8) if degree <= processes and _divides(config, degree)]
    groups = [ranks for ranks in (2, 4, 8) if ranks <= processes]
    computation: dict[int, Computation] = {}
    collectives: dict[str, dict[int, Collective]] = {"all_reduce": {}, "all_gather": {}, "send": {}}
    with Progress("calibrate", len(degrees) + len(groups), "measurements") as progress:
        for degree in degrees:
            found = _measure(path, overrides, 1, "computation", degree)
            computation[degree] = Computation(**found)
            progress.advance()
        for ranks in groups:
            for name, timed in _measure(path, overrides, ranks, "collectives").items():
                collectives[name][ranks] = Collective(*(tuple(column) for column in timed))
            progress.advance()
    on_gpus = torch.cuda.is_available()
    return Calibration(
        machine=torch.cuda.get_device_name() if on_gpus else _processor(),
        cores=0 if on_gpus else len(os.sched_getaffinity(0)),
        settings=settings_of(config),
        computation=computation,
        **collectives,
    )


def measure_step(path: Path, overrides: Sequence[str], processes: int) -> float:
    """Median seconds of twenty steps of the run itself, in as many processes as its degrees multiply to.

    Raises:
        RuntimeError: a process failed; the message contains its output.
    """
    return float(_measure(path, overrides, processes, "step")["seconds"])


def _divides(config: TrainConfig, degree: int) -> bool:
    model = config.model
    return not (model.attention_heads % degree or model.key_value_heads % degree or model.feed_forward_size % degree)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "processor"


def _measure(path: Path, overrides: Sequence[str], processes: int, what: str, degree: int = 1) -> dict[str, Any]:
    """Run `processes` processes of this module; returns what the first one prints."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    task = json.dumps({"path": str(path), "overrides": list(overrides), "what": what, "degree": degree})
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *launch, "-m", "tools.plan.calibrate", task],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"calibration with {processes} processes ended with {done.returncode}:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _share_of(path: Path, overrides: Sequence[str], degree: int, blocks: int, micro_batches: int) -> TrainConfig:
    """The run of one process that computes what a tensor rank does, with `blocks` blocks."""
    whole = load_config(TrainConfig, path, overrides)
    model = whole.model
    changed = {
        "model.layers": blocks,
        "model.attention_head_size": model.head_size,
        "model.attention_heads": model.attention_heads // degree,
        "model.key_value_heads": max(1, model.key_value_heads // degree),
        "model.feed_forward_size": model.feed_forward_size // degree,
        "model.vocabulary_size": -(-model.padded_vocabulary_size(degree) // degree),
        "batch.global_batch_size": micro_batches * whole.batch.micro_batch_size,
    }
    values = whole.model_dump(mode="json")
    values["parallel"] = {"tensor": 1, "pipeline": 1, "data": 1}
    values["batch"]["ramp_up"] = None
    for name, value in changed.items():
        section, field = name.split(".")
        values[section][field] = value
    return TrainConfig.model_validate_json(json.dumps(values), strict=True)


def _steps(config: TrainConfig, topology: Topology) -> float:
    """Seconds of a step of the real engine."""
    from pretrain.engine.engine import Engine  # takes seconds to import

    engine = Engine(config, topology)
    shape = config.batch.micro_batch_size, config.data.sequence_length + 1
    tokens = torch.randint(0, config.model.vocabulary_size, shape, device=local_device())
    batch = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield batch

    return _median(lambda: engine.train_step(batches(), LEARNING_RATE), STEPS)[0]


def _median(run: Callable[[], object], times: int) -> tuple[float, float]:
    """Median seconds on the clock and of the processor, after two untimed runs."""
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
    return statistics.median(wall for wall, _ in timed), statistics.median(spent for _, spent in timed)


def _computation(path: Path, overrides: Sequence[str], degree: int) -> Computation:
    seconds = {
        (blocks, micro): _steps(_share_of(path, overrides, degree, blocks, micro), Topology(1, 1, 1))
        for blocks in BLOCKS
        for micro in MICRO_BATCHES
    }
    (few, many), (one, more) = BLOCKS, MICRO_BATCHES
    slopes = {blocks: (seconds[blocks, more] - seconds[blocks, one]) / (more - one) for blocks in BLOCKS}
    updates = {blocks: seconds[blocks, one] - one * slopes[blocks] for blocks in BLOCKS}
    block = (slopes[many] - slopes[few]) / (many - few)
    block_update = (updates[many] - updates[few]) / (many - few)
    return Computation(
        *(
            max(0.0, value)
            for value in (block, slopes[few] - few * block, block_update, updates[few] - few * block_update)
        )
    )


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
        found: Any = {"seconds": _steps(config, Topology(parallel.pipeline, data, parallel.tensor, parallel.context))}
    elif task["what"] == "computation":
        found = asdict(_computation(path, overrides, task["degree"]))
    else:
        found = _collectives(config)
    if dist.get_rank() == 0:
        print(json.dumps(found), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    _work(json.loads(sys.argv[1]))
