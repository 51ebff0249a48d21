"""Replicated weights that drift apart, and ranks that start differently, are detected and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.engine.library import refuse_faulty_versions
from pretrain.topology import Topology
from tests.distributed import cases
from tests.distributed.processes import run_processes
from tests.small_run import write_small_run


def test_replicas_agree_after_training() -> None:
    assert run_processes(4, cases.drifted, Topology(1, 2, 2), "") == [""] * 4


@pytest.mark.parametrize(
    ("topology", "name", "message"),
    [
        (Topology(1, 1, 2), "layers.1.mlp_norm.weight", "layers.1.mlp_norm.weight: ranks 0 | 1"),
        (Topology(1, 2, 1), "layers.1.mlp.down.weight", "shard of tensor rank 0: ranks 0 | 1"),
        (Topology(2, 1, 1), "embedding.weight", "embedding.weight, shard of tensor rank 0: ranks 0 | 1"),
    ],
    ids=["tensor", "data", "tied over stages"],
)
def test_drift_is_named_on_every_rank(topology: Topology, name: str, message: str) -> None:
    for error in run_processes(2, cases.drifted, topology, name):
        assert "step 7: 1 weights differ" in error and message in error


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_deepspeed_understood_is_held_to_what_was_asked(precision: str) -> None:
    """Each key dropped from the dictionary is an error that names it; so is a different optimizer."""
    (lost,) = run_processes(1, cases.lost_keys, precision)
    assert lost == []


@pytest.mark.parametrize("version", ["0.18.3", "0.19.0", "0.19.2+abc"])
def test_faulty_versions_are_refused(version: str) -> None:
    with pytest.raises(ValueError, match="scales gradients wrongly"):
        refuse_faulty_versions(version)


@pytest.mark.parametrize("version", ["0.18.2", "0.19.3", "0.19.8", "1.0.0"])
def test_other_versions_are_not(version: str) -> None:
    refuse_faulty_versions(version)


def test_ranks_that_were_started_with_something_else_are_named(tmp_path: Path) -> None:
    for said in run_processes(2, cases.refused_starts, str(write_small_run(tmp_path))):
        assert said == {
            what: f"ranks [1] have another {what} than rank 0: give every node the same files"
            for what in ("configuration", "token files or sample order", "library versions", "program code")
        }


def test_tied_weights_stay_the_same_with_more_than_two_replicas() -> None:
    """Three numbers have a sum that depends on their order, and a stage's buffers decide about the order: `whole`
    compares the copies on both stages, bit for bit."""
    config = cases.tiny_config(model__tied_embedding=True)
    (found, *_) = run_processes(8, cases.train, config, Topology(pipe=2, data=4, tensor=1), 2)
    assert "embedding.weight" in found["gradients"]
