"""Two corpora of the same documents, their ladders, and the answer; the runs themselves are written, not trained."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_prep.__main__ import main as data
from foundation.configuration import load_config
from pretrain.data.mixture import load_mixture
from tests.small_run import LENGTH
from tests.unit.tools.ladder.climbed import LAW, size, write_run
from tools.ladder.rungs import write_configs
from tools.what_if.__main__ import ANSWER_FILE, main
from tools.what_if.corpora import corpora
from tools.what_if.settings import WhatIfConfig

WORDS = [
    "river",
    "field",
    "water",
    "children",
    "village",
    "boat",
    "rain",
    "night",
    "house",
    "garden",
    "winter",
    "bread",
    "market",
    "stone",
    "bridge",
]
VOCABULARY = 512


def written(folder: Path) -> Path:
    """Documents, of which every third has braces, which C4's paper wants to drop; prepared, with a ladder for them."""
    draw = random.Random(3)
    lines = []
    for number in range(1500):
        sentences = [" ".join(draw.choices(WORDS, k=40)).capitalize() + "." for _ in range(10)]
        if number % 3 == 0:
            sentences.append("x = {}")  # a line that is removed, which the data set's code forgives
        lines.append(json.dumps({"text": "\n".join(sentences)}) + "\n")
    (folder / "web.jsonl").write_text("".join(lines))
    source = {"name": "web", "kind": "jsonl", "paths": [str(folder / "web.jsonl")], "rules": ["c4_dataset"]}
    settings = {"output": str(folder / "data"), "workers": 1, "sources": [source], "tokens": {"heldout_share": 0.2}}
    settings["tokenizer"] = {"vocabulary_size": VOCABULARY}
    (folder / "data.yaml").write_text(yaml.safe_dump(settings))
    assert data(["run", "--config", str(folder / "data.yaml")]) == 0
    model = {"vocabulary_size": VOCABULARY, "maximum_positions": LENGTH, "tied_embedding": True, **size(24, 3)}
    train = {
        "output": str(folder / "target"),
        "model": model,
        "data": {"mixture": str(folder / "data" / "tokens" / "mixture.yaml"), "sequence_length": LENGTH},
        "batch": {"global_batch_size": 8, "micro_batch_size": 2},
        "optimizer": {"learning_rate": 3e-3},
        "schedule": {"total_steps": 4000, "warmup_steps": 100},
        "evaluation": {"every_steps": 4000, "batches": 10000},
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(train))
    ladder = {
        "output": str(folder / "ladder"),
        "train": str(folder / "train.yaml"),
        "tokens_per_parameter": [20, 40, 80],
        "sizes": {"a": size(8, 1), "b": size(16, 1), "c": size(24, 2)},
    }
    (folder / "ladder.yaml").write_text(yaml.safe_dump(ladder))
    what_if = {
        "output": str(folder / "what-if"),
        "data": str(folder / "data.yaml"),
        "rule_sets": ["configured", "configured+c4_paper"],
        "ladder": str(folder / "ladder.yaml"),
    }
    (folder / "what_if.yaml").write_text(yaml.safe_dump(what_if))
    return folder / "what_if.yaml"


def test_from_documents_to_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    capsys.readouterr()
    assert main(["fit", str(path)]) == 2
    assert "`altiplano data what-if plan` makes both corpora" in capsys.readouterr().err
    assert main(["plan", str(path)]) == 0
    told = capsys.readouterr().out
    assert "9 rungs on either corpus" in told and "next: altiplano data what-if run" in told
    settings = load_config(WhatIfConfig, path)
    first, second = corpora(settings)

    # nothing is measured again, the same tokenizer, and the same text judges both
    for name in ("A", "B", "both"):
        signals = tmp_path / "what-if" / name / "data" / "signals" / "web-00000.parquet"
        assert signals.stat().st_ino == (tmp_path / "data" / "signals" / "web-00000.parquet").stat().st_ino
    made = load_mixture(tmp_path / "data" / "tokens" / "mixture.yaml")
    whole, fewer = (corpus.mixture.datasets[0] for corpus in (first, second))
    assert whole.sha256 == made.datasets[0].sha256
    assert fewer.tokens < 0.8 * whole.tokens
    assert whole.heldout_sha256 == fewer.heldout_sha256 and whole.heldout_tokens < made.datasets[0].heldout_tokens
    for corpus in (first, second):
        own, given = (path / "tokenizer.json" for path in (corpus.mixture.tokenizer, tmp_path / "data" / "tokenizer"))
        assert own.read_bytes() == given.read_bytes()
        assert corpus.mixture.open(corpus.mixture.datasets[0], "heldout") is not None
        assert all(rung.config.data.mixture == corpus.mixture.path for rung in corpus.rungs)

    # rungs that were trained: B is 4 % worse
    chance = np.random.default_rng(3)
    for corpus, factor in ((first, 1.0), (second, 1.04)):
        write_configs(corpus.rungs)
        for rung in corpus.rungs:
            loss = factor * LAW(rung.parameters, rung.tokens) * float(np.exp(chance.normal(0, 0.001)))
            write_run(rung, loss, whole.heldout_tokens)
    assert main(["run", str(path)]) == 0
    assert "18 runs, 18 of them finished" in capsys.readouterr().out
    assert main(["fit", str(path)]) == 0
    told = capsys.readouterr().out
    assert "A leads to the lower loss" in told
    answer = json.loads((tmp_path / "what-if" / ANSWER_FILE).read_text())
    assert answer["better"] == "A" and answer["difference"]["low"] < 0.04 < answer["difference"]["high"]
    assert [corpus["tokens"] for corpus in answer["corpora"]] == [first.tokens, second.tokens]

    # beside the documents
    given = ["decide", "--config", str(tmp_path / "data.yaml"), "--what-if", *settings.rule_sets]
    predicted = str(tmp_path / "what-if" / ANSWER_FILE)
    assert data([*given, "--predicted", predicted]) == 0
    assert "A leads to the lower loss" in capsys.readouterr().out
    assert data([*given[:-1], "gopher", "--predicted", predicted]) == 2
    assert "compares configured and configured+c4_paper, not configured and gopher" in capsys.readouterr().err
    assert data([*given, "--predicted", str(path)]) == 2
    assert "no answer of `altiplano data what-if fit`" in capsys.readouterr().err
    assert data([*given[:3], "--predicted", predicted]) == 2
    assert "--predicted: has no effect without --what-if" in capsys.readouterr().err

    # a run that would repeat the smaller corpus too often
    train = yaml.safe_load((tmp_path / "train.yaml").read_text())
    train["schedule"]["total_steps"] = 40 * fewer.tokens // (8 * LENGTH)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(train))
    assert main(["plan", str(path)]) == 0
    assert main(["fit", str(path)]) == 1
    assert "over which the run would pass" in capsys.readouterr().err


def test_what_cannot_be_compared_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({
        "output": str(tmp_path / "data"),
        "sources": [{"name": "web", "kind": "jsonl", "paths": [str(tmp_path)]}],
    }))  # fmt: skip
    values = {"output": "x", "data": str(tmp_path / "data.yaml"), "ladder": "ladder.yaml"}
    path = tmp_path / "what_if.yaml"
    path.write_text(yaml.safe_dump({**values, "rule_sets": ["gopher", "gopher"]}))
    assert main(["plan", str(path)]) == 2
    assert "rule_sets: gopher twice: there is nothing to compare" in capsys.readouterr().err
    path.write_text(yaml.safe_dump({**values, "rule_sets": ["gopher", "fineweb"]}))
    assert main(["plan", str(path)]) == 2
    assert "not finished; run `altiplano data run` with its configuration first" in capsys.readouterr().err
