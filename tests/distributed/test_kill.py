"""A run killed at any moment and started again ends with the same bits."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pretrain.checkpoint.layout import STATES
from pretrain.checkpoint.read import CheckpointReader
from pretrain.monitor.metrics import read_metrics
from tests.distributed import cases
from tests.distributed.processes import run_processes, start_processes
from tests.small_run import write_small_run

PROCESSES = 4
STEPS = 6
SETTINGS = (
    "parallel.tensor=2",
    "parallel.pipeline=2",
    "checkpoint.every_steps=1",
    f"schedule.total_steps={STEPS}",
)
Moment = Callable[[Path], None]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Folder with a finished run, and the seconds that the run took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = write_small_run(folder)
    run_processes(PROCESSES, cases.train_command, str(config), SETTINGS)  # the first one waits for imports
    shutil.rmtree(folder / "train")
    started = time.monotonic()
    run_processes(PROCESSES, cases.train_command, str(config), SETTINGS)
    return folder, time.monotonic() - started


def run_killed(folder: Path, moment: Moment, victims: list[int]) -> bool:
    """Start the run, wait for the moment, kill some ranks; the launcher's part, ending the others, follows.

    Returns:
        Whether the run was still going then.
    """
    store = folder / f"store-{time.monotonic_ns()}"
    processes, _ = start_processes(PROCESSES, str(store), cases.train_command, str(folder / "train.yaml"), SETTINGS)
    moment(folder)
    alive = all(process.is_alive() for process in processes)
    for rank in victims:
        processes[rank].kill()
    for process in processes:
        process.kill()
        process.join()
    return alive


def finish_and_compare(folder: Path, undisturbed: Path) -> None:
    run_processes(PROCESSES, cases.train_command, str(folder / "train.yaml"), SETTINGS)
    ours, reference = (CheckpointReader(path / "train" / "checkpoints") for path in (folder, undisturbed))
    ours.verify()
    assert ours.step == reference.step == STEPS
    assert ours.consumed_samples == reference.consumed_samples
    for name in reference.names():
        for state in STATES:
            assert torch.equal(ours.tensor(name, state), reference.tensor(name, state)), f"{state} of {name}"
    steps = [
        [(line["step"], line["loss"], line["gradient_norm"]) for line in lines if line["kind"] == "train"]
        for lines in (read_metrics(path / "train" / "metrics.jsonl") for path in (folder, undisturbed))
    ]
    assert steps[0] == steps[1]
    leftovers = [path.name for path in (folder / "train" / "checkpoints").iterdir() if path.name.startswith(".removed")]
    assert not leftovers


def kill_at_random(folder: Path, undisturbed: tuple[Path, float], seed: int) -> None:
    source = random.Random(seed)
    write_small_run(folder)
    for _ in range(2):  # also the restarted run may die
        delay = source.uniform(0.2, 1.0) * undisturbed[1]
        victims = source.choice([[rank] for rank in range(PROCESSES)] + [list(range(PROCESSES))])
        run_killed(folder, lambda _, delay=delay: time.sleep(delay), victims)  # type: ignore[misc]
    finish_and_compare(folder, undisturbed[0])


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_a_random_moment(tmp_path: Path, undisturbed: tuple[Path, float], seed: int) -> None:
    kill_at_random(tmp_path, undisturbed, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 30))
def test_killed_at_thirty_random_moments(tmp_path: Path, undisturbed: tuple[Path, float], seed: int) -> None:
    kill_at_random(tmp_path, undisturbed, seed)


def test_killed_during_a_save(tmp_path: Path, undisturbed: tuple[Path, float]) -> None:
    write_small_run(tmp_path)

    def while_saving(folder: Path) -> None:
        unfinished = folder / "train" / "checkpoints" / ".unfinished-step-00000004"
        while not unfinished.exists():
            time.sleep(0.001)

    assert run_killed(tmp_path, while_saving, list(range(PROCESSES)))
    finish_and_compare(tmp_path, undisturbed[0])
