"""CPU or GPU: everything that depends on the kind of device."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from datetime import timedelta

import torch
import torch.distributed as dist


def local_device() -> torch.device:
    """Device of this process: its own GPU where the machine has GPUs, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_gpu())
    return torch.device("cpu")


def local_gpu() -> int:
    """Index of this process's GPU among the visible ones: its rank on the node, or 0 where the scheduler shows each
    task its own GPU only, as with `--gpus-per-task=1`."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    shows_one = bool(visible) and "," not in visible and torch.cuda.device_count() == 1
    return 0 if shows_one else int(os.environ.get("LOCAL_RANK", "0"))


def has_busy_gpu(answer_seconds: float) -> bool | None:
    """Whether this process's GPU has unfinished work in its default stream; False without a GPU; None when CUDA does
    not answer in time. For a thread that must not wait for the GPU."""
    if not torch.cuda.is_available():
        return False
    answers: list[bool] = []

    def ask() -> None:
        with contextlib.suppress(RuntimeError):  # a GPU that has failed
            torch.cuda.set_device(local_device())  # a new thread would initialise another GPU
            answers.append(not torch.cuda.default_stream(local_device()).query())

    thread = threading.Thread(target=ask, name="GPU query", daemon=True)
    thread.start()
    thread.join(answer_seconds)
    return answers[0] if answers else None


def use_whole_precision() -> None:
    """Let products of 16-bit matrices on a GPU sum in fp32 throughout: by default cuBLAS may round partial sums to 16
    bits where it splits a sum. No effect on a CPU; does not initialise CUDA."""
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def use_fixed_order() -> None:
    """Use algorithms that sum in a fixed order only, so that a computation that is repeated has the same bits; an
    operation without one raises RuntimeError. What cuBLAS, NCCL and the compiler need is set before torch is imported,
    see `pretrain/launch/environment.py`. A CPU always sums in a fixed order; nothing changes there."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a pass over each new one
    torch.backends.cuda.enable_cudnn_sdp(False)  # its backward pass adds in the order in which blocks finish


NO_FIXED_ORDER_SIGNS = ("does not have a deterministic", "but this operation is not deterministic")
"""Error texts of torch for an operation without a fixed order, after `use_fixed_order`."""


def use_timeout(timeout: timedelta) -> None:
    """Make `timeout` the default of every process group that is created from now on, also by DeepSpeed and
    megatron-core, which give none: torch's own is 10 minutes for NCCL."""
    vars(dist.distributed_c10d).update(default_pg_timeout=timeout, default_pg_nccl_timeout=timeout)


def communication_backend() -> str:
    """Backend of collectives: NCCL between GPUs, gloo between CPUs."""
    return "nccl" if torch.cuda.is_available() else "gloo"


def start_alone(timeout: timedelta | None = None) -> None:
    """Create a process group of this process only, without a launcher, an address or a port."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group(communication_backend(), store=store, rank=0, world_size=1, timeout=timeout)


_alone: tuple[dist.ProcessGroup, dist.ProcessGroup] | None = None


def group_alone() -> dist.ProcessGroup:
    """A process group of this process only; the first call initialises `torch.distributed` if necessary.

    Every call returns the same group until it is destroyed: each gloo group has a thread that keeps polling until the
    process ends.
    """
    global _alone
    if not dist.is_initialized():
        start_alone()
    world = dist.group.WORLD
    assert world is not None
    if _alone is None or _alone[0] is not world or _alone[1] not in dist.distributed_c10d._world.pg_map:
        _alone = (world, world if dist.get_world_size() == 1 else dist.new_group([dist.get_rank()]))
    return _alone[1]


def prepare_sequence_parallel() -> None:
    """Provide what megatron-core's sequence parallelism needs: a buffer that its own initialisation would create, and a
    current CUDA device, for which a machine without GPUs returns its CPU."""
    import megatron.core.parallel_state as megatron_state

    if megatron_state._GLOBAL_MEMORY_BUFFER is None:
        megatron_state._set_global_memory_buffer()
    if not torch.cuda.is_available():
        torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment,return-value]


def keep_freed_memory() -> None:
    """Make glibc reuse large blocks instead of returning each to the kernel, which would map and clear their pages
    again: a tenth of a training step in fp32 (docs/benchmarks.md). No effect with another C library, or on a GPU."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if not torch.cuda.is_available() else None
    if mallopt is not None:
        maximum_mapped_blocks, trim_threshold = -4, -1  # malloc.h
        mallopt(maximum_mapped_blocks, 0)
        mallopt(trim_threshold, -1)


def limit_cpu_threads(processes_on_node: int) -> None:
    """Divide the cores among the processes of a node: on a CPU each would otherwise start a thread for every core."""
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // max(1, processes_on_node)))
