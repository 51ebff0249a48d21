"""Tokens, documents or samples weigh the same in the whole global batch, however it is divided."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.config import TrainConfig
from pretrain.topology import Topology
from tests.distributed import cases
from tests.distributed.differences import worst_difference
from tests.distributed.processes import run_processes
from tests.distributed.weighting_cases import train_weighted
from tests.masked_tokens import conversations, write_masked

ONE = Topology(pipe=1, data=1, tensor=1)
TOLERANCE = 1e-6
LAYOUTS = {
    "12 micro-batches": (ONE, 1),
    "data 2": (Topology(pipe=1, data=2, tensor=1), 2),
    "tensor 2": (Topology(pipe=1, data=1, tensor=2), 4),
    "pipeline 2, data 2": (Topology(pipe=2, data=2, tensor=1), 1),
}


def config_of(weighting: str, topology: Topology, micro_batch_size: int) -> TrainConfig:
    return cases.tiny_config(
        model__vocabulary_size=300,
        objective__weighting=weighting,
        parallel__tensor=topology.tensor,
        parallel__pipeline=topology.pipe,
        batch={"global_batch_size": 12, "micro_batch_size": micro_batch_size},
    )


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masked(tmp_path_factory.mktemp("masked"), talks=conversations(1, 80), pages=conversations(2, 40))


@cache
def one_process(weighting: str, mixture: Path) -> dict[str, Any]:
    result: dict[str, Any] = run_processes(1, train_weighted, config_of(weighting, ONE, 12), ONE, mixture)[0]
    return result


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weighting", ["token", "document", "sample"])
def test_the_loss_is_one_mean_over_the_global_batch(weighting: str, layout: str, mixture: Path) -> None:
    topology, micro_batch_size = LAYOUTS[layout]
    expected = one_process(weighting, mixture)
    config = config_of(weighting, topology, micro_batch_size)
    found = run_processes(topology.world_size, train_weighted, config, topology, mixture)[0]
    for key in ("loss", "gradient_norm", "evaluation"):
        assert found[key] == pytest.approx(expected[key], rel=TOLERANCE), key
    assert found["datasets"] == pytest.approx(expected["datasets"], rel=TOLERANCE)
    assert worst_difference(found["gradients"], expected["gradients"]) < (TOLERANCE, "")
    # An untrained model has the loss of a guess, even where most windows have no targets.
    assert expected["loss"] == pytest.approx(np.log(300), rel=0.02)
    assert expected["evaluation"] == pytest.approx(np.log(300), rel=0.02)


def test_a_mean_of_means_is_seen(mixture: Path) -> None:
    found = run_processes(1, train_weighted, config_of("token", ONE, 1), ONE, mixture, "mean of means")[0]
    assert worst_difference(found["gradients"], one_process("token", mixture)["gradients"]) > (0.1, "")
