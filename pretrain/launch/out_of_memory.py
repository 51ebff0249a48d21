"""A GPU that is out of memory: the same command would fail again, so the run ends and says what to change."""

from __future__ import annotations

from pathlib import Path

import torch

from foundation.atomic_files import write_text
from pretrain.config import TrainConfig

STOP_AND_LOOK_FILE = "stop_and_look.txt"
"""File in the run's folder with the reason why the run needs a person. slurm/pretrain.sbatch reads it, because the exit
code of the process that failed is lost among those of the processes that srun kills with it."""

_SIGNS = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "Failed to CUDA")
"""Error texts of torch, CUDA, cuBLAS and NCCL when a GPU has no memory left."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the GPU's memory is full."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def remedies(config: TrainConfig) -> list[str]:
    """Settings to change, the cheapest first; those that the run already uses are left out."""
    micro, parallel = config.batch.micro_batch_size, config.parallel
    found = []
    if micro > 1:
        smaller = next(size for size in range(micro - 1, 0, -1) if micro % size == 0)
        found.append(f"batch.micro_batch_size={smaller} (the same samples in each step)")
    if config.recomputation != "full":
        found.append("recomputation=full (a third more computation)")
    if parallel.tensor > 1 and not parallel.sequence:
        found.append("parallel.sequence=true")
    if micro == 1:
        found.append(f"a higher degree than parallel.context={parallel.context}, which divides the tokens of a sample")
    found.append(f"a higher degree than parallel.tensor={parallel.tensor} or parallel.pipeline={parallel.pipeline}")
    found.append("more processes, which divide the optimizer's state")
    return found


def explanation(error: BaseException, config: TrainConfig) -> str:
    """The error's first line, and what to change."""
    changes = "; ".join(remedies(config))
    return (
        f"the GPU's memory is full: {str(error).splitlines()[0]} Change one of: {changes}. `altiplano plan` lists the "
        "degrees that fit; a checkpoint continues under any of them"
    )


def leave_word(output: Path, reason: str) -> None:
    """Write the reason for whoever starts the run again."""
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / STOP_AND_LOOK_FILE, reason + "\n")
