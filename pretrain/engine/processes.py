"""Joining the launcher's process group."""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from datetime import timedelta
from io import StringIO

import torch
import torch.distributed as dist

from pretrain.device import (
    communication_backend,
    keep_freed_memory,
    limit_cpu_threads,
    local_device,
    start_alone,
    use_timeout,
)
from pretrain.engine.deepspeed_patches import disable_shared_memory_collective
from pretrain.engine.library import deepspeed, refuse_faulty_versions
from pretrain.launch import rendezvous


def join_processes(timeout_seconds: int) -> int:
    """Join the process group that the launcher's environment describes; without a launcher, run as the only process.

    Returns:
        Number of processes.
    """
    refuse_faulty_versions(deepspeed.__version__)
    alone = "WORLD_SIZE" not in os.environ
    if alone:
        os.environ.update({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"})
    on_node = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE")  # torchrun's name, DeepSpeed's name
    limit_cpu_threads(int(on_node or os.environ["WORLD_SIZE"]))
    keep_freed_memory()
    device = local_device()
    if device.type == "cpu":
        disable_shared_memory_collective()
    else:
        torch.cuda.set_device(device)
        os.environ["LOCAL_RANK"] = str(device.index)  # which DeepSpeed takes for the index of the GPU
    timeout = timedelta(seconds=timeout_seconds)
    use_timeout(timeout)
    # torch ends a process whose NCCL thread does not respond; by default after 8 minutes, before our watchdog reports.
    os.environ.setdefault("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", str(timeout_seconds))
    if alone:
        start_alone(timeout)
    elif not dist.is_initialized():
        rendezvous.join(timeout)
    with redirect_stdout(StringIO()):
        deepspeed.init_distributed(communication_backend(), auto_mpi_discovery=False, timeout=timeout)
    return dist.get_world_size()
