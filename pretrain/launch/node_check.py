"""Check of the node's device at the start: a broken node is excluded from the next start instead of failing it
again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch

from pretrain.device import local_device, local_gpu
from pretrain.launch.rendezvous import node_name

EXCLUDED_NODES_FILE = "excluded_nodes.txt"
"""File in the run's folder with node, time and reason in each line, separated by tabs; slurm/pretrain.sbatch reads it.
Remove the line of a node that has been repaired."""

BROKEN_DEVICE_SIGNS = (
    "uncorrectable ECC error",
    "GPU is lost",
    "device(s) is/are busy or unavailable",
    "no CUDA-capable device is detected",
    "hardware stack error",
)
"""Error texts of CUDA when the device, and not the program, is at fault (CUDA Runtime API, `cudaError_t`)."""

_SIZE = 256
"""Rows and columns of the matrices that are multiplied."""


class NodeError(RuntimeError):
    """Nodes that cannot train.

    Attributes:
        nodes: names of the nodes.
    """

    def __init__(self, nodes: Sequence[str], reason: str) -> None:
        super().__init__(f"{', '.join(nodes)}: {reason}")
        self.nodes = tuple(nodes)
        self.reason = reason


def check_device() -> None:
    """Multiply two matrices whose product is known, on this process's own device.

    Raises:
        NodeError: there is no device, or the product is wrong.
    """
    count = torch.cuda.device_count()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available() and local_gpu() >= count:
        raise NodeError([node_name()], f"process {local_rank} of the node finds only {count} GPUs")
    try:
        # Whole numbers that every precision represents exactly: rows of ones and twos times columns of ones.
        ones = torch.ones(_SIZE, _SIZE, device=local_device())
        rows = torch.arange(_SIZE, device=local_device()).remainder(2).add(1).float()
        product = torch.diag(rows) @ ones @ ones
        right = bool((product == (rows * _SIZE)[:, None]).all())
    except RuntimeError as error:
        if is_broken_device(error):
            raise NodeError([node_name()], str(error).splitlines()[0]) from None
        raise
    if not right:
        raise NodeError([node_name()], f"process {local_rank} multiplies matrices wrongly")


def is_broken_device(error: BaseException) -> bool:
    """Whether an error means that the device is at fault."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in BROKEN_DEVICE_SIGNS)


def is_shared_device(error: BaseException) -> bool:
    """Whether NCCL has found that two processes of a node use one GPU."""
    return isinstance(error, RuntimeError) and "Duplicate GPU detected" in str(error)


def exclude_nodes(output: Path, error: NodeError) -> None:
    """Add the error's nodes to the run's list of excluded nodes."""
    output.mkdir(parents=True, exist_ok=True)
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    with open(output / EXCLUDED_NODES_FILE, "a", encoding="utf-8") as file:
        for node in error.nodes:
            file.write(f"{node}\t{now}\t{error.reason}\n")
