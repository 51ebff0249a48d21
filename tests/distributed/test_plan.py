"""The state that `altiplano plan` counts is what DeepSpeed's engine really allocates."""

from __future__ import annotations

from typing import Any

import pytest

from pretrain.topology import Topology
from tests.distributed import cases
from tests.distributed.processes import run_processes
from tools.plan import plan


@pytest.mark.parametrize(
    "changes",
    [{}, {"initial_weights": "unused", "adapter": {"rank": 8, "alpha": 16}}],
    ids=["all weights", "adapters beside frozen weights"],
)
def test_the_fullest_rank_holds_what_the_plan_says(changes: dict[str, Any]) -> None:
    topology = Topology(pipe=2, data=1, tensor=2)
    config = cases.tiny_config(precision="bf16", parallel__tensor=2, parallel__pipeline=2, parallel__data=1, **changes)
    measured = run_processes(4, cases.state_memory, config, topology)
    assert len(set(measured)) == 2  # two stages
    # With its activations the first stage is the fullest, though the last one has a norm more. DeepSpeed aligns its
    # flat buffers.
    assert plan(config, 1).state == pytest.approx(measured[0], abs=500)
