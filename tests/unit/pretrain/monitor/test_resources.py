"""Memory within a job's own limit, and disk space."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest

from pretrain.launch.exit_codes import ExitCode
from pretrain.monitor import resources
from pretrain.monitor.resources import Memory, ResourceWatch, host_memory


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_without_limits_it_is_the_machines(tmp_path: Path) -> None:
    memory = host_memory(tmp_path, tmp_path / "missing")
    assert memory.total == psutil.virtual_memory().total and 0 < memory.free_share <= 1


def test_the_tightest_limit_counts_of_either_version_of_cgroups(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/slurm/job_7\n")
    write(tmp_path / "slurm" / "job_7", memory__max="max", memory__current=700, memory__stat="anon 1\ninactive_file 0")
    write(tmp_path / "slurm", memory__max=1000, memory__current=950, memory__stat="anon 850\ninactive_file 100")
    assert host_memory(tmp_path, own) == Memory(available=150, total=1000)

    own.write_text("4:memory,other:/job\n3:cpu:/job\n")
    write(
        tmp_path / "memory" / "job",
        memory__limit_in_bytes=2000,
        memory__usage_in_bytes=1990,
        memory__stat="total_inactive_file 5",
    )
    assert host_memory(tmp_path, own) == Memory(available=15, total=2000)


def test_memory_that_ran_low_asks_for_a_fresh_start_and_where_it_was_low_at_once_for_a_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = [10 * 2**30]
    monkeypatch.setattr(resources, "host_memory", lambda: Memory(free[0], 64 * 2**30))
    monkeypatch.setattr(resources, "CHECK_SECONDS", 0.0)
    watch = ResourceWatch("n7", memory_share=0.03)
    assert watch.out_of_memory_soon() is None
    free[0] = 2**30
    told = "memory on n7: 1.0 of 64.0 GiB are left, less than monitor.memory_stop_share 0.03"
    assert watch.out_of_memory_soon() == (told, ExitCode.REQUEUE)
    reason, code = ResourceWatch("n7", memory_share=0.03).out_of_memory_soon() or ("", None)
    assert reason.startswith(f"{told}, already at the start: ") and code == ExitCode.REFUSED
    assert ResourceWatch("n7", memory_share=0.01).out_of_memory_soon() is None


def test_a_filling_disk_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").write_bytes(bytes(1000))
    usage = shutil.disk_usage(tmp_path)
    watch = ResourceWatch("n7", 0.03)
    assert watch.disk_warning(tmp_path) is None
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2500))
    assert "a checkpoint needs" in str(watch.disk_warning(tmp_path))
    assert watch.disk_warning(tmp_path) is None
