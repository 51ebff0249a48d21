"""From a step back to its documents, compared with the token files and the corpus."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_prep import tokenize as stage_module
from data_prep.tokenize import tokenize
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.tokenizer.train import train_tokenizer
from foundation.configuration import load_config
from pretrain.config import TrainConfig
from pretrain.data.batch_sizes import BatchSizes
from pretrain.data.batches import Batches
from pretrain.data.loader import SampleReader
from pretrain.data.mixture import load_mixture
from tests.unit.data_prep.tokenizer.corpus import make_run, make_texts
from tools import inspect_batch

SOURCES = {"books": make_texts(0, 90), "code": make_texts(1, 50)}


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lineage")
    settings = {"tokenizer": {"vocabulary_size": 512, "reserved_entries": 20}}
    config, run, _ = make_run(folder, SOURCES, settings=settings)
    train_tokenizer(config, run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_module, "run_units", lambda function, units, *_: [function(unit) for unit in units])
        tokenize(config, run)
    model = {"vocabulary_size": 512, "hidden_size": 8, "layers": 1, "attention_heads": 2, "key_value_heads": 2}
    training = {
        "output": str(folder / "train"),
        "model": {**model, "feed_forward_size": 8, "maximum_positions": 64},
        "data": {"mixture": str(run.tokens / "mixture.yaml"), "sequence_length": 48},
        "batch": {"global_batch_size": 6, "micro_batch_size": 2},
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"total_steps": 10, "warmup_steps": 1},
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(training))
    return path


def samples_of(config_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert inspect_batch.main(["--config", str(config_path), "--json", *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_step_is_made_of_the_documents_that_are_named(config_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(TrainConfig, config_path)
    reader = SampleReader(load_mixture(config.data.mixture), 48, config.seed, skipped=[(7, 9)])
    encoder = ReferenceEncoder(reader.mixture.tokenizer)
    batches = Batches(reader, 6).training(6, BatchSizes(6))  # the second step
    trained = next(batches)[0].numpy()
    found = samples_of(config_path, capsys, "--step", "2", "--skipped", "7:9")
    assert [sample["sample"] for sample in found] == [6, 9, 10, 11, 12, 13]
    for row, sample in zip(trained, found, strict=True):
        assert "".join(part["text"] for part in sample["parts"]).startswith(encoder.decode(row))
        for part in sample["parts"]:
            shard, place = part["id"].split("/")
            assert part["url"] == part["id"], "the corpus of the tests has ids for URLs"
            text = SOURCES[shard[:-6]][int(shard[-5:]) * 40 + int(place)]
            tokens = encoder.encode([text]).tokens
            assert part["of"] == len(tokens)
            assert part["text"] == encoder.decode(tokens[slice(*part["tokens"])])
    assert samples_of(config_path, capsys, "--samples", "9:11", "--skipped", "7:9") == found[1:3]


def test_for_people(config_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_batch.main(["--config", str(config_path), "--step", "1", "--characters", "10"]) == 0
    output = capsys.readouterr().out
    assert output.count("sample ") >= 6 and "epoch 0" in output and "books-00000/0000" in output
    assert max(map(len, output.splitlines())) < 120


def test_files_from_elsewhere_have_numbers_only(config_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = config_path.parent / "run" / "tokens"
    hidden = tokens / "books.origins.npy"
    content = hidden.read_bytes()
    hidden.unlink()
    try:
        found = samples_of(config_path, capsys, "--step", "1")
        assert {part["id"] for s in found if s["dataset"] == "books" for part in s["parts"]} == {None}
        assert inspect_batch.main(["--config", str(config_path), "--step", "1"]) == 0
        assert "books.origins.npy: no such file" in capsys.readouterr().err
        np.save(hidden, np.zeros(3, np.int64))
        assert inspect_batch.main(["--config", str(config_path), "--step", "1"]) == 0
        assert "3 documents, but the token file beside it" in capsys.readouterr().err
    finally:
        hidden.write_bytes(content)


def test_refusals(config_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_batch.main(["--config", str(config_path), "--step", "0"]) == 2
    assert "--step 0: the first step is 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        inspect_batch.main(["--config", str(config_path), "--samples", "9:9"])
    assert "'9:9' is not A:B with 0 <= A < B" in capsys.readouterr().err
