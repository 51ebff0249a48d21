"""Whole training runs on poisoned data, in the processes of the distributed tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
import yaml

from data_prep.indexed_dataset.format import bin_path
from data_prep.indexed_dataset.writer import IndexedDatasetWriter
from foundation.atomic_files import sha256_file
from pretrain.config import TrainConfig
from pretrain.data.loader import SampleReader
from pretrain.data.mixture import load_mixture
from pretrain.engine.engine import Engine, StepResult
from pretrain.train import train

VOCABULARY, LENGTH, BATCH, SEED = 64, 16, 8, 7


def write_mixture(folder: Path, poisoned: tuple[int, int]) -> Path:
    """Counting sequences, which a small model learns in 20 steps; samples [start, stop) are random tokens instead."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    with IndexedDatasetWriter(folder / "text", VOCABULARY) as writer:
        for _ in range(300):
            tokens = (random.integers(60) + np.arange(40)) % 60 + 3
            writer.add_document(np.append(tokens, 2))
    checksums = {kind: sha256_file(folder / f"text.{kind}") for kind in ("bin", "idx")}
    dataset = {"name": "text", "path": "text", "heldout": None, "documents": 300, "tokens": 300 * 41}
    dataset |= {"heldout_documents": 0, "heldout_tokens": 0, "heldout_sha256": None, "weight": 1.0, "sha256": checksums}
    mixture = {"version": 1, "tokenizer": "tokenizer", "vocabulary_size": VOCABULARY, "end_of_document": 2}
    path = folder / "mixture.yaml"
    path.write_text(yaml.safe_dump({**mixture, "datasets": [dataset]}))
    windows = SampleReader(load_mixture(path), LENGTH, SEED).locate(np.arange(*poisoned)).window
    tokens = np.memmap(bin_path(folder / "text"), np.uint16, "r+")
    for window in windows.tolist():
        tokens[window * LENGTH : (window + 1) * LENGTH] = random.integers(3, 63, LENGTH)
    tokens.flush()
    return path


def spike_config(output: Path, mixture: Path, **changes: Any) -> TrainConfig:
    """50 steps of 8 samples, a checkpoint every 5; a spike is persistent after 3 of 4 steps."""
    settings: dict[str, Any] = {
        "output": str(output),
        "seed": SEED,
        "model": {
            "vocabulary_size": VOCABULARY,
            "hidden_size": 32,
            "layers": 2,
            "attention_heads": 2,
            "key_value_heads": 2,
            "feed_forward_size": 64,
            "maximum_positions": LENGTH,
        },
        "data": {"mixture": str(mixture), "sequence_length": LENGTH},
        "batch": {"global_batch_size": BATCH, "micro_batch_size": 2},
        "optimizer": {"learning_rate": 1e-2, "epsilon": 1e-5},
        "schedule": {"total_steps": 50, "warmup_steps": 5},
        "precision": "fp32",
        "checkpoint": {"every_steps": 5},
        "spikes": {
            "detector": {
                "window": 32,
                "minimum_history": 8,
                "high_steps": 3,
                "of_steps": 4,
                "patience_steps": 5,
                "calm_steps": 2,
            },
            "rollback_steps": 5,
            "skip_batches": 16,
            "longer_skip_batches": 24,
            "cooldown_steps": 15,
            "rewarm_steps": 2,
        },
    }
    for path, value in changes.items():
        *folders, key = path.split("__")
        place = settings
        for folder in folders:
            place = place.setdefault(folder, {})
        place[key] = value
    return TrainConfig.model_validate(settings)


def run_training(config: TrainConfig, fault: str = "", at: int = 0) -> dict[str, Any]:
    """Train; `fault` happens at step call number `at`, counted over the whole run, rollbacks included."""
    put_in(fault, at)
    error = None
    try:
        train(config)
    except ArithmeticError as stopped:
        error = str(stopped)
    return {"error": error}


def put_in(fault: str, at: int) -> None:
    """Make `fault` happen in this process."""
    import pretrain.engine.engine as engine
    import pretrain.spikes.watch as watch

    calls = 0
    step = Engine.train_step
    loss = engine.mean_loss

    def counted(self: Engine, *arguments: Any, **settings: Any) -> StepResult:
        nonlocal calls
        calls += 1
        if fault == "killed" and calls == at:
            raise RuntimeError("killed")
        return step(self, *arguments, **settings)

    def not_a_number(*arguments: Any) -> Any:
        is_bad = calls == at if fault == "one NaN" else calls >= at
        return loss(*arguments) * (float("nan") if is_bad else 1.0)

    Engine.train_step = counted  # type: ignore[method-assign]
    if fault in ("one NaN", "NaN"):
        vars(engine)["mean_loss"] = not_a_number
    elif fault == "ranks disagree":
        observe = watch.SpikeWatch.observe

        def shifted(self: watch.SpikeWatch, step: int, loss: float, *rest: Any, **named: Any) -> Any:
            return observe(self, step, loss + 1e-6 * dist.get_rank(), *rest, **named)

        watch.SpikeWatch.observe = shifted  # type: ignore[assignment,method-assign]
    elif fault not in ("", "killed"):
        raise AssertionError(f"unknown fault {fault!r}")
