"""The best learning rate by width, with `base_hidden_size` and without it.

Tiny models of several widths are trained with several learning rates. With one rate for all weights the best one falls
with the width; with rates that follow the width (μP, Yang et al. 2022, arXiv:2203.03466), that of the smallest model
serves all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from foundation.progress import Progress
from pretrain.config import TrainConfig
from pretrain.data.mixture import load_mixture
from pretrain.topology import Topology
from tools.bench.families import learn
from tools.bench.page import show

RATES = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)
WIDTHS = (32, 64, 128)
HEAD = 16


def config_of(width: int, base: int | None, rate: float, mixture: Path, steps: int) -> TrainConfig:
    """Configuration of one run; heads are of one size, and the MLP grows with the width."""
    model = {
        "vocabulary_size": load_mixture(mixture).vocabulary_size,
        "hidden_size": width,
        "base_hidden_size": base,
        "layers": 2,
        "attention_heads": width // HEAD,
        "key_value_heads": width // HEAD,
        "feed_forward_size": 3 * width,
        "maximum_positions": 128,
    }
    return TrainConfig.model_validate(
        {
            "output": "unused",
            "model": model,
            "data": {"mixture": str(mixture), "sequence_length": 128},
            "batch": {"global_batch_size": 16, "micro_batch_size": 16},
            "optimizer": {"learning_rate": rate},
            "schedule": {"total_steps": steps, "warmup_steps": max(1, steps // 20)},
            "precision": "fp32",
        }
    )


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="altiplano bench widths", description=__doc__)
    parser.add_argument("--mixture", type=Path, default=Path("runs/demo/tokens/mixture.yaml"))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS), help="multiples of 16, the base first")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="learning rates, ascending")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Train all models in this process; returns the exit code."""
    command = make_parser()
    given = command.parse_args(arguments)
    if any(width < HEAD or width % HEAD for width in given.widths):
        command.error(f"--widths: must be multiples of {HEAD}")
    if not given.mixture.is_file():
        print(f"{given.mixture}: no such file; `altiplano demo` makes one; --mixture names another", file=sys.stderr)
        return 2
    from pretrain.engine.processes import join_processes

    join_processes(timeout_seconds=1800)
    rows: list[list[object]] = []
    with Progress("bench widths", 2 * len(given.widths) * len(given.rates), "models") as progress:
        for base in (given.widths[0], None):
            for width in given.widths:
                losses = []
                for rate in given.rates:
                    config = config_of(width, base, rate, given.mixture, given.steps)
                    losses.append(learn("", config, Topology(1, 1, 1)).last_loss)
                    progress.advance()
                best = given.rates[min(range(len(losses)), key=lambda i: losses[i])]
                name = "one rate for all" if base is None else f"base_hidden_size {base}"
                rows.append([name, width, *(f"{loss:.3f}" for loss in losses), f"{best:g}"])
    columns = ["rates", "width", *(f"{rate:g}" for rate in given.rates), "best"]
    show(f"Held-out loss after {given.steps} steps, by learning rate", rows, columns)
    return 0
