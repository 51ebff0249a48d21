"""Loss on the held-out samples."""

from __future__ import annotations

from dataclasses import dataclass

from pretrain.data.run_data import HeldOut
from pretrain.engine.engine import Engine


@dataclass(frozen=True)
class Evaluation:
    """Result of one evaluation.

    Attributes:
        loss: mean over all targets that count in the evaluated samples, in nats.
        tokens: number of these targets.
        datasets: loss and number of targets of each dataset.
    """

    loss: float
    tokens: int
    datasets: dict[str, tuple[float, int]]


def evaluate(engine: Engine, held_out: HeldOut) -> Evaluation:
    """Mean loss over the evaluated held-out samples, in total and by dataset. Collective."""
    engine.set_sequence_length(held_out.batches.reader.sequence_length)
    losses = {part.dataset: engine.evaluate(*held_out.batches.evaluation(part)) for part in held_out.parts}
    total = sum(part.weight for part in held_out.parts)
    return Evaluation(
        sum(part.weight * losses[part.dataset] for part in held_out.parts) / total,
        sum(part.targets for part in held_out.parts),
        {part.dataset: (losses[part.dataset], part.targets) for part in held_out.parts},
    )
