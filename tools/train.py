"""Train on this machine: as many processes as it has GPUs, or as the configuration's degrees ask for on CPUs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from foundation.configuration import load_config
from pretrain.__main__ import make_parser as make_train_parser
from pretrain.config import TrainConfig

EXAMPLES = """examples:
  altiplano train --config configs/train/demo.yaml
  altiplano train --config configs/train/demo.yaml --processes 1 \\
      parallel.tensor=1 parallel.pipeline=1 parallel.data=1
  altiplano train --config configs/train/llama-7b.yaml parallel.tensor=2 data.mixture=tokens/mixture.yaml

Run again with the same output folder, it goes on from the newest whole checkpoint. Ctrl-C saves first.

On many machines a launcher starts `-m pretrain` with the same arguments:
  deepspeed --hostfile hosts --module pretrain --config FILE
  torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m pretrain --config FILE
  sbatch --nodes 4 slurm/pretrain.sbatch FILE"""


def make_parser() -> argparse.ArgumentParser:
    """The command line: that of `pretrain`, and the number of processes."""
    parser = argparse.ArgumentParser(
        prog="altiplano train",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[make_train_parser(add_help=False)],
    )
    parser.add_argument(
        "--processes", type=int, metavar="N", help="default: one for each GPU; without GPUs, as the degrees ask for"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the processes with torchrun, or train in this one; returns the exit code."""
    command = make_parser()
    given = command.parse_intermixed_args(arguments)
    rest = ["--config", str(given.config), *given.overrides]
    if given.show is not None:
        rest += ["--show", given.show]
    try:
        config = load_config(TrainConfig, given.config, given.overrides)
    except ValueError as error:
        print(f"pretrain: {error}", file=sys.stderr)
        return 2
    processes = given.processes or default_processes(config)
    if processes < 1:
        command.error(f"--processes {given.processes}: must be at least 1")
    if processes == 1 or given.show is not None:
        os.execv(sys.executable, [sys.executable, "-m", "pretrain", *rest])
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "pretrain"]
    os.execv(sys.executable, [sys.executable, *launcher, *rest])


def default_processes(config: TrainConfig) -> int:
    """One process for each GPU; without GPUs, one for each place in the mesh of degrees."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return config.parallel.tensor * config.parallel.pipeline * (config.parallel.data or 1)


if __name__ == "__main__":
    sys.exit(main())
