"""Run many small runs: side by side on this machine, or as an array of Slurm jobs."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from types import FrameType

from foundation.atomic_files import write_text
from foundation.progress import format_seconds
from pretrain.launch.launcher import launched_from_here
from tools.ladder.rungs import Rung

RUNGS_FILE = "rungs.txt"
"""File with the path of each run's configuration, a line each, which an array of Slurm jobs reads."""

LOG_FILE = "log.txt"
SLURM_SCRIPT = Path("slurm") / "pretrain.sbatch"


def add_run_options(command: argparse.ArgumentParser) -> None:
    """The options of `run_left`."""
    command.add_argument("--at-once", type=int, default=1, help="runs side by side on this machine (1)")
    command.add_argument(
        "--slurm", action="store_true", help="submit an array of jobs; other options are passed on to sbatch"
    )


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a command with `add_run_options`: `overrides` from either side of its options, and `options`,
    which it does not know and passes on to sbatch."""
    given, rest = parser.parse_known_args(arguments)
    given.options = [word for word in rest if word.startswith("-")]
    if given.options and not getattr(given, "slurm", False):
        parser.error(f"{given.options[0]}: no such option")
    given.overrides = [*getattr(given, "overrides", ()), *(word for word in rest if not word.startswith("-"))]
    return given


def run_left(output: Path, rungs: Sequence[Rung], done: Collection[str], given: argparse.Namespace) -> int:
    """Train the runs that are not done, where `given` says; returns the exit code.

    Args:
        output: folder with the list of all runs, in their order.
        done: names of the finished ones.

    Raises:
        ValueError: `--at-once` is not positive, or Slurm is not there.
    """
    if given.at_once < 1:
        raise ValueError(f"--at-once {given.at_once}: must be at least 1")
    left = [rung for rung in rungs if rung.name not in done]
    print(f"{len(rungs)} runs, {len(rungs) - len(left)} of them finished")
    if left and given.slurm:
        numbers = [i for i, rung in enumerate(rungs) if rung.name not in done]
        return submit(slurm_command(output, numbers, given.options))
    return run_here(left, given.at_once) if left else 0


def write_list(output: Path, rungs: Sequence[Rung]) -> None:
    """Write the list of the runs' configurations, by which jobs of an array find theirs."""
    write_text(output / RUNGS_FILE, "".join(f"{rung.config_file}\n" for rung in rungs))


def run_here(rungs: Sequence[Rung], at_once: int) -> int:
    """Run rungs on this machine, the longest first; returns the exit code of the first that failed, 0 when none did.

    A rung that was interrupted goes on from its newest checkpoint. SIGINT and SIGTERM let the rungs save and stop.

    Args:
        at_once: rungs that run side by side; each has its share of the processors.
    """
    waiting = sorted(rungs, key=lambda rung: -rung.flops)
    running: dict[subprocess.Popen[bytes], tuple[Rung, float]] = {}
    failed: list[int] = []
    stopping: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.append(number)
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    threads = max(1, (os.cpu_count() or 1) // at_once)
    environment = launched_from_here({"OMP_NUM_THREADS": str(threads), **os.environ})
    try:
        while running or (waiting and not stopping):
            while waiting and not stopping and len(running) < at_once:
                rung = waiting.pop(0)
                running[_start(rung, environment)] = rung, time.monotonic()
            time.sleep(0.2)
            for process in [process for process in running if process.poll() is not None]:
                rung, started = running.pop(process)
                took = format_seconds(time.monotonic() - started)
                if process.returncode:
                    failed.append(process.returncode)
                    print(f"{rung.name}: exit code {process.returncode} after {took}; see {rung.folder / LOG_FILE}")
                else:
                    print(f"{rung.name}: done in {took}", flush=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopping:
        return 128 + stopping[0]
    return failed[0] if failed else 0


def _start(rung: Rung, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tools", "train", "--config", str(rung.config_file)]
    print(f"{rung.name}: {rung.parameters:,} parameters, {rung.tokens:,} tokens", flush=True)
    with open(rung.folder / LOG_FILE, "ab") as log:
        # A session of its own: the terminal's Ctrl-C does not reach it, and it is told from here, once.
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def slurm_command(output: Path, numbers: Sequence[int], options: Sequence[str]) -> list[str]:
    """The `sbatch` command that runs these rungs, by their numbers in `rungs.txt`, as an array of jobs."""
    return ["sbatch", f"--array={ranges(numbers)}", *options, str(SLURM_SCRIPT), str(output / RUNGS_FILE)]


def submit(command: Sequence[str]) -> int:
    """Show and run an `sbatch` command; returns its exit code.

    Raises:
        ValueError: Slurm's commands or the script are not there.
    """
    if not SLURM_SCRIPT.is_file():
        raise ValueError(f"{SLURM_SCRIPT}: no such file; submit from a checkout that all nodes see")
    print(f"$ {shlex.join(command)}", flush=True)
    try:
        return subprocess.run(command, check=False).returncode
    except FileNotFoundError:
        raise ValueError("sbatch: no such command; --slurm needs a machine from which jobs are submitted") from None


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as Slurm's `--array` takes them: `0-3,7`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)
