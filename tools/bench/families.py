"""Each family learns: a tiny model of each on the demo's tokens, tensor 2 × pipeline 2; losses and speed in a table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from foundation.progress import Progress
from pretrain.config import TrainConfig
from pretrain.data.batches import Batches
from pretrain.data.loader import SampleReader
from pretrain.data.mixture import Split, load_mixture
from pretrain.data.objective import Objective
from pretrain.families.mapping import parameter_count
from pretrain.schedule import learning_rate
from pretrain.topology import Topology
from tools.bench.page import show

HIDDEN = 128
SHAPE: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "layers": 4,
    "attention_heads": 4,
    "key_value_heads": 4,
    "feed_forward_size": 4 * HIDDEN,
    "maximum_positions": 128,
}
GATED = {"feed_forward_size": 384}
"""A gated MLP has three matrices instead of two, so its inner size is about two thirds."""

MODELS: dict[str, dict[str, Any]] = {
    "LLaMA": {"family": "llama", **GATED},
    "LLaMA 2 (grouped queries)": {"family": "llama", **GATED, "key_value_heads": 2},
    "GPT-3": {"family": "gpt3"},
    "PaLM": {
        "family": "palm",
        **GATED,
        "key_value_heads": 1,
        "logit_scale": HIDDEN**-0.5,
        "embedding_learning_rate_ratio": HIDDEN**0.5,
    },
    "BLOOM": {"family": "bloom", "initial_std": (1 / (3 * HIDDEN)) ** 0.5},
    "Baichuan 7B": {"family": "baichuan", **GATED},
    "Baichuan 2 13B": {
        "family": "baichuan",
        **GATED,
        "positions": "alibi",
        "normalised_head": True,
        "maximum_z_loss": 2e-4,
    },
    "GLM 10B, causal": {"family": "glm"},
    "GLM-130B, a head of its own": {
        "family": "glm",
        **GATED,
        "positions": "rotary",
        "block": "deepnorm",
        "activation": "geglu",
        "initialisation": "deepnorm",
        # With tied embeddings, as in the published model, the residual stream keeps the embedding of the input token,
        # and that token gets the largest logit: for a long time such a model learns only how frequent tokens are.
        "tied_embedding": False,
    },
    "GLM 10B, blanks": {"family": "glm"},
}
BLANKS = {"kind": "blank_infilling", "mask_token": 4, "long_mask_token": 5, "start_token": 6, "end_token": 7}
"""Reserved entries of the demo's tokenizer."""

BOUND = 1.25
"""Nats above the lowest held-out loss from which on a causal run is named: all share one recipe that is tuned for none
of them, and some learn faster at the beginning."""


EVALUATION_BATCHES = 8


@dataclass(frozen=True)
class Learnt:
    """One run: number of weights, held-out loss in nats before training and at the end, median speed."""

    name: str
    parameters: int
    first_loss: float
    last_loss: float
    tokens_per_second: float


def config_of(name: str, mixture: Path, steps: int) -> TrainConfig:
    """Configuration of one row; the recipe is the same for all."""
    model = {**SHAPE, "vocabulary_size": load_mixture(mixture).vocabulary_size, **MODELS[name]}
    return TrainConfig.model_validate(
        {
            "output": "unused",
            "model": model,
            "data": {"mixture": str(mixture), "sequence_length": 128},
            "objective": BLANKS if name.endswith("blanks") else {"kind": "causal"},
            "parallel": {"tensor": 2, "pipeline": 2, "data": 1},
            "batch": {"global_batch_size": 16, "micro_batch_size": 8},
            "optimizer": {"learning_rate": 3e-3},
            "schedule": {"total_steps": steps, "warmup_steps": max(1, steps // 10)},
            "precision": "fp32",  # as the demo: few processors multiply bf16 as fast
        }
    )


def learn(name: str, config: TrainConfig, topology: Topology) -> Learnt:
    """Train one tiny model; called in every process."""
    from pretrain.engine.engine import Engine

    mixture, length, batch = load_mixture(config.data.mixture), config.data.sequence_length, config.batch
    engine = Engine(config, topology)
    two_dimensional = config.model.positions == "learned_2d"

    def batches(split: Split) -> Batches:
        objective = Objective(config.objective, config.seed, split, two_dimensional=two_dimensional)
        return Batches(SampleReader(mixture, length, config.seed, split), batch.micro_batch_size, objective=objective)

    held_out = batches("heldout")
    parts = held_out.held_out_parts(EVALUATION_BATCHES * batch.global_batch_size)

    def held_out_loss() -> float:
        losses = [part.weight * engine.evaluate(*held_out.evaluation(part)) for part in parts]
        return sum(losses) / sum(part.weight for part in parts)

    first_loss = held_out_loss()
    training, seconds = batches("train").training(0, batch.sizes), []
    for step in range(config.schedule.steps):
        started = time.perf_counter()
        engine.train_step(training, learning_rate(step, batch.sizes, config.optimizer.learning_rate, config.schedule))
        seconds.append(time.perf_counter() - started)
    speed = batch.global_batch_size * length / sorted(seconds)[len(seconds) // 2]
    return Learnt(name, parameter_count(config.model), first_loss, held_out_loss(), speed)


def learn_all(names: Sequence[str], mixture: Path, steps: int) -> int:
    """Train all rows in these four processes; returns 0 when each has learnt something."""
    from pretrain.engine.processes import join_processes

    join_processes(timeout_seconds=1800)
    is_first = torch.distributed.get_rank() == 0
    results = []
    for name in names:
        one = learn(name, config_of(name, mixture, steps), Topology(pipe=2, data=1, tensor=2))
        results.append(one)
        if is_first:
            print(json.dumps(asdict(one)), flush=True)
    torch.distributed.destroy_process_group()
    causal = [one for one in results if not one.name.endswith("blanks")]
    best = min((one.last_loss for one in causal), default=0.0)
    far = [one.name for one in causal if one.last_loss > best + BOUND]
    stuck = [one.name for one in results if not one.last_loss < one.first_loss]
    if is_first and (far or stuck):
        print(f"more than {BOUND} nats above the best: {far or 'none'}; not learning: {stuck or 'none'}")
    return 1 if stuck else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Start four processes and return their exit code."""
    parser = argparse.ArgumentParser(prog="altiplano bench families", description=__doc__)
    parser.add_argument("--mixture", type=Path, default=Path("runs/demo/tokens/mixture.yaml"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=list(MODELS), help="rows of the table to run; default: all")
    given = parser.parse_args(arguments)
    if "RANK" in os.environ:
        return learn_all(given.only or list(MODELS), given.mixture, given.steps)
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    only = ["--only", *given.only] if given.only else []
    rest = ["-m", "tools.bench.families", "--mixture", str(given.mixture), "--steps", str(given.steps), *only]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    rows = []
    with (
        Progress("bench families", len(given.only or MODELS), "models") as progress,
        subprocess.Popen([*command, *rest], env=environment, stdout=subprocess.PIPE, text=True) as running,
    ):
        assert running.stdout is not None
        for line in running.stdout:
            if not line.startswith("{"):
                print(line, end="", file=sys.stderr)
                continue
            one = Learnt(**json.loads(line))
            losses = (f"{loss:.3f}" for loss in (one.first_loss, one.last_loss))
            rows.append((one.name, one.parameters, *losses, f"{one.tokens_per_second:,.0f}"))
            progress.advance()
    show(f"{given.steps} steps", rows, ("model", "weights", "held-out loss, first", "last", "tokens / s"))
    return running.returncode


if __name__ == "__main__":
    sys.exit(main())
