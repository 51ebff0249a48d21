"""Verification of an export detects a difference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from foundation.terminal import visible
from pretrain.config import ModelConfig
from tests.small_run import MODEL, write_small_run
from tests.unit.pretrain.families.small import InMemory
from tools.hugging_face import verify as verify_export
from tools.hugging_face.from_hf import from_hugging_face
from tools.hugging_face.to_hf import to_hugging_face
from tools.hugging_face.verify import compare_logits


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
    assert "hf/config.json: no such file; `altiplano convert to-hf` writes" in capsys.readouterr().err


def test_a_model_imported_and_exported_again_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has seen no data of ours, so the held-out text is named; in float16, which rounds."""
    write_small_run(tmp_path)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    model = ModelConfig.model_validate(MODEL)
    settings = {"tokenizer": tmp_path / "tokenizer", "end_of_document": 2, "dtype": "float16", "shard_bytes": 10**9}
    to_hugging_face(InMemory(model), tmp_path / "hf", **settings)
    from_hugging_face(tmp_path / "hf", tmp_path / "imported")
    command = [str(tmp_path / "imported"), str(tmp_path / "hf"), "--prompts", "a"]
    assert verify_export.main(command) == 2
    assert "an imported model; name held-out text to compare on with --mixture" in capsys.readouterr().err
    assert verify_export.main([*command, "--mixture", str(tmp_path / "mixture.yaml")]) == 0
    assert json.loads((tmp_path / "exported_check.json").read_text())["dtype"] == "float16"
