"""Packed conversations under each topology: the loss and the gradients of one process."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pretrain.config import TrainConfig
from pretrain.topology import Topology
from tests.distributed import cases
from tests.distributed.differences import worst_difference
from tests.distributed.processes import run_processes
from tests.distributed.weighting_cases import train_weighted
from tests.masked_tokens import chats, write_masked

ONE = Topology(pipe=1, data=1, tensor=1)
TOLERANCE = 1e-6
LENGTH = 48
LAYOUTS = {
    "12 micro-batches": (ONE, 1, False),
    "data 2": (Topology(pipe=1, data=2, tensor=1), 2, False),
    "tensor 2": (Topology(pipe=1, data=1, tensor=2), 4, False),
    "sequence-parallel": (Topology(pipe=1, data=1, tensor=2), 4, True),
    "pipeline 2, data 2": (Topology(pipe=2, data=2, tensor=1), 1, False),
    "tensor 2, pipeline 2": (Topology(pipe=2, data=1, tensor=2), 3, False),
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "causal, by token": {"separate_documents": True},
    "causal, by conversation": {"separate_documents": True, "weighting": "document"},
    "prefix, by conversation": {"kind": "prefix", "weighting": "document"},
    "blanks, by token": {
        "kind": "blank_infilling", "mask_token": 5, "long_mask_token": 6, "start_token": 7, "end_token": 2,
    },
}  # fmt: skip


def config_of(objective: str, topology: Topology, micro_batch_size: int, is_sequence_parallel: bool) -> TrainConfig:
    return cases.tiny_config(
        model__vocabulary_size=300,
        data__sequence_length=LENGTH,
        objective=OBJECTIVES[objective],
        parallel={"tensor": topology.tensor, "pipeline": topology.pipe, "sequence": is_sequence_parallel},
        batch={"global_batch_size": 12, "micro_batch_size": micro_batch_size},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packed")


@cache
def mixture_of(folder: Path, objective: str) -> Path:
    head = (6, 7) if objective.startswith("blanks") else ()
    place = folder / str(len(head))
    place.mkdir(exist_ok=True)
    return write_masked(place, pack=LENGTH, talks=chats(1, 60, LENGTH, head), others=chats(2, 40, LENGTH, head))


@cache
def one_process(objective: str, mixture: Path) -> dict[str, Any]:
    config = config_of(objective, ONE, 12, is_sequence_parallel=False)
    result: dict[str, Any] = run_processes(1, train_weighted, config, ONE, mixture)[0]
    return result


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_topology_trains_on_the_same_packs(objective: str, layout: str, folder: Path) -> None:
    topology, micro_batch_size, is_sequence_parallel = LAYOUTS[layout]
    mixture = mixture_of(folder, objective)
    expected = one_process(objective, mixture)
    config = config_of(objective, topology, micro_batch_size, is_sequence_parallel)
    found = run_processes(topology.world_size, train_weighted, config, topology, mixture)[0]
    for key in ("loss", "gradient_norm", "evaluation"):
        assert found[key] == pytest.approx(expected[key], rel=TOLERANCE), key
    assert found["datasets"] == pytest.approx(expected["datasets"], rel=TOLERANCE)
    assert worst_difference(found["gradients"], expected["gradients"]) < (TOLERANCE, "")


def test_a_mean_of_means_is_seen(folder: Path) -> None:
    objective = "causal, by token"
    mixture = mixture_of(folder, objective)
    config = config_of(objective, ONE, 1, is_sequence_parallel=False)
    found = run_processes(1, train_weighted, config, ONE, mixture, "mean of means")[0]
    assert worst_difference(found["gradients"], one_process(objective, mixture)["gradients"]) > (0.01, "")
