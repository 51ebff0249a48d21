"""Ten minutes on one GPU: ours, each optimisation on and off, compiled peers, where a step's time goes, and which bits.

Every measurement is a process of its own with a limit; what no longer fits into the time is printed as skipped. MFU is
PaLM's definition, relative to the data sheet's peak in bf16.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tools.bench.page import show

JOBS = ("ceilings", "ours", "peer", "bits", "tests")


@dataclass(frozen=True)
class Job:
    """One measurement.

    Attributes:
        kind: one of `JOBS`.
        shape: name of the model's shape; empty where there is none.
        name: variant or peer.
        limit_seconds: time after which it is ended on a GPU; compilation takes most of it.
    """

    kind: str
    shape: str
    name: str
    limit_seconds: float

    def __str__(self) -> str:
        return ", ".join(part for part in (self.kind, self.shape, self.name) if part)


def jobs(shapes: Sequence[str], variants: Sequence[str], peers: Sequence[str], tests: Sequence[str]) -> Iterator[Job]:
    """All measurements, what matters most first.

    Args:
        tests: pytest's arguments; empty: none are run.
    """
    first = variants[:1]
    yield Job("ceilings", "", "", 60)
    yield from (Job("ours", shape, name, 90) for shape in shapes for name in first)
    yield from (Job("peer", shape, name, 120) for shape in shapes[:1] for name in peers)
    yield from (Job("bits", shape, name, 60) for shape in shapes[:1] for name in _twice([*first, "deterministic"]))
    yield from (Job("ours", shape, name, 60) for shape in shapes[:1] for name in variants[1:])
    if tests:
        yield Job("tests", "", " ".join(tests), 150)
    yield from (Job("peer", shape, name, 120) for shape in shapes[1:] for name in peers)
    yield from (Job("ours", shape, name, 60) for shape in shapes[1:] for name in variants[1:])


def _twice(names: Sequence[str]) -> list[str]:
    return [name for name in names for _ in range(2)]


def main(arguments: list[str]) -> int:
    """Run the measurements, one process after the other, until the time is over."""
    from tools.bench import gpu_jobs

    parser = argparse.ArgumentParser(prog="altiplano bench gpu", description=__doc__)
    shapes = [name for name in gpu_jobs.SHAPES if name != "tiny"]
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=560, help="time for everything (560)")
    parser.add_argument("--shapes", nargs="+", choices=gpu_jobs.SHAPES, default=shapes)
    parser.add_argument("--variants", nargs="+", choices=gpu_jobs.VARIANTS, default=list(gpu_jobs.VARIANTS))
    parser.add_argument("--peers", nargs="*", choices=gpu_jobs.PEERS, default=list(gpu_jobs.PEERS))
    parser.add_argument("--size", type=int, default=8192, help="rows of the products that give the ceilings (8192)")
    parser.add_argument("--tests", nargs="*", default=["tests/gpu"], help="tests to run too; none: leave them out")
    parser.add_argument("--only", nargs="+", choices=JOBS, default=list(JOBS), help="kinds of measurements")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "SHAPE", "NAME"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        return _one(given, *given.one)
    if given.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            print("error: there is no GPU; --device cpu --shapes tiny shows that everything runs", file=sys.stderr)
            return 2
    return _all(given, arguments)


def _all(given: argparse.Namespace, arguments: list[str]) -> int:
    started = time.monotonic()
    found: list[tuple[Job, list[dict[str, object]]]] = []
    skipped: list[tuple[str, str]] = []
    for job in jobs(given.shapes, given.variants, given.peers, given.tests):
        if job.kind not in given.only:
            continue
        left = given.seconds - (time.monotonic() - started)
        if left < job.limit_seconds / 3:
            skipped.append((str(job), f"{left:.0f} s were left"))
            continue
        rows, failure = _run(job, arguments, left if given.device == "cpu" else min(job.limit_seconds, left))
        print(f"{time.monotonic() - started:5.0f} s  {job}: {failure or 'done'}", flush=True)
        found.append((job, rows))
        if failure:
            skipped.append((str(job), failure))
    _print(found, skipped)
    return 0


def _run(job: Job, arguments: list[str], limit: float) -> tuple[list[dict[str, object]], str]:
    """Rows of a measurement in a process of its own, and why it failed; empty: it did not."""
    if job.kind == "tests":
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *job.name.split()]
    else:
        one = ["--one", job.kind, job.shape, job.name]
        command = [sys.executable, "-m", "tools.bench", "gpu", *arguments, *one]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return [], f"ended after {limit:.0f} s"
    lines = done.stdout.splitlines()
    if job.kind == "tests":
        return [{"what": lines[-1] if lines else "no result"}], "" if done.returncode == 0 else "tests failed"
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
    return rows, "" if done.returncode == 0 else reason


def _one(given: argparse.Namespace, kind: str, shape: str, name: str) -> int:
    """Run one measurement in this process, and print its rows as JSON."""
    from pretrain.launch.environment import prepare_environment
    from tools.bench import gpu_jobs

    prepare_environment(deterministic=name == "deterministic")
    if kind == "ceilings":
        rows = gpu_jobs.ceilings(given.device, given.size)
    else:
        measure = {"ours": gpu_jobs.ours, "peer": gpu_jobs.peer, "bits": gpu_jobs.bits}[kind]
        rows = measure(given.device, gpu_jobs.SHAPES[shape], name)
    for row in rows:
        print(json.dumps(row), flush=True)
    return 0


def _print(found: Sequence[tuple[Job, list[dict[str, object]]]], skipped: Sequence[tuple[str, str]]) -> None:
    for title, kinds in (("Ceilings", ("ceilings",)), ("Bits", ("bits",)), ("Tests", ("tests",))):
        _table(title, [row for job, rows in found if job.kind in kinds for row in rows])
    for shape in dict.fromkeys(job.shape for job, _ in found if job.kind in ("ours", "peer")):
        rows = [row for job, rows in found if job.shape == shape and job.kind in ("ours", "peer") for row in rows]
        _table(f"Steps, {shape}", [row for row in rows if "step, s" in row])
        _table(f"Kernels of ours as shipped, {shape}", [row for row in rows if "step, s" not in row])
    if skipped:
        show("Skipped or failed", skipped, ("measurement", "why"))


def _table(title: str, rows: Sequence[dict[str, object]]) -> None:
    if rows:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        show(title, [[row.get(name, "") for name in columns] for row in rows], columns)
