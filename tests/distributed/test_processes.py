"""The runner of the distributed tests reports a process that has died and does not wait for it."""

from __future__ import annotations

import os

import pytest

from pretrain.topology import Topology
from tests.distributed import cases
from tests.distributed.processes import run_processes


def test_a_process_that_dies_without_a_word_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"rank [01] of 2 ended with 7 and no result"):
        run_processes(2, os._exit, 7)


def test_every_process_group_has_our_timeout() -> None:
    """Ours, DeepSpeed's and the checkpoints'; torch's default for NCCL is shorter than an evaluation may take."""
    config = cases.tiny_config(parallel__tensor=2, parallel__pipeline=2, model__tied_embedding=True)
    found = run_processes(4, cases.timeouts_of_groups, config, Topology(2, 1, 2), 2100)
    assert all(len(seconds) > 5 for seconds in found)
    # The first group is that of the test's processes, which were connected before.
    assert {seconds for groups in found for seconds in groups[1:]} == {2100.0}
