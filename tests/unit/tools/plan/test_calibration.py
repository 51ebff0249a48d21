"""Step times from measured speeds: each part alone, and files that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pretrain.config import TrainConfig
from tests.distributed import cases
from tools.plan.calibration import (
    Calibration,
    Collective,
    Computation,
    NotMeasured,
    Spent,
    calibrated_time,
    read_calibration,
    settings_of,
    write_calibration,
)
from tools.plan.cost import Layout, block_weights

FREE = Collective((1, 2), (0.0, 0.0), (0.0, 0.0))
NOTHING = Computation(1, *(Spent(0.0, 0.0) for _ in range(4)))


def busy(processes: int, *seconds: float) -> Computation:
    """A rank that never waits."""
    return Computation(processes, *(Spent(one, one) for one in seconds))


def config() -> TrainConfig:
    return cases.tiny_config(batch={"global_batch_size": 32, "micro_batch_size": 2})


def calibration(**changes: object) -> Calibration:
    values = {
        "machine": "a processor",
        "cores": 0,
        "settings": settings_of(config()),
        "computation": {1: [busy(1, 1.0, 0.5, 0.1, 0.2)], 2: [busy(2, 0.6, 0.3, 0.05, 0.1)]},
        "all_reduce": {2: FREE, 4: FREE},
        "all_gather": {2: FREE, 4: FREE},
        "send": {2: FREE},
        **changes,
    }
    return Calibration(**values)  # type: ignore[arg-type]


def test_one_process_takes_what_was_measured() -> None:
    time = calibrated_time(calibration(), config(), Layout(1, 1, 1, 2, 16), [4])
    assert time.products == pytest.approx(16 * 4.5) and time.optimizer == pytest.approx(0.6)
    assert time.total == pytest.approx(16 * 4.5 + 0.6)


def test_stages_wait_for_each_other() -> None:
    time = calibrated_time(calibration(), config(), Layout(1, 2, 1, 2, 16), [2, 2])
    assert time.products == pytest.approx(16 * 2.5) and time.bubble == pytest.approx(2.0)


def test_each_collective_counts_once() -> None:
    """A block has four sums, which its time contains, and there is one more at either end; a stage between two others
    sends and receives twice; gradients of a stage are summed and its weights gathered."""
    one = Collective((1, 2), (0.1, 0.1), (0.0, 0.0))
    timed = calibration(all_reduce={2: one, 4: FREE})
    sums = 16 * (4 * 4 + 2) * 0.1
    time = calibrated_time(timed, config(), Layout(2, 1, 1, 2, 16), [4])
    assert time.tensor == pytest.approx(sums) and time.products == pytest.approx(16 * (4 * 0.6 + 0.3) - sums)
    nothing = {1: [NOTHING]}
    one = Collective((1, 2), (1.0, 1.0), (0.0, 0.0))
    timed = calibration(computation=nothing, send={2: one})
    assert calibrated_time(timed, config(), Layout(1, 4, 1, 2, 16), [1] * 4).pipeline == pytest.approx(16 * 2)
    model = config().model
    weights = 4 * block_weights(model) + 2 * model.padded_vocabulary_size(1) * model.hidden_size
    linear = Collective((0, 4), (0.0, 4.0), (0.0, 0.0))
    timed = calibration(computation=nothing, all_reduce={2: FREE, 4: linear})
    assert calibrated_time(timed, config(), Layout(1, 1, 4, 2, 4), [4]).data == pytest.approx(4 * weights)


def test_processes_share_processors() -> None:
    """Four stages on two processors take half of their work: what waits leaves its processor to others."""
    layout = Layout(1, 4, 1, 2, 16)
    alone, shared = (calibrated_time(calibration(cores=cores), config(), layout, [1] * 4) for cores in (0, 2))
    work = 16 * (4 * 1.0 + 0.5) + 4 * (0.1 + 0.2 / 2)  # each stage has a part of what a step costs besides
    assert alone.bubble > 0 and shared.bubble == 0
    assert shared.total == pytest.approx(work / 2)


def test_processes_slow_each_other_down() -> None:
    """Of a measurement alone and beside seven others, what lies between is between them, and nothing lies beyond."""
    measured = [busy(1, 1.0, 0.5, 0.1, 0.2), busy(8, 1.7, 0.5, 0.1, 0.2)]
    timed = calibration(
        computation={1: measured}, cores=8, all_gather={4: FREE, 16: FREE}, all_reduce={4: FREE, 16: FREE}
    )
    blocks = [calibrated_time(timed, config(), Layout(1, 1, data, 2, 1), [1]).products - 0.5 for data in (1, 4, 16)]
    assert blocks == pytest.approx([1.0, 1.3, 2 * 1.7 + 0.5])


def test_what_waits_leaves_its_processor_to_others() -> None:
    """Ranks that compute for half of their time: four on two processors take as long as two do."""
    waiting = Computation(2, Spent(1.0, 0.5), *(Spent(0.0, 0.0) for _ in range(3)))
    timed = calibration(computation={2: [waiting]}, cores=2, all_reduce={2: FREE})
    alone, beside = (calibrated_time(timed, config(), Layout(2, 1, data, 2, 16), [4]) for data in (1, 2))
    assert alone.total == beside.total == pytest.approx(16 * 4)


@pytest.mark.parametrize(("size", "seconds"), [(100, 1.0), (150, 1.5), (300, 3.0), (1000, 10.0), (0, 0.0)])
def test_sizes_between_and_beyond_the_measured(size: int, seconds: float) -> None:
    assert Collective((100, 200, 400), (1.0, 2.0, 4.0), (0.0, 0.0, 0.0)).at(size)[0] == pytest.approx(seconds)


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_calibration(tmp_path / "machine.yaml", calibration())
    read = read_calibration(tmp_path / "machine.yaml", config())
    assert replace(read, settings={}) == replace(calibration(), settings={})


def test_another_model_is_refused(tmp_path: Path) -> None:
    write_calibration(tmp_path / "machine.yaml", calibration())
    other = cases.tiny_config(batch={"global_batch_size": 32, "micro_batch_size": 4})
    with pytest.raises(ValueError, match=r"measured with another batch\.micro_batch_size"):
        read_calibration(tmp_path / "machine.yaml", other)


@pytest.mark.parametrize("text", ["[1, 2]", "machine: x", "a: [", ""])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "machine.yaml").write_text(text)
    with pytest.raises(ValueError, match="no calibration"):
        read_calibration(tmp_path / "machine.yaml", config())
    with pytest.raises(ValueError, match="No such file"):
        read_calibration(tmp_path / "missing.yaml", config())


def test_degrees_that_were_not_measured_are_refused() -> None:
    with pytest.raises(NotMeasured, match="tensor degree 4: measured were 1, 2"):
        calibrated_time(calibration(), config(), Layout(4, 1, 1, 2, 16), [4])
