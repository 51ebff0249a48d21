"""The comparison of an export finds a difference when there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tools import verify_export
from tools.verify_export import compare_logits, visible


def table(seed: int = 0) -> torch.Tensor:
    return torch.randn(10, 10, generator=torch.Generator().manual_seed(seed))


def test_equal_models_agree() -> None:
    logits = table()
    comparison = compare_logits(lambda t: logits[t], lambda t: logits[t], [torch.tensor([[1, 2, 3]])] * 2)
    assert comparison.max_abs_difference == 0.0
    assert (comparison.tokens_compared, comparison.greedy_agreement) == (6, 1.0)
    assert comparison.largest_logit == float(logits[1:4].abs().max())


def test_one_wrong_logit_is_found() -> None:
    ours, theirs = table(), table()
    theirs[2, int(ours[2].argmax())] -= 100.0
    comparison = compare_logits(
        lambda t: ours[t], lambda t: theirs[t], [torch.tensor([[1, 2]]), torch.tensor([[3, 4]])]
    )
    assert comparison.max_abs_difference == pytest.approx(100.0)
    assert comparison.greedy_agreement == 0.75


def test_other_shapes_and_nan_are_refused() -> None:
    tokens = [torch.tensor([[1]])]
    with pytest.raises(ValueError, match=r"shape \(1, 1, 10\) in the checkpoint, \(1, 1, 9\) in the export"):
        compare_logits(lambda t: table()[t], lambda t: table()[t][..., :9], tokens)
    with pytest.raises(ValueError, match="not finite"):
        compare_logits(lambda t: table()[t] * float("nan"), lambda t: table()[t], tokens)


def test_what_a_model_writes_cannot_steer_a_terminal() -> None:
    assert visible("a\tb\n\x1b[2Jé\r") == "a\tb\n\ufffd[2Jé\ufffd"


def test_the_command_line_prints_the_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_export.main([str(tmp_path), str(tmp_path / "hf")]) == 2
    assert "hf/config.json: no such file; `python -m tools.convert to-hf` writes" in capsys.readouterr().err
