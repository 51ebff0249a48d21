"""What crosses the network in a step, and where the host waits for a number."""

from __future__ import annotations

from typing import Any

import pytest

from pretrain.topology import Topology
from tests.distributed import cases, traffic_cases
from tests.distributed.processes import run_processes

CHECK_OF_TARGETS = "loss.py mean_loss"
"""Reads the largest target, on CPUs only."""
NUMBERS_OF_THE_STEP = {"engine.py train_step": 1}


def traffic_of(topology: Topology, accumulation: int, **changes: Any) -> list[tuple[dict[str, int], dict[str, int]]]:
    config = cases.tiny_config(
        precision="bf16",
        parallel__tensor=topology.tensor,
        parallel__pipeline=topology.pipe,
        batch={"global_batch_size": 2 * accumulation * topology.data, "micro_batch_size": 2},
        **changes,
    )
    return run_processes(topology.world_size, traffic_cases.of_a_step, config, topology)


@pytest.mark.parametrize(
    ("topology", "changes"),
    [
        (Topology(1, 1, 1), {}),
        (Topology(1, 1, 2), {"parallel__sequence": True}),
        (Topology(1, 2, 1), {"recomputation": "full"}),
        (Topology(2, 1, 1), {"model__tied_embedding": True}),
    ],
    ids=str,
)
def test_the_host_reads_the_numbers_of_a_step_and_nothing_else(topology: Topology, changes: dict[str, Any]) -> None:
    for _, reads in traffic_of(topology, 3, **changes):
        reads.pop(CHECK_OF_TARGETS, None)
        assert reads == NUMBERS_OF_THE_STEP


def test_partial_gradients_are_summed_once_a_step() -> None:
    """A micro-batch has two all-reduces, those of the loss; all others belong to the step."""
    one, three = (traffic_of(Topology(1, 1, 2), n, parallel__sequence=True)[0][0]["allreduce"] for n in (1, 3))
    assert three - one == 2 * 2
    partial, norm, numbers = 1, 1, 1
    assert one == 2 + partial + norm + numbers


def test_data_parallelism_adds_one_reduction_for_each_group_of_weights() -> None:
    """Matrices, and weights without decay; beside them the loss, the norm and the numbers of the step."""
    (collectives, _), *_ = traffic_of(Topology(1, 2, 1), 3)
    groups, loss, norm, numbers = 2, 1, 1, 1
    assert collectives["allreduce"] == groups + loss + norm + numbers
