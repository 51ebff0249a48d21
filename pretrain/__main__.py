"""`deepspeed --module pretrain --config FILE`; or with `torchrun -m pretrain`, or alone with `python -m pretrain`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

from foundation.configuration import load_config
from pretrain.config import TrainConfig
from pretrain.monitor.replicas import ReplicaDriftError

EXAMPLES = """examples:
  one process:          python -m pretrain --config configs/train/demo.yaml \\
                            parallel.tensor=1 parallel.pipeline=1 parallel.data=1
  eight, one machine:   deepspeed --num_gpus 8 --module pretrain --config configs/train/demo.yaml
  with torchrun:        torchrun --nproc-per-node 8 -m pretrain --config configs/train/demo.yaml
  stop half-way:        … stop_after_step=100        (the same command without it goes on from the checkpoint)

Run again with the same output folder, it goes on from the newest whole checkpoint, also under other degrees."""


def main() -> int:
    """Exit codes: 0 done, 2 wrong settings, data or checkpoint, 3 the numbers cannot be trusted any more."""
    parser = argparse.ArgumentParser(
        prog="pretrain",
        description="Train a model from token files.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see configs/train/")
    parser.add_argument("overrides", nargs="*", help="settings by dotted name, such as parallel.tensor=2")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    arguments = parser.parse_intermixed_args()
    # What torch, DeepSpeed and megatron-core say to their own developers, from every process.
    warnings.filterwarnings("ignore", module=r"(torch|deepspeed|megatron)\.")
    first = os.environ.get("RANK", "0") == "0"
    try:
        config = load_config(TrainConfig, arguments.config, arguments.overrides)
        from pretrain.train import train  # after the settings are right: it takes seconds to import

        train(config)
    except ValueError as error:
        if first:
            print(f"pretrain: {error}", file=sys.stderr)
        return 2
    except (ArithmeticError, ReplicaDriftError) as error:
        if first:
            print(f"pretrain: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
