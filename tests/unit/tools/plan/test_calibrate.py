"""Measurement of a machine: the numbers of a step, groups that are timed together, and what becomes of a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundation.configuration import load_config
from pretrain.config import TrainConfig
from tools.bench.planned import machine_config
from tools.plan.calibrate import BLOCKS, MICRO_BATCHES, _measure_groups, _numbers_of_groups, calibrate, parts_of
from tools.plan.calibration import calibrated_time, read_calibration, write_calibration
from tools.plan.cost import Layout


def test_the_numbers_of_a_step_come_back() -> None:
    block, rest, block_update, rest_update = 0.3, 0.2, 0.05, 0.01
    steps = {
        (blocks, micro): rest_update + blocks * block_update + micro * (rest + blocks * block)
        for blocks in BLOCKS
        for micro in MICRO_BATCHES
    }
    assert parts_of(steps) == pytest.approx((block, rest, block_update, rest_update))
    noise = {shape: seconds - (shape == (BLOCKS[0], MICRO_BATCHES[1])) for shape, seconds in steps.items()}
    assert min(parts_of(noise)) == 0


@pytest.mark.parametrize(
    ("degree", "processors", "groups"),
    [(1, 2, [1, 2]), (2, 2, [1]), (4, 2, [1]), (2, 16, [1, 8]), (1, 0, [1])],
    ids=["as many as processors", "they are all", "more than there are", "many groups", "on GPUs"],
)
def test_groups_fill_the_processors(degree: int, processors: int, groups: list[int]) -> None:
    assert _numbers_of_groups(degree, processors) == groups


def test_a_group_that_fails_ends_the_others_and_says_why(tmp_path: Path) -> None:
    """The other one would wait for it."""
    with pytest.raises(RuntimeError, match=r"calibration with 1 processes ended with 1:(.|\n)*missing\.yaml"):
        _measure_groups(tmp_path / "missing.yaml", [], 1, "computation", 2)


@pytest.mark.slow
def test_a_machine_is_measured(tmp_path: Path) -> None:
    path = machine_config(tmp_path, hidden=64, layers=2, sequence=32)
    found = calibrate(path, [], 2)
    write_calibration(tmp_path / "machine.yaml", found)
    config = load_config(TrainConfig, path)
    read = read_calibration(tmp_path / "machine.yaml", config)
    assert read.computation == found.computation
    assert [one.processes for one in found.computation[2]] == [2]
    assert found.computation[1][0].processes == 1
    for layout, stages in ((Layout(1, 1, 1, 2, 8), [2]), (Layout(2, 1, 1, 2, 8), [2]), (Layout(1, 2, 1, 2, 8), [1, 1])):
        assert 0 < calibrated_time(read, config, layout, stages).total < 60
