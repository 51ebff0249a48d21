"""CPU or GPU: everything that depends on the kind of device."""

from __future__ import annotations

import ctypes
import os
from datetime import timedelta

import torch
import torch.distributed as dist


def local_device() -> torch.device:
    """Device of this process: its own GPU where the machine has GPUs, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


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

    Every call returns the same group: each gloo group has a thread that keeps polling until the process ends.
    """
    global _alone
    if not dist.is_initialized():
        start_alone()
    world = dist.group.WORLD
    assert world is not None
    if _alone is None or _alone[0] is not world:
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
