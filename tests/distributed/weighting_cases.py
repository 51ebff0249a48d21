"""Code run by the processes of `test_weighting.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrain.config import TrainConfig
from pretrain.data.batches import Batches
from pretrain.data.loader import SampleReader
from pretrain.data.mixture import load_mixture
from pretrain.data.objective import Batch, Objective
from pretrain.engine.engine import Engine
from pretrain.engine.processes import join_processes
from pretrain.topology import Topology
from tests.distributed.cases import whole


def train_weighted(config: TrainConfig, topology: Topology, mixture: Path, fault: str = "") -> dict[str, Any]:
    """Loss, norm and gradients of the first step, and the held-out loss before it, in total and by dataset."""
    join_processes(timeout_seconds=300)
    engine = Engine(config, topology)

    def batches(split: Any) -> Batches:
        reader = SampleReader(load_mixture(mixture), config.data.sequence_length, config.seed, split)
        objective = Objective(config.objective, config.seed, split)
        return Batches(reader, config.batch.micro_batch_size, engine.coordinate.data, topology.data, objective)

    held_out = batches("heldout")
    parts = held_out.held_out_parts(20)
    losses = {part.dataset: engine.evaluate(*held_out.evaluation(part)) for part in parts}
    gradients: list[Any] = []
    engine.before_update(lambda: gradients.append(whole(engine, engine.gradients())))
    training = batches("train").training(0, config.batch.sizes)
    result = engine.train_step(_mean_of_means(training) if fault else training, config.optimizer.learning_rate)
    return {
        "loss": result.loss,
        "gradient_norm": result.gradient_norm,
        "evaluation": sum(part.weight * losses[part.dataset] for part in parts) / sum(part.weight for part in parts),
        "datasets": losses,
        "gradients": gradients[0],
    }


def _mean_of_means(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The fault: each micro-batch is averaged on its own, and one without targets counts as zero."""
    for inputs, (targets, weights) in batches:
        yield inputs, (targets, weights * (len(weights) / max(float(weights.sum()), 1e-9)))
