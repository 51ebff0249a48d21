"""A checkpoint written in the background equals one that training waits for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.checkpoint.layout import STATES, complete_checkpoints
from pretrain.checkpoint.read import CheckpointReader
from pretrain.topology import Topology
from tests.distributed import cases, save_cases
from tests.distributed.processes import run_processes

TWO = Topology(pipe=1, data=2, tensor=1)


def assert_same(ours: Path, reference: Path) -> None:
    for step in (2, 4):
        one, other = (CheckpointReader(folder / f"step-{step:08d}") for folder in (ours, reference))
        one.verify()
        assert one.names() == other.names()
        for name in one.names():
            for state in STATES:
                assert torch.equal(one.tensor(name, state), other.tensor(name, state)), (
                    f"{state} of {name}, step {step}"
                )


@pytest.fixture(scope="module")
def waited_for(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("waited")
    results = run_processes(2, save_cases.save_while_training, cases.tiny_config(), TWO, str(folder), False)
    assert results == [[(2, False, False), (4, False, False)]] * 2
    return folder


def test_training_goes_on_and_changes_nothing(tmp_path: Path, waited_for: Path) -> None:
    results = run_processes(2, save_cases.save_while_training, cases.tiny_config(), TWO, str(tmp_path), True)
    assert results == [[(2, True, True), (4, True, True)]] * 2
    assert_same(tmp_path, waited_for)


def test_without_the_copy_it_would(tmp_path: Path, waited_for: Path) -> None:
    """Without the copy, the file contains the two steps done meanwhile: the comparison can fail."""
    run_processes(2, save_cases.save_while_training, cases.tiny_config(), TWO, str(tmp_path), True, "no copy")
    with pytest.raises(AssertionError, match="step 2"):
        assert_same(tmp_path, waited_for)


def test_training_waits_when_one_machine_has_too_little_memory(tmp_path: Path, waited_for: Path) -> None:
    fault = "too little memory"
    results = run_processes(2, save_cases.save_while_training, cases.tiny_config(), TWO, str(tmp_path), True, fault)
    assert results == [[(2, False, False), (4, False, False)]] * 2
    assert_same(tmp_path, waited_for)


@pytest.mark.parametrize("background", [True, False], ids=["in the background", "waited for"])
def test_what_cannot_be_written_is_said_on_every_rank(tmp_path: Path, background: bool) -> None:
    heard = run_processes(2, save_cases.fail_to_save, cases.tiny_config(), TWO, str(tmp_path), background)
    assert heard[0] == heard[1]
    ((message,), _) = heard
    assert "step-00000002: not written: rank 1: [Errno 28] No space left on device; older" in message
    assert complete_checkpoints(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
