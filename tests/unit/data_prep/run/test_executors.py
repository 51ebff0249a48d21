from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest

from data_prep.run import executors
from data_prep.run.commit_records import Stage
from data_prep.run.directory import RunDirectory, Share
from data_prep.run.executors import ShareDone, UnitError, run_units

UNITS = tuple(f"web-{index:05d}" for index in range(6))


def write_unit(
    unit: str, stage: Stage, fail_at: str = "", kill_at: str = "", kill_once_at: str = "", wait_at: str = ""
) -> None:
    if unit == fail_at:
        raise ValueError("raw.jsonl:7: something is wrong")
    if unit == kill_once_at and not (stage.run.root / "killed").exists():
        (stage.run.root / "killed").touch()
        kill_at = unit
    if unit == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    if unit == wait_at:
        time.sleep(600)
    output = stage.run.signals / unit
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(f"content of {unit}")
    with open(stage.run.root / "log", "a") as log:
        log.write(f"{unit} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
    stage.commit(unit, [output], {"documents": 1})


def make_stage(folder: Path) -> Stage:
    return Stage(RunDirectory(folder), "measure", 1, {}, "")


def log(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "log").read_text().splitlines()]


@pytest.mark.parametrize("workers", [1, 2])
def test_each_unit_runs_once_and_done_ones_are_skipped(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = make_stage(tmp_path)
    write_unit(UNITS[2], stage)
    run_units(partial(write_unit, stage=stage), UNITS, workers, "measure", stage)
    assert sorted(line[0] for line in log(tmp_path)) == sorted(UNITS)
    assert "6 of 6 units" in capsys.readouterr().out
    run_units(partial(write_unit, stage=stage), UNITS, workers, "measure", stage)
    assert len(log(tmp_path)) == 6
    assert "all 6 already done" in capsys.readouterr().out


def test_workers_are_other_processes_with_one_thread_each(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    run_units(partial(write_unit, stage=stage), UNITS, 2, "measure", stage)
    assert str(os.getpid()) not in {line[1] for line in log(tmp_path)}
    assert {line[2] for line in log(tmp_path)} == {"1"}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_failure_names_unit_and_cause_and_loses_nothing(tmp_path: Path, workers: int) -> None:
    stage = make_stage(tmp_path)
    with pytest.raises(UnitError, match=r"^web-00003: raw\.jsonl:7: something is wrong$"):
        run_units(partial(write_unit, stage=stage, fail_at=UNITS[3]), UNITS, workers, "measure", stage)
    done = set(stage.records())
    assert UNITS[3] not in done
    if workers == 1:
        assert done == set(UNITS[:3])
    run_units(partial(write_unit, stage=stage), UNITS, workers, "measure", stage)
    assert set(stage.records()) == set(UNITS)
    assert all([unit for unit, *_ in log(tmp_path)].count(unit) == 1 for unit in done)


def test_a_killed_worker_is_noticed(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    with pytest.raises(UnitError, match=r"measure: a worker process was killed, .* ran .*web-00001.*; lower `workers`"):
        run_units(partial(write_unit, stage=stage, kill_at=UNITS[1]), UNITS[:2], 2, "measure", stage)


def test_a_function_that_commits_nothing_is_a_failure(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    with pytest.raises(UnitError, match="measure: web-00000 ended without a commit record"):
        run_units(str.upper, UNITS[:1], 1, "measure", stage)


def test_killed_and_run_again_does_only_what_is_missing(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import sys
        from functools import partial
        from pathlib import Path
        from data_prep.run.executors import run_units
        from tests.unit.data_prep.run.test_executors import UNITS, make_stage, write_unit
        if __name__ == "__main__":
            stage = make_stage(Path({str(tmp_path)!r}))
            with stage.run.locked():
                run_units(partial(write_unit, stage=stage, wait_at=sys.argv[1]), UNITS, 2, "measure", stage)
        """
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    process = subprocess.Popen([sys.executable, str(script), UNITS[3]], env=environment, stdout=subprocess.DEVNULL)
    stage = make_stage(tmp_path)
    while len(stage.records()) < 5 and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = dict.fromkeys(line[0] for line in log(tmp_path))
    assert UNITS[3] not in before
    # the worker that was left sleeping ends with its parent, or this run would wait for it
    subprocess.run([sys.executable, str(script), "none"], env=environment, check=True, timeout=60)
    assert [line[0] for line in log(tmp_path)] == [*before, UNITS[3]]


def test_shares_are_disjoint_and_together_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = make_stage(tmp_path)
    write_unit(UNITS[2], whole)
    seen = []
    for rank in range(4):
        stage = Stage(RunDirectory(tmp_path, Share(rank, 4)), "measure", 1, {}, "")
        before = set(stage.records())
        with pytest.raises(ShareDone, match=rf"share {rank} of 4: its {2 if rank < 2 else 1} of 6 units are done"):
            run_units(partial(write_unit, stage=stage), UNITS, 1, "measure", stage)
        seen.append(set(stage.records()) - before)
    assert seen == [{UNITS[0], UNITS[4]}, {UNITS[1], UNITS[5]}, set(), {UNITS[3]}]
    run_units(partial(write_unit, stage=whole), UNITS, 1, "measure", whole)
    assert "all 6 already done" in capsys.readouterr().out


@pytest.mark.parametrize("workers", [1, 2])
def test_the_units_of_a_chain_are_done_in_order_by_one_process(tmp_path: Path, workers: int) -> None:
    stage = make_stage(tmp_path)
    chains = [UNITS[:1], UNITS[1:5], UNITS[5:]]
    write_unit(UNITS[1], stage)
    run_units(partial(write_unit, stage=stage), UNITS, workers, "measure", stage, chains)
    of_chain = [line for line in log(tmp_path) if line[0] in UNITS[2:5]]
    assert [line[0] for line in of_chain] == list(UNITS[2:5]) and len({line[1] for line in of_chain}) == 1
    assert sorted(line[0] for line in log(tmp_path)) == sorted(UNITS)


@pytest.mark.slow
def test_the_same_on_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="an extra, `pip install .[ray]`")
    stage = Stage(RunDirectory(tmp_path, executor="ray"), "measure", 1, {}, "")
    write_unit(UNITS[2], stage)
    with pytest.raises(UnitError, match=r"^web-00003: raw\.jsonl:7: something is wrong$"):
        run_units(partial(write_unit, stage=stage, fail_at=UNITS[3]), UNITS, 2, "measure", stage)
    before = log(tmp_path)
    run_units(partial(write_unit, stage=stage), UNITS, 2, "measure", stage)
    assert set(stage.records()) == set(UNITS) and len(log(tmp_path)) == 6
    assert log(tmp_path)[: len(before)] == before
    assert str(os.getpid()) not in {line[1] for line in log(tmp_path)[1:]}
    assert not list(tmp_path.glob(".work-*"))


def test_ray_that_is_not_installed_is_an_error_that_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    stage = Stage(RunDirectory(tmp_path, executor="ray"), "measure", 1, {}, "")
    with pytest.raises(UnitError, match=r"executor=ray needs Ray on every machine: pip install"):
        run_units(partial(write_unit, stage=stage), UNITS, 2, "measure", stage)


@pytest.mark.slow
def test_a_unit_whose_worker_is_killed_is_done_by_another_one_on_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="an extra, `pip install .[ray]`")
    stage = Stage(RunDirectory(tmp_path, executor="ray"), "measure", 1, {}, "")
    chains = [UNITS[:3], UNITS[3:]]
    run_units(partial(write_unit, stage=stage, kill_once_at=UNITS[1]), UNITS, 2, "measure", stage, chains)
    assert (tmp_path / "killed").exists()
    assert sorted(line[0] for line in log(tmp_path)) == sorted(UNITS)  # what was committed is not done again
    assert not list(tmp_path.glob(".work-*"))


@pytest.mark.slow
def test_a_unit_whose_worker_is_killed_every_time_is_named_on_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="an extra, `pip install .[ray]`")
    stage = Stage(RunDirectory(tmp_path, executor="ray"), "measure", 1, {}, "")
    with pytest.raises(
        UnitError,
        match=r"^measure: a worker process on the Ray cluster was killed, .* each of the 4 times it ran "
        r"web-00001; lower `workers`",
    ):
        run_units(partial(write_unit, stage=stage, kill_at=UNITS[1]), UNITS[:4], 2, "measure", stage, [UNITS[:4]])
    assert set(stage.records()) == {UNITS[0]}
    run_units(partial(write_unit, stage=stage), UNITS, 2, "measure", stage)
    assert set(stage.records()) == set(UNITS)


@pytest.mark.slow
def test_a_machine_without_room_for_a_worker_of_ray_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="an extra, `pip install .[ray]`")
    monkeypatch.setattr(executors, "_RAY_WORKER_BYTES", 1 << 50)
    stage = Stage(RunDirectory(tmp_path, executor="ray"), "measure", 1, {}, "")
    with pytest.raises(UnitError, match=r"on this machine, and a worker takes 1 and 1,125,899\.9 GB: free some memory"):
        run_units(partial(write_unit, stage=stage), UNITS, 2, "measure", stage)


def test_progress_looks_at_each_record_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    whole = Path.is_file

    def is_file(self: Path) -> bool:
        looked.append(self.name)
        return whole(self)

    monkeypatch.setattr(Path, "is_file", is_file)

    class Counted:
        advanced = 0

        def advance(self, count: int) -> None:
            self.advanced += count

    from data_prep.run.executors import _Report

    folder = tmp_path / "commits"
    folder.mkdir()
    units = [f"web-{n:05d}" for n in range(200)]
    progress, stage = Counted(), type("Stage", (), {"folder": folder})
    report = _Report(progress, stage, units)  # type: ignore[arg-type]
    for unit in units:
        (folder / f"{unit}.json").write_text("{}", encoding="utf-8")
        report([unit])
    assert progress.advanced == 200 and len(looked) == 200
    report.look()
    assert progress.advanced == 200 and len(looked) == 200
