"""The exit code and message for each kind of GPU error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from pretrain import __main__ as command
from pretrain import train
from pretrain.launch import stopping
from pretrain.launch.exit_codes import ExitCode
from pretrain.launch.out_of_memory import STOP_AND_LOOK_FILE
from tests.distributed.cases import tiny_config

ERRORS = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "the GPU's memory is full"),
    (
        RuntimeError("NCCL error: invalid usage. Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000"),
        "several processes of this node use the same GPU",
    ),
    (
        RuntimeError("_cummax does not have a deterministic implementation, but you set 'torch.use_…'.\nMore."),
        "deterministic: _cummax does not have a deterministic implementation, .* Set deterministic=false",
    ),
]


@pytest.mark.parametrize(("error", "said"), ERRORS)
def test_an_error_that_would_come_back_is_refused_with_a_remedy(
    error: RuntimeError, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fails(_: object) -> None:
        raise error

    left = []
    monkeypatch.setattr(train, "train", fails)
    monkeypatch.setattr(stopping, "leave", left.append)
    config = tiny_config(output=str(tmp_path))
    assert command._train(config, "0", only_check=False) == ExitCode.REFUSED
    assert left == [ExitCode.REFUSED]
    text = capsys.readouterr().err
    assert re.search(said, text), text
    assert (config.output / STOP_AND_LOOK_FILE).exists() == isinstance(error, torch.OutOfMemoryError)
