"""Learning rates that follow the width are those of one process under every parallel axis."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from pretrain.topology import Topology
from tests.distributed import cases
from tests.distributed.differences import worst_difference
from tests.distributed.processes import run_processes

ALONE = Topology(1, 1, 1)
OTHERS = ((2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 2))


@cache
def trained(topology: Topology, base: int | None = 8, epsilon: float = 1e-5) -> dict[str, Any]:
    degrees = {"parallel__tensor": topology.tensor, "parallel__pipeline": topology.pipe}
    config = cases.tiny_config(model__base_hidden_size=base, optimizer__epsilon=epsilon, **degrees)
    (first, *_) = run_processes(topology.world_size, cases.train, config, topology, 2)
    return dict(first)


@pytest.mark.parametrize(
    "topology",
    [Topology(2, 1, 2), *(pytest.param(Topology(*axes), marks=pytest.mark.slow) for axes in OTHERS)],
    ids=str,
)
def test_updates_are_those_of_one_process(topology: Topology) -> None:
    ours, reference = trained(topology), trained(ALONE)
    for what in ("gradients", "update", "weights"):
        difference, name = worst_difference(ours[what], reference[what])
        assert difference < 2e-5, f"{what} of {name}: {difference:.1e}"
    assert worst_difference(ours["update"], trained(ALONE, None)["update"])[0] > 0.1, "or nothing was compared"


def test_matrices_take_smaller_steps_and_decay_as_the_others() -> None:
    """Four times the base's width. Without epsilon, AdamW's first steps are as large as the learning rate."""
    config = cases.tiny_config()
    lost = config.optimizer.learning_rate * config.optimizer.weight_decay
    ours, plain = (trained(ALONE, base, 1e-12) for base in (8, None))
    for name, ratio in (
        ("embedding.weight", 1.0),
        ("layers.1.mlp.down.weight", 0.25),
        ("layers.2.attention.query_key_value.weight", 0.25),
        ("head.weight", 0.25),
    ):
        steps = [float(np.mean(np.abs(run["update"][name] + run["initial"][name] * lost))) for run in (ours, plain)]
        assert steps[0] / steps[1] == pytest.approx(ratio, rel=0.1), name
