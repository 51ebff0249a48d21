"""The memory that `altiplano plan` counts is what processes really hold, by part."""

from __future__ import annotations

from typing import Any

import pytest

from pretrain.config import TrainConfig
from pretrain.topology import Topology
from tests.distributed import cases, memory_cases
from tests.distributed.processes import run_processes
from tools.plan.memory import COMMUNICATOR_BYTES, communicators, memory_of

SIZES = {
    "model__vocabulary_size": 3900,
    "model__hidden_size": 256,
    "model__attention_heads": 4,
    "model__feed_forward_size": 704,
    "model__maximum_positions": 128,
    "data__sequence_length": 128,
    "batch": {"global_batch_size": 8, "micro_batch_size": 2},
}
"""Large enough that tables of angles and DeepSpeed's alignment do not count."""


def config_for(topology: Topology, **changes: Any) -> TrainConfig:
    degrees = {
        "parallel__tensor": topology.tensor,
        "parallel__pipeline": topology.pipe,
        "parallel__data": topology.data,
        "parallel__context": topology.context,
    }
    return cases.tiny_config(**{**SIZES, **degrees, **changes})


@pytest.mark.parametrize(
    ("topology", "changes"),
    [
        (Topology(1, 1, 1), {"precision": "bf16"}),
        (Topology(1, 1, 1), {}),
        (Topology(1, 1, 1), {"precision": "bf16", "model__tied_embedding": True, "recomputation": "full"}),
        (Topology(1, 2, 1), {"precision": "bf16"}),
        (Topology(1, 2, 1), {}),
        (Topology(2, 1, 2), {"precision": "bf16"}),
        (Topology(1, 1, 1, context=2), {"precision": "bf16"}),
        (Topology(1, 1, 1, context=2), {"precision": "bf16", "recomputation": "selective"}),
        (
            Topology(2, 1, 1),
            {"precision": "bf16", "initial_weights": "unused", "adapter": {"rank": 8, "alpha": 16}},
        ),
    ],
    ids=str,
)
def test_a_rank_holds_what_the_plan_says(topology: Topology, changes: dict[str, Any]) -> None:
    """State between the steps, and all that a step holds at once, to five per cent of the whole."""
    config = config_for(topology, **changes)
    measured = run_processes(topology.world_size, memory_cases.memory_of_a_step, config, topology)
    fullest = max(measured, key=lambda rank: rank["state"] + rank["peak"])
    planned = memory_of(config, topology.data)
    # In fp32, gradients are freed between the steps: 4 of the 8 + 8 / replicas bytes of a weight.
    gradients = 0.0 if config.precision == "bf16" else planned.state * 4 / (8 + 8 / topology.replicas)
    whole = planned.total - planned.communication
    print(fullest, planned)
    assert fullest["state"] == pytest.approx(planned.state - gradients, rel=0.05)
    assert fullest["state"] + fullest["peak"] == pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize("optimizer", [{"kind": "muon"}, {"kind": "adafactor"}], ids=str)
def test_other_optimizers_hold_their_state(optimizer: dict[str, Any]) -> None:
    """Muon's matrices have one moment. What an update makes on the way is estimated, not less than half of it."""
    config = config_for(Topology(1, 2, 1), precision="bf16", optimizer={"learning_rate": 1e-3, **optimizer})
    fullest = max(
        run_processes(2, memory_cases.memory_of_a_step, config, Topology(1, 2, 1)), key=lambda rank: rank["state"]
    )
    planned = memory_of(config, 2)
    assert fullest["state"] == pytest.approx(planned.state, rel=0.05)
    assert fullest["peak"] == pytest.approx(planned.working - planned.communication, rel=0.5)


@pytest.mark.parametrize(
    ("degrees", "groups"), [((1, 1, 1), 0), ((2, 1, 1), 3), ((1, 1, 8), 2), ((2, 2, 2), 6), ((1, 4, 1), 5)]
)
def test_communicators_of_a_rank(degrees: tuple[int, int, int], groups: int) -> None:
    """Tensor 2 alone: all ranks, the axis, and the copy of the model, which are three communicators of the same two."""
    assert communicators(*degrees) == groups
    tensor, pipeline, data = degrees
    batch = {"global_batch_size": 16, "micro_batch_size": 2}
    config = config_for(Topology(pipeline, data, tensor), batch=batch)
    assert memory_of(config, data).communication == groups * COMMUNICATOR_BYTES
