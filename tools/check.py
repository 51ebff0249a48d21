"""Prove that a run's processes compute what one process computes, before it costs anything: `altiplano check CONFIG`.

A tiny twin of the model (same family, objective, parallelism, precision, kernels and compiler) takes a few steps. Its
loss, every gradient and an update are compared with those of a single process; faults are planted, and each must be
noticed; a checkpoint is saved and loaded. `check: true` in a run's configuration does the same at each start.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.train import add_processes, start

EXAMPLES = """examples:
  altiplano check configs/train/demo.yaml
  altiplano check configs/train/llama-7b.yaml parallel.tensor=2 parallel.sequence=true
  altiplano check configs/train/demo.yaml output=/tmp/check precision=fp32

On many machines a launcher starts it:
  torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
      -m pretrain --config FILE --check

The table is written into the run's folder too, as parity.json, and `altiplano report` shows it.

exit codes: 0 equal, and every planted fault was noticed; 2 settings do not fit; 3 different, or a fault was missed"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano check",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="YAML file of a training run, see configs/train/")
    parser.add_argument("overrides", nargs="*", help="settings by dotted name, such as parallel.tensor=2")
    add_processes(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the processes and return their exit code."""
    command = make_parser()
    return start(command, command.parse_intermixed_args(arguments), ["--check"])


if __name__ == "__main__":
    sys.exit(main())
