"""What tensor, pipeline and data parallelism cost with two processes: speed relative to one, and time by call."""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from foundation.progress import Progress
from pretrain.config import ModelConfig, TrainConfig
from pretrain.topology import Topology
from tools.bench.memory import peak_bytes
from tools.bench.page import show
from tools.bench.train import timed_precisions

LAYOUTS: dict[str, dict[str, Any]] = {
    "one process": {},
    "tensor 2": {"tensor": 2},
    "tensor 2, sequence": {"tensor": 2, "sequence": True},
    "pipeline 2": {"pipeline": 2},
    "data 2": {"data": 2},
}
"""Layouts to time, as the keys of `parallel` in a run's configuration; the first is the reference."""

LEARNING_RATE = 3e-4
COMMUNICATION = "_distributed_c10d"
"""Part of the profiler's name for every call into torch's process groups, `Work.wait` included."""
PASSED_ON = ("torch/distributed/", "deepspeed/comm/", "deepspeed/utils/", "typing_extensions.py", "contextlib.py")
"""Files whose functions only forward a call to the process group."""

Function = tuple[str, int, str]
"""File, line and name, as in the profiler's statistics."""


def main(arguments: list[str]) -> int:
    """Time every layout in its own processes, in turn, and print the medians."""
    parser = argparse.ArgumentParser(prog="altiplano bench parallel", description=__doc__)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--global-batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2, help="timed steps per round, after one untimed step")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all layouts")
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="default: bf16, or fp32 where bf16 is emulated")
    parser.add_argument("--layouts", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS))
    parser.add_argument("--one", choices=list(LAYOUTS), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        time_one(given)
        return 0
    if given.precision is None:
        given.precision = timed_precisions()[0]
        arguments = [*arguments, "--precision", given.precision]
    layouts = list(dict.fromkeys([next(iter(LAYOUTS)), *given.layouts]))
    results: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in layouts}
    with Progress("bench", given.rounds * len(layouts), "runs") as progress:
        for _ in range(given.rounds):
            for name in layouts:
                results[name].append(run_layout(name, arguments))
                progress.advance()
    print_results(given, results)
    return 0


def run_layout(name: str, arguments: list[str]) -> list[dict[str, Any]]:
    """Launch one layout and return what each rank measured, by rank.

    Raises:
        RuntimeError: the launch failed; the message contains its standard error.
    """
    processes = Topology(*(LAYOUTS[name].get(axis, 1) for axis in ("pipeline", "data", "tensor"))).world_size
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "tools.bench"]
    command = [sys.executable, "-W", "ignore", "-m", *launch, "parallel", *arguments, "--one", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}:\n{done.stderr}")
    ranks: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return ranks


def print_results(given: argparse.Namespace, results: dict[str, list[list[dict[str, Any]]]]) -> None:
    """Print the table of medians, then the process-group calls in which the ranks of each layout waited."""
    tokens = given.global_batch * given.sequence
    wall = {name: statistics.median(ranks[0]["seconds"] for ranks in rounds) for name, rounds in results.items()}
    worked = {
        name: statistics.median(sum(rank["processor_seconds"] for rank in ranks) for ranks in rounds)
        for name, rounds in results.items()
    }
    alone, rows, waits = next(iter(LAYOUTS)), [], []
    for name, rounds in results.items():
        shares = [
            statistics.median(sum(ranks[rank]["waiting"].values()) for ranks in rounds)
            for rank in range(len(rounds[0]))
        ]
        memory = max(rank["peak_bytes"] for ranks in rounds for rank in ranks)
        rows.append(
            (
                name,
                f"{tokens / wall[name]:,.0f}",
                f"{wall[alone] / wall[name]:.2f}",
                f"{worked[name] / worked[alone]:.2f}",
                " / ".join(f"{share:.0%}" for share in shares),
                f"{memory / 1e9:.2f}",
            )
        )
        for rank, found in enumerate(rounds[-1]):
            for call, share in Counter(found["waiting"]).most_common(4):
                if share >= 0.01:
                    waits.append((name, str(rank), call, f"{share:.0%}"))
    title = f"{given.precision}, {given.rounds} rounds in turns, one thread a process, medians; clock on the wall"
    columns = ("layout", "tokens / s", "× one process", "processor time ÷ one's", "in communication", "memory, GB")
    show(title, rows, columns)
    show("in communication, share of the last round's time", waits, ("layout", "rank", "call", "share"))


def time_one(given: argparse.Namespace) -> None:
    """Measure in one process of a launch; rank 0 prints the results of all ranks as a line of JSON."""

    from pretrain.engine.engine import Engine
    from pretrain.engine.processes import join_processes

    parallel = LAYOUTS[given.one]
    join_processes(600)
    torch.manual_seed(1)
    topology = Topology(*(parallel.get(axis, 1) for axis in ("pipeline", "data", "tensor")))
    model = ModelConfig(
        vocabulary_size=given.vocabulary,
        hidden_size=given.hidden,
        layers=given.layers,
        attention_heads=given.hidden // 64,
        key_value_heads=given.hidden // 64,
        feed_forward_size=1376 * given.hidden // 512,
        maximum_positions=given.sequence,
    )
    config = TrainConfig.model_validate(
        {
            "output": "unused",
            "model": model.model_dump(),
            "data": {"mixture": "unused", "sequence_length": given.sequence},
            "parallel": parallel,
            "batch": {"global_batch_size": given.global_batch, "micro_batch_size": given.micro_batch},
            "optimizer": {"learning_rate": LEARNING_RATE},
            "schedule": {"total_steps": 100, "warmup_steps": 1},
            "precision": given.precision,
        }
    )
    engine = Engine(config, topology)
    tokens = torch.randint(0, given.vocabulary, (given.micro_batch, given.sequence + 1))
    batch = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield batch

    def steps(count: int) -> tuple[float, float]:
        torch.distributed.barrier()
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(count):
            engine.train_step(data, LEARNING_RATE)
        torch.distributed.barrier()
        return (time.perf_counter() - wall) / count, (time.process_time() - processor) / count

    data = batches()
    steps(1)
    seconds, processor_seconds = steps(given.steps)
    profile = cProfile.Profile()
    profile.enable()
    profiled, _ = steps(1)
    profile.disable()
    found = {
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "waiting": {call: spent / profiled for call, spent in time_in_communication(profile).items()},
        "peak_bytes": peak_bytes(),
    }
    ranks: list[Any] = [None] * topology.world_size
    torch.distributed.all_gather_object(ranks, found)
    if torch.distributed.get_rank() == 0:
        print(json.dumps(ranks), flush=True)
    torch.distributed.destroy_process_group()


def time_in_communication(profile: cProfile.Profile) -> dict[str, float]:
    """Seconds inside torch's process groups, by the function of ours, megatron-core or DeepSpeed that made the call."""
    stats: Any = pstats.Stats(profile)
    stats.calc_callees()
    callers = {function: called for function, (_, _, _, _, called) in stats.stats.items()}
    seconds: Counter[str] = Counter()
    for function, called in callers.items():
        if COMMUNICATION not in function[2]:
            continue
        for caller, (_, _, own, _) in called.items():
            origin = caller_of(caller, callers)
            seconds[f"{origin[2]} ({Path(origin[0]).name})"] += own
    return dict(seconds)


def caller_of(function: Function, callers: dict[Function, Any]) -> Function:
    """The caller that spends most time in `function`, skipping functions that only forward the call."""
    passing_on, callers_found = [function], Counter[Function]()
    for passed in passing_on:
        if any(part in passed[0] for part in PASSED_ON):
            for caller, (_, _, _, spent) in callers.get(passed, {}).items():
                if not any(part in caller[0] for part in PASSED_ON):
                    callers_found[caller] += spent
                elif caller not in passing_on:
                    passing_on.append(caller)
    return callers_found.most_common(1)[0][0] if callers_found else function
