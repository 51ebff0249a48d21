"""What is set before torch, and so CUDA, is loaded; and launches that would train unconnected copies are refused."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.launch.environment import (
    CUBLAS_WORKSPACE,
    LAUNCHER_VARIABLES,
    NCCL_ALGORITHMS,
    OPEN_FILES,
    prepare_environment,
    require_launcher_variables,
)
from tests.small_run import write_small_run


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test sets is gone after it."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


AT_IMPORT = """
import importlib.abc, json, os, resource, sys

class Recorder(importlib.abc.MetaPathFinder):
    "Prints the environment when torch is imported, and ends the process."
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(json.dumps([dict(os.environ), resource.getrlimit(resource.RLIMIT_NOFILE)]), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Recorder())
sys.argv = ["pretrain", *sys.argv[1:]]
from pretrain.__main__ import main
main()
"""


def at_import_of_torch(config: Path, *overrides: str, **variables: str) -> tuple[dict[str, str], tuple[int, int]]:
    """Environment and limits of open files when a training process imports torch, which has not used CUDA by then."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("CUDA", "CUBLAS", "NCCL", "PYTORCH"))
    }
    low = f'ulimit -S -n 256 && exec {sys.executable} -c "$0" "$@"'
    command = ["bash", "-c", low, AT_IMPORT, "--config", str(config), *overrides]
    done = subprocess.run(command, env=inherited | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    environment, limits = json.loads(done.stdout)
    return environment, (limits[0], limits[1])


def test_before_the_first_cuda_call(tmp_path: Path) -> None:
    environment, (soft, hard) = at_import_of_torch(write_small_run(tmp_path))
    assert environment["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    assert environment["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert soft == (OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)) > 256
    assert "CUBLAS_WORKSPACE_CONFIG" not in environment and "NCCL_ALGO" not in environment


def test_waiting_threads_leave_the_processor_to_others(tmp_path: Path) -> None:
    """Where OpenMP is told nothing else; it reads its variables when torch is loaded."""
    config = write_small_run(tmp_path)
    assert at_import_of_torch(config)[0]["OMP_WAIT_POLICY"] == "PASSIVE"
    assert at_import_of_torch(config, OMP_WAIT_POLICY="ACTIVE")[0]["OMP_WAIT_POLICY"] == "ACTIVE"


def test_deterministic_runs_also_fix_cublas_and_nccl(tmp_path: Path) -> None:
    environment, _ = at_import_of_torch(write_small_run(tmp_path), "deterministic=true")
    assert environment["CUBLAS_WORKSPACE_CONFIG"] == CUBLAS_WORKSPACE[0]
    assert environment["NCCL_ALGO"] == NCCL_ALGORITHMS
    assert environment["TORCHINDUCTOR_DETERMINISTIC"] == "1"


@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_the_users_values_stay(tmp_path: Path, name: str) -> None:
    own = {name: "max_split_size_mb:512", "CUDA_DEVICE_MAX_CONNECTIONS": "8"}
    environment, _ = at_import_of_torch(write_small_run(tmp_path), **own)
    assert {key: environment[key] for key in own} == own
    assert sum(key.startswith("PYTORCH") for key in environment) == 1


@pytest.mark.parametrize(
    "algorithms", ["NVLS", "Ring,NVLSTree", "^Tree", "^NVLS", "allreduce:ring", "ring;allreduce:NVLS"]
)
def test_sums_inside_the_switch_are_refused(monkeypatch: pytest.MonkeyPatch, algorithms: str) -> None:
    monkeypatch.setenv("NCCL_ALGO", algorithms)
    with pytest.raises(ValueError, match=r"deterministic: NCCL_ALGO is .*which allows sums inside the switch"):
        prepare_environment(deterministic=True)
    prepare_environment(deterministic=False)


@pytest.mark.parametrize("algorithms", ["Ring", "Tree,Ring", "^NVLS,NVLSTree", "ring;allreduce:^nvlstree,nvls"])
def test_other_algorithms_are_kept(monkeypatch: pytest.MonkeyPatch, algorithms: str) -> None:
    monkeypatch.setenv("NCCL_ALGO", algorithms)
    prepare_environment(deterministic=True)
    assert os.environ["NCCL_ALGO"] == algorithms


def test_another_workspace_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(ValueError, match="deterministic: CUBLAS_WORKSPACE_CONFIG is :0:0"):
        prepare_environment(deterministic=True)


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [*LAUNCHER_VARIABLES, "SLURM_STEP_NUM_TASKS"]:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_one_process_needs_no_launcher(no_launcher: pytest.MonkeyPatch) -> None:
    require_launcher_variables()
    no_launcher.setenv("SLURM_STEP_NUM_TASKS", "1")
    require_launcher_variables()


def test_tasks_of_srun_that_would_each_train_alone_are_refused(no_launcher: pytest.MonkeyPatch) -> None:
    no_launcher.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(ValueError, match="srun has started 8 tasks without RANK, LOCAL_RANK, WORLD_SIZE"):
        require_launcher_variables()


def test_an_incomplete_launcher_is_refused(no_launcher: pytest.MonkeyPatch) -> None:
    no_launcher.setenv("RANK", "3")
    with pytest.raises(ValueError, match="RANK is 3, but WORLD_SIZE is not set"):
        require_launcher_variables()
    no_launcher.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="WORLD_SIZE is 4, but LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set"):
        require_launcher_variables()
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        no_launcher.setenv(name, "0")
    require_launcher_variables()
