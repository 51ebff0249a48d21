"""Each family learns: a tiny model of each, tensor 2 × pipeline 2, on the demo's tokens; loss and speed in a table."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pretrain.config import ModelConfig
from pretrain.data.mixture import load_mixture
from pretrain.families.mapping import parameter_count
from pretrain.monitor.metrics import read_metrics

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
"""A gated MLP has three matrices instead of two: about two thirds of the inner size."""

MODELS: dict[str, dict[str, Any]] = {
    "LLaMA": {"family": "llama", **GATED},
    "LLaMA 2 (grouped queries)": {"family": "llama", **GATED, "key_value_heads": 2},
    "GPT-3": {"family": "gpt3"},
    "PaLM": {"family": "palm", **GATED, "key_value_heads": 1, "logit_scale": HIDDEN**-0.5},
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
    "GLM-130B, causal": {
        "family": "glm",
        **GATED,
        "positions": "rotary",
        "block": "deepnorm",
        "activation": "geglu",
        "initialisation": "deepnorm",
    },
    "GLM 10B, blanks": {"family": "glm"},
}
BLANKS = {"kind": "blank_infilling", "mask_token": 4, "long_mask_token": 5, "start_token": 6, "end_token": 7}
"""Reserved entries of the demo's tokenizer."""

BOUND = 0.5
"""Nats by which the held-out losses of the causal runs may lie above the lowest: the recipe is the same for all, tuned
for none."""


@dataclass(frozen=True)
class Learnt:
    """One run: weights, held-out loss in nats after the first evaluation and at the end, median speed."""

    name: str
    parameters: int
    first_loss: float
    last_loss: float
    tokens_per_second: float


def learn(name: str, mixture: Path, steps: int, folder: Path) -> Learnt:
    """Train one tiny model with the launcher, as anybody would.

    Raises:
        RuntimeError: the run failed, with what it said.
    """
    vocabulary_size = load_mixture(mixture).vocabulary_size
    model = {**SHAPE, "vocabulary_size": vocabulary_size, **MODELS[name]}
    every = max(1, steps // 6)
    config = {
        "output": str(folder / "train"),
        "model": model,
        "data": {"mixture": str(mixture), "sequence_length": 128},
        "objective": BLANKS if name.endswith("blanks") else {"kind": "causal"},
        "parallel": {"tensor": 2, "pipeline": 2, "data": 1},
        "batch": {"global_batch_size": 16, "micro_batch_size": 8},
        "optimizer": {"learning_rate": 3e-3},
        "schedule": {"total_steps": steps, "warmup_steps": max(1, steps // 10)},
        "evaluation": {"every_steps": every, "batches": 8},
        "checkpoint": {"every_steps": steps},
    }
    folder.mkdir(parents=True)
    (folder / "train.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    launcher = str(Path(sys.executable).with_name("deepspeed"))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        [launcher, "--num_gpus", "4", "--module", "pretrain", "--config", str(folder / "train.yaml")],
        capture_output=True,
        text=True,
        env=environment,
    )
    if result.returncode:
        raise RuntimeError(f"{name}: exit code {result.returncode}\n{result.stdout}\n{result.stderr}")
    lines = read_metrics(folder / "train" / "metrics.jsonl")
    losses = [line["loss"] for line in lines if line["kind"] == "evaluation"]
    speeds = sorted(line["tokens_per_second"] for line in lines if line["kind"] == "train")
    count = parameter_count(ModelConfig.model_validate(model))
    return Learnt(name, count, losses[0], losses[-1], speeds[len(speeds) // 2])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0 when every causal run ends within the bound of the best."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench families", description=__doc__)
    parser.add_argument("--mixture", type=Path, default=Path("runs/demo/tokens/mixture.yaml"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", nargs="+", choices=list(MODELS), help="names of the table's rows; all when left out")
    given = parser.parse_args(arguments)
    print("| model | weights | held-out loss, first | last | tokens/s |\n|---|---|---|---|---|", flush=True)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(given.only or MODELS):
            one = learn(name, given.mixture, given.steps, Path(folder) / str(number))
            results.append(one)
            print(
                f"| {one.name} | {one.parameters:,} | {one.first_loss:.3f} | {one.last_loss:.3f} | "
                f"{one.tokens_per_second:,.0f} |",
                flush=True,
            )
    causal = [one for one in results if not one.name.endswith("blanks")]
    best = min((one.last_loss for one in causal), default=0.0)
    far = [one.name for one in causal if one.last_loss > best + BOUND]
    stuck = [one.name for one in results if one.last_loss >= one.first_loss]
    if far or stuck:
        print(f"more than {BOUND} nats above the best: {far or 'none'}; not learning: {stuck or 'none'}")
    return 1 if far or stuck else 0
