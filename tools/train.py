"""Train on this machine: one process for each GPU or, on CPUs, as many as the configuration's degrees ask for."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from foundation.configuration import load_config
from pretrain.__main__ import make_parser as make_train_parser
from pretrain.config import TrainConfig
from pretrain.launch.launcher import launched_from_here, stop_with_launcher

EXAMPLES = """examples:
  altiplano train --config configs/train/demo.yaml
  altiplano train --config configs/train/demo.yaml --processes 1 \\
      parallel.tensor=1 parallel.pipeline=1 parallel.data=1
  altiplano train --config configs/train/llama-7b.yaml parallel.tensor=2 data.mixture=tokens/mixture.yaml

Run again with the same output folder, it goes on from the newest whole checkpoint. Ctrl-C saves first.

On many machines a launcher starts `-m pretrain` with the same arguments:
  deepspeed --hostfile hosts --module pretrain --config FILE
  torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m pretrain --config FILE
  sbatch --nodes 4 slurm/pretrain.sbatch FILE

The exit codes are those of pretrain, see `python -m pretrain --help`."""

GRACE_SECONDS = 30
"""Time that processes have to report and end by themselves once one has failed."""

FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def make_parser() -> argparse.ArgumentParser:
    """The command line: that of `pretrain`, and the number of processes."""
    parser = argparse.ArgumentParser(
        prog="altiplano train",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[make_train_parser(add_help=False)],
    )
    add_processes(parser)
    return parser


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add the option of commands that start processes."""
    parser.add_argument(
        "--processes", type=int, metavar="N", help="default: one for each GPU; without GPUs, as the degrees ask for"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the processes, pass signals on to them, and return their exit code."""
    command = make_parser()
    given = command.parse_intermixed_args(arguments)
    options = ["--check"] if given.check else []
    if given.show is not None:
        options += ["--show", given.show]
        given.processes = 1
    return start(command, given, options)


def start(command: argparse.ArgumentParser, given: argparse.Namespace, options: Sequence[str]) -> int:
    """Start `pretrain` in processes, once the settings are known to be right; returns their exit code.

    Args:
        given: what was given to `command`: `config`, `overrides` and `processes`.
        options: of `pretrain`.
    """
    if given.processes is not None and given.processes < 1:
        command.error(f"--processes {given.processes}: must be at least 1")
    try:
        config = load_config(TrainConfig, given.config, given.overrides)
    except ValueError as error:
        print(f"{command.prog}: {error}", file=sys.stderr)
        return 2
    settings = ["--config", str(given.config), *given.overrides]
    return run([sys.executable, "-m", "pretrain", *options, *settings], given.processes or default_processes(config))


def default_processes(config: TrainConfig) -> int:
    """One process for each GPU; without GPUs, one for each place in the mesh of degrees."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return config.parallel.processes


def run(command: Sequence[str], processes: int) -> int:
    """Run the command in processes that find each other over the loopback.

    torchrun turns every exit code into 1, and the deepspeed launcher passes no signals on; a scheduler needs both.

    Returns:
        Exit code of the first process that failed, 0 when none did. The others then have `GRACE_SECONDS` to report.
    """
    environment = launched_from_here(os.environ)
    if processes > 1:  # `pretrain` alone needs no address to meet at
        environment |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: FrameType | None) -> None:
        for process in started:
            if process.poll() is None:
                process.send_signal(number)

    for number in FORWARDED:
        signal.signal(number, forward)
    stop_with_launcher()
    for rank in range(processes):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        started.append(subprocess.Popen(command, env={**environment, **ranks}))
    # A terminal sends Ctrl-C to every process: they save, and this one waits. An ignored signal would be inherited.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    code = 0
    deadline: float | None = None
    while any(process.poll() is None for process in started):
        time.sleep(0.1)
        failed = [process.returncode for process in started if process.poll()]
        if failed and deadline is None:
            code, deadline = failed[0], time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            for process in started:
                process.kill()
    code = code or next((process.returncode for process in started if process.returncode), 0)
    return code if code >= 0 else 128 - code  # ended by a signal: as a shell counts it


def free_port() -> int:
    """A port of the loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
