"""What a training process sets before torch is imported: environment variables and the limit of open files.

CUDA, cuBLAS, NCCL and torch's allocator read their variables once, when they are loaded or first used. So this module
imports neither torch nor anything that does.
"""

from __future__ import annotations

import os
import resource

CUDA_DEFAULTS = {
    # With one hardware queue the tensor-parallel all-reduce starts before the product that it overlaps (megatron-core).
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
}
"""Defaults of CUDA's environment variables."""

CPU_DEFAULTS = {
    # Threads that wait for each other sleep. By default they spin, and where another process needs a processor, each
    # small product waits for its turn: 20 times as long, with two threads and two processors. Alone, spinning gains a
    # tenth.
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Defaults of OpenMP's environment variables (GCC, libgomp: OMP_WAIT_POLICY, GOMP_SPINCOUNT)."""

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""torch's two names for the settings of its GPU allocator."""
ALLOCATOR_DEFAULT = "expandable_segments:True"
"""Segments that grow leave fewer gaps where tensors of several lengths are allocated (torch, CUDA semantics)."""

CUBLAS_WORKSPACE = (":4096:8", ":16:8")
"""Workspaces with which cuBLAS's results do not depend on streams (cuBLAS, section 2.1.4); the first is the default."""
NCCL_ALGORITHMS = "^NVLS,NVLSTree"
"""All of NCCL's algorithms except those that sum inside the switch, in the order in which values arrive."""

OPEN_FILES = 1 << 16
"""Open files that a process may need: each gloo group has a connection to each of its ranks."""

LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables with which a launcher describes the processes of a run."""


def prepare_environment(*, deterministic: bool) -> None:
    """Set the variables that are not set already, and raise the limit of open files.

    Args:
        deterministic: also set what cuBLAS, NCCL and torch's compiler need for the same bits in each run.

    Raises:
        ValueError: a variable contradicts `deterministic`.
    """
    for name, value in {**CUDA_DEFAULTS, **CPU_DEFAULTS}.items():
        os.environ.setdefault(name, value)
    if not any(name in os.environ for name in ALLOCATOR_VARIABLES):
        os.environ[ALLOCATOR_VARIABLES[-1]] = ALLOCATOR_DEFAULT  # the name that all supported releases of torch know
    if deterministic:
        _prepare_determinism()
    raise_file_limit()


def _prepare_determinism() -> None:
    workspace = os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE[0])
    if workspace not in CUBLAS_WORKSPACE:
        raise ValueError(
            f"deterministic: CUBLAS_WORKSPACE_CONFIG is {workspace}, with which cuBLAS does not repeat its results; "
            f"unset it, or set {' or '.join(CUBLAS_WORKSPACE)}"
        )
    os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"  # compiled kernels are not chosen by measured speed
    algorithms = os.environ.setdefault("NCCL_ALGO", NCCL_ALGORITHMS)
    if _allows_sums_in_the_switch(algorithms):
        raise ValueError(
            f"deterministic: NCCL_ALGO is {algorithms}, which allows sums inside the switch (NVLS), whose order "
            f"differs from run to run; unset it, or set {NCCL_ALGORITHMS}, Ring or Tree"
        )


def _allows_sums_in_the_switch(algorithms: str) -> bool:
    """Whether a value of NCCL_ALGO allows NVLS or NVLSTree for some operation: a list that all operations may use, or,
    after `^`, may not use; then others for single operations, as in `ring;allreduce:^nvls,nvlstree` (NCCL, environment
    variables)."""
    in_the_switch = {"nvls", "nvlstree"}
    entries = algorithms.lower().split(";")
    if ":" in entries[0]:  # the other operations may use all algorithms
        return True
    for entry in entries:
        listed = entry.rpartition(":")[2]
        names = {name.strip(" ^") for name in listed.split(",")}
        if in_the_switch - names if listed.startswith("^") else in_the_switch & names:
            return True
    return False


def raise_file_limit() -> None:
    """Raise the soft limit of open files to what a large run needs, or to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def require_launcher_variables() -> None:
    """Refuse to start where this process would take itself for the only one of its run, or would not find the others.

    Raises:
        ValueError: names the missing variables.
    """
    missing = [name for name in LAUNCHER_VARIABLES if name not in os.environ]
    if "WORLD_SIZE" in os.environ:
        if missing:
            raise ValueError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} not set: a launcher sets all of "
                f"{', '.join(LAUNCHER_VARIABLES)}; start the run with altiplano train, torchrun, deepspeed or "
                "slurm/pretrain.sbatch"
            )
        return
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")  # set by srun only, not in a batch script
    if tasks.isdigit() and int(tasks) > 1:
        raise ValueError(
            f"srun has started {tasks} tasks without {', '.join(missing)}: each would train alone and write the same "
            "output. Submit slurm/pretrain.sbatch, or set for each task RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID "
            "WORLD_SIZE=$SLURM_NTASKS, and for all MASTER_ADDR and MASTER_PORT"
        )
    if "RANK" in os.environ:
        raise ValueError(
            f"RANK is {os.environ['RANK']}, but WORLD_SIZE is not set: this process would train alone. Set all of "
            f"{', '.join(LAUNCHER_VARIABLES)}, or none"
        )
