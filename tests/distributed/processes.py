"""Runs a function in several real gloo processes and brings their results back."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
# One process imports torch, DeepSpeed and megatron-core; the others are forked from it, which saves minutes.
_CONTEXT.set_forkserver_preload(["pretrain.engine.engine", "tests.distributed.cases"])


def _process(rank: int, world_size: int, store: str, function: Callable[..., Any], arguments: Any, queue: Any) -> None:
    os.environ.update(
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
            "OMP_NUM_THREADS": "1",
        }
    )
    try:
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
        queue.put((rank, None, function(*arguments)))
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()
    except BaseException:
        queue.put((rank, traceback.format_exc(), None))
        raise


def start_processes(
    world_size: int, store: str, function: Callable[..., Any], *arguments: Any
) -> tuple[list[Any], Any]:
    """`function(*arguments)` in `world_size` processes that find each other over the file `store`.

    Returns:
        The processes by rank, and the queue on which each puts (rank, traceback or None, result).
    """
    queue = _CONTEXT.Queue()
    processes = [
        _CONTEXT.Process(target=_process, args=(rank, world_size, store, function, arguments, queue))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes, queue


_LOOK_EVERY_SECONDS = 5


def _refuse_dead(processes: list[Any], results: dict[int, Any]) -> None:
    """Watch for killed processes, which report nothing: without this the others would be waited for forever."""
    for rank, process in enumerate(processes):
        if rank not in results and process.exitcode not in (None, 0):
            raise RuntimeError(f"rank {rank} of {len(processes)} ended with {process.exitcode} and no result")


def run_processes(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(*arguments)` in `world_size` processes; their results by rank.

    The function lives in a module and returns what pickle takes (numpy arrays, no tensors).

    Raises:
        RuntimeError: with the traceback of the first process that failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        processes, queue = start_processes(world_size, str(Path(folder) / "store"), function, *arguments)
        results: dict[int, Any] = {}
        try:
            while len(results) < world_size:
                try:
                    rank, failure, result = queue.get(timeout=_LOOK_EVERY_SECONDS)
                except Empty:
                    _refuse_dead(processes, results)
                    continue
                if failure is not None:
                    raise RuntimeError(f"rank {rank} of {world_size} failed:\n{failure}")
                results[rank] = result
        except BaseException:
            for process in processes:
                process.kill()
            raise
        finally:
            for process in processes:
                process.join()
    return [results[rank] for rank in range(world_size)]
