"""`altiplano adapt`: a small model gets pieces of another language, and learns it in two stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data_prep.config import TokenizerConfig
from data_prep.tokenizer.extend import read_model
from data_prep.tokenizer.sentence_piece import parse
from data_prep.tokenizer.train import learn
from foundation.configuration import load_config
from pretrain.checkpoint.read import CheckpointReader
from pretrain.config import ModelConfig
from tests.unit.data_prep.tokenizer.corpus import make_texts
from tests.unit.pretrain.families.small import InMemory, small_model
from tests.unit.tools.test_extend_vocabulary import chinese_texts
from tools.__main__ import main as altiplano
from tools.adapt import RESULT_FILE, Adaptation, AdaptConfig
from tools.starting_checkpoint import write_starting_checkpoint

PIECES = 300
OLD_SIZE = 600


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A model of random weights with its tokenizer, texts of two languages, and the settings."""
    texts = make_texts(0, 300)
    learn(texts, TokenizerConfig(kind="sentencepiece_bpe", vocabulary_size=OLD_SIZE), tmp_path / "tokenizer")
    model = ModelConfig.model_validate(small_model("llama").model_dump() | {"vocabulary_size": OLD_SIZE})
    origin = {"special_tokens": {}, "generation_config": {}}
    write_starting_checkpoint(
        tmp_path / "model",
        model,
        InMemory(model).tensor,
        data_digest="",
        origin=origin,
        tokenizer=tmp_path / "tokenizer",
        title="test",
    )
    for name, lines in (("old", texts), ("new", chinese_texts(1, 300))):
        content = "".join(json.dumps({"text": text}) + "\n" for text in lines)
        (tmp_path / f"{name}.jsonl").write_text(content)
    source = {"kind": "jsonl", "rules": []}
    stage: dict[str, Any] = {"trainable": ["embedding", "head"]}
    config = {
        "output": str(tmp_path / "out"),
        "model": str(tmp_path / "model"),
        "tokenizer": str(tmp_path / "tokenizer"),
        "pieces": PIECES,
        "new": [{"name": "new", "paths": [str(tmp_path / "new.jsonl")], **source}],
        "old": [{"name": "old", "paths": [str(tmp_path / "old.jsonl")], **source}],
        "data": {"workers": 1, "tokens": {"heldout_share": 0.1}},
        "train": {
            "data": {"sequence_length": 64},
            "batch": {"global_batch_size": 8, "micro_batch_size": 8},
            "optimizer": {"learning_rate": 2e-2},
            "schedule": {"total_steps": 30, "warmup_steps": 2},
            "precision": "fp32",
            "evaluation": {"every_steps": 30, "batches": 1},
            "checkpoint": {"every_steps": 30},
        },
        "stages": [stage, {**stage, "adapter": {"rank": 2, "alpha": 4}, "optimizer": {"learning_rate": 1e-2}}],
        "documents": 10,
    }
    path = tmp_path / "adapt.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.slow
def test_a_language_is_learnt_in_two_stages(settings: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert altiplano(["adapt", "--config", str(settings)]) == 0, capfd.readouterr().err
    out = settings.parent / "out"
    old, new = (parse(read_model(folder)).pieces for folder in (settings.parent / "tokenizer", out / "tokenizer"))
    assert len(new) == len(old) + PIECES
    found = json.loads((out / RESULT_FILE).read_text())["bits_per_byte"]
    assert list(found) == ["before", "extended", "stage 1", "stage 2"]
    chinese = [found[name]["new"] for name in found]
    assert chinese[1] < chinese[0] and max(chinese[2:]) < 0.8 * chinese[1], chinese
    first, second = (CheckpointReader(out / f"stage{number}" / "checkpoints") for number in (1, 2))
    assert set(first.names()) == {"embedding.weight", "head.weight"}
    assert {name for name in second.names() if ".lora." not in name} == {"embedding.weight", "head.weight"}
    assert any(".lora." in name for name in second.names())
    start = CheckpointReader(out / "extended")
    assert not torch.equal(first.tensor("embedding.weight"), start.tensor("embedding.weight"))

    capfd.readouterr()
    assert altiplano(["adapt", "--config", str(settings)]) == 0
    again = capfd.readouterr().out
    assert again.count("done already") == 4, again
    assert json.loads((out / RESULT_FILE).read_text())["bits_per_byte"] == found


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.1.initial_weights=elsewhere", "stages.1.initial_weights: has no effect: it follows"),
        ("data.output=elsewhere", "data.output: has no effect: it follows from the other settings"),
        ("train.batch.global_batch_size=7", "batch.global_batch_size: 7 must be a multiple"),
        ("stages.1.adapter.rank=200", "adapter.rank: 200 is more than the"),
    ],
)
def test_settings_are_checked_before_anything_is_done(
    settings: Path, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert altiplano(["adapt", "--config", str(settings), override]) == 2
    assert message in capsys.readouterr().err
    assert not (settings.parent / "out" / "data").exists()


def test_an_output_is_not_gone_on_with_from_something_else(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise the tokenizer and the model that are there would be taken for those of the new settings."""
    config = load_config(AdaptConfig, settings)
    Adaptation(config).write_settings()
    assert len(Adaptation(config).write_settings()) == 2  # the same settings go on
    assert altiplano(["adapt", "--config", str(settings), "pieces=320"]) == 2
    assert f"pieces: {config.output} was begun with 300, now it is 320" in " ".join(capsys.readouterr().err.split())


def test_a_tokenizer_of_another_model_is_refused(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = settings.parent / "other"
    learn(make_texts(0, 300), TokenizerConfig(kind="sentencepiece_bpe", vocabulary_size=520), other)
    assert altiplano(["adapt", "--config", str(settings), f"tokenizer={other}"]) == 2
    assert f"tokenizer: {other} has 520 entries, {settings.parent / 'model'} 600" in " ".join(
        capsys.readouterr().err.split()
    )
