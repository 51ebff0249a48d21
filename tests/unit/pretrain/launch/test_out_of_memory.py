"""A GPU out of memory is told from other errors, and the message names settings that help this run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.launch.out_of_memory import STOP_AND_LOOK_FILE, explanation, is_out_of_memory, leave_word, remedies
from tests.distributed.cases import tiny_config


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("NCCL error: unhandled cuda error. Last error: Failed to CUDA calloc async 608 bytes"),
    ],
)
def test_full_memory_is_seen(error: RuntimeError) -> None:
    assert is_out_of_memory(error)


def test_other_errors_are_not_taken_for_it() -> None:
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(ValueError("CUDA out of memory"))


def test_the_remedies_are_those_that_the_run_does_not_use_yet() -> None:
    (micro, recomputation, *_) = remedies(tiny_config(batch__micro_batch_size=6, batch__global_batch_size=24))
    assert micro.startswith("batch.micro_batch_size=3 ") and recomputation.startswith("recomputation=full ")
    used = tiny_config(batch__micro_batch_size=1, recomputation="full", parallel__tensor=2, parallel__sequence=True)
    assert [text.partition("=")[0] for text in remedies(used)] == [
        "a higher degree than parallel.context",
        "a higher degree than parallel.tensor",
        "more processes, which divide the optimizer's state",
    ]
    assert "parallel.sequence=true" in remedies(tiny_config(parallel__tensor=2))


def test_the_reason_is_left_in_the_runs_folder(tmp_path: Path) -> None:
    text = explanation(torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nC++ frames"), tiny_config())
    assert text.startswith("the GPU's memory is full: CUDA out of memory. Tried 2 GiB. Change one of: batch.micro")
    leave_word(tmp_path / "run", text)
    assert (tmp_path / "run" / STOP_AND_LOOK_FILE).read_text() == text + "\n"
