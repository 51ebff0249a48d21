"""A hang is detected, the stacks of all ranks are written, the culprit is named and every process ends."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from pretrain.launch.exit_codes import ExitCode
from pretrain.monitor.watchdog import HANGS_FOLDER, REPORT_FILE, culprits, read_states
from tests.distributed import hang_cases
from tests.distributed.processes import start_processes
from tests.small_run import write_small_run

PROCESSES = 4
SETTINGS = (
    "parallel.tensor=2",
    "parallel.pipeline=2",
    "spikes.enabled=false",  # else it saves before the first step
    "checkpoint.every_steps=4",
    "monitor.hang.training_seconds=10",
    "monitor.hang.evaluating_seconds=10",
    "monitor.hang.saving_seconds=10",
)


@pytest.mark.parametrize(
    ("kind", "activity", "function"),
    [
        ("dead loop", "training", "spin_for_ever"),
        pytest.param("blocked loader", "training", "wait_for_storage", marks=pytest.mark.slow),
        pytest.param("blocked evaluation", "evaluating", "wait_for_storage", marks=pytest.mark.slow),
        pytest.param("blocked save", "saving", "wait_for_storage", marks=pytest.mark.slow),
        pytest.param("stopped", "training", None, marks=pytest.mark.slow),
    ],
)
def test_a_hang_is_found_and_its_culprit_named(tmp_path: Path, kind: str, activity: str, function: str | None) -> None:
    config = write_small_run(tmp_path)
    fifo = tmp_path / "storage"
    os.mkfifo(fifo)
    with tempfile.TemporaryDirectory() as store:
        processes, _ = start_processes(
            PROCESSES, f"{store}/store", hang_cases.hang, str(config), SETTINGS, kind, str(fifo)
        )
        awake = [process for rank, process in enumerate(processes) if not (kind == "stopped" and rank == 2)]
        for process in awake:
            process.join()
        for process in processes:
            process.kill()
            process.join()
    assert [process.exitcode for process in awake] == [ExitCode.REQUEUE] * len(awake)

    (folder,) = (tmp_path / "train" / HANGS_FOLDER).iterdir()
    states = read_states(folder)
    assert sorted(states) == ([0, 1, 3] if kind == "stopped" else [0, 1, 2, 3])
    assert list(culprits(states, PROCESSES)) == [2]
    assert max(states.values(), key=lambda state: state.seconds).activity == activity
    if function is not None:
        assert states[2].frames[-1].function == function
        assert not states[2].waits
    assert all(state.waits for rank, state in states.items() if rank != 2)
    report = (folder / REPORT_FILE).read_text()
    assert "culprit: rank 2 on " in report and f"(monitor.hang.{activity}_seconds)" in report
