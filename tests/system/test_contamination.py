"""From evaluation sets to the steps of a real run that saw their items, beside a count of every sample."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from foundation.configuration import load_config
from pretrain.config import TrainConfig
from pretrain.data.loader import SampleReader
from pretrain.data.mixture import load_mixture
from tests.small_run import MODEL
from tools import contamination, evaluation_set

pytestmark = pytest.mark.xdist_group("contamination")

LENGTH = 48
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def words(name: str, count: int) -> str:
    """Words that are nowhere else."""
    letters = random.Random(name)
    return " ".join(name + "".join(letters.choices("bcdfghjklmnpqrstvwxz", k=5)) for _ in range(count))


ITEMS = {
    "whole": words("qa", 24),
    "half": words("qe", 24),
    "cut": words("qi", 24),  # on a line that a rule cuts
    "never": words("qo", 24),
    "short": words("qu", 5),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `train.yaml`, of a run of ten steps on documents with items in them."""
    folder = tmp_path_factory.mktemp("contamination")
    filler = random.Random(3)
    common = [f"{word}." for word in words("ba", 400).split()]

    def text(middle: str = "") -> str:
        lines = [" ".join(filler.choices(common, k=filler.randint(8, 14))) for _ in range(6)]
        return "\n".join([*lines[:3], *([f"{middle}."] if middle else []), *lines[3:]])

    documents = [text() for _ in range(120)]
    half = " ".join(ITEMS["half"].split()[:14])
    documents[10], documents[50], documents[51] = text(ITEMS["whole"]), text(half), text(half)
    documents[90] = text(f"{ITEMS['cut']} use cookies")  # C4 cuts lines that speak of cookies
    (folder / "raw").mkdir()
    (folder / "raw" / "a.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in documents))
    (folder / "items.jsonl").write_text(
        "".join(json.dumps({"name": name, "text": item}) + "\n" for name, item in ITEMS.items())
    )
    data = {
        "output": str(folder / "run"),
        "workers": 1,
        "sources": [{"name": "web", "kind": "jsonl", "paths": [str(folder / "raw")], "rules": ["c4_paper"]}],
        "decontamination": {"made_up": {"path": str(folder / "items.jsonl"), "id_field": "name"}},
        "tokenizer": {"vocabulary_size": 512, "reserved_entries": 20},
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(data))
    model = {**MODEL, "vocabulary_size": 512, "layers": 1, "hidden_size": 16, "maximum_positions": LENGTH}
    training = {
        "output": str(folder / "train"),
        "model": model,
        "data": {"mixture": str(folder / "run" / "tokens" / "mixture.yaml"), "sequence_length": LENGTH},
        "batch": {"global_batch_size": 8, "micro_batch_size": 8},
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"total_steps": 200, "warmup_steps": 1},
        "checkpoint": {"every_steps": 100},
        "stop_after_step": 100,
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(training))
    for command in (
        ("data_prep", "run", "--config", str(folder / "data.yaml")),
        ("pretrain", "--config", str(folder / "train.yaml")),
    ):
        result = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, env=ENVIRONMENT)
        assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_each_step_that_saw_an_item_is_named(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert contamination.main(["--config", str(trained / "train.yaml")]) == 0
    printed = capsys.readouterr().out
    found = json.loads((trained / "train" / "contamination.json").read_text())
    assert found["step"] == 100
    items = {row["item"]: row for row in found["items"]}
    assert items.keys() == {"whole", "half"}, "a line that a rule cuts is not trained on"
    assert items["whole"]["documents"] == ["web-00000/0000010"]
    assert items["half"]["documents"] == ["web-00000/0000050", "web-00000/0000051"]
    shares = {name: (row["ngram_share"], row["token_share"], row["collides"]) for name, row in items.items()}
    assert shares == {"whole": (1, 1, True), "half": (7 / 17, 14 / 24, True)}
    for name, row in items.items():
        assert row["steps"] == expected_steps(trained, ITEMS[name])
        assert row["decontamination_gpt3"] and row["decontamination_palm"] == (name == "whole")
    made_up = found["sets"]["made_up"]
    assert (made_up["items"], made_up["too_short"], made_up["seen"]) == (5, 1, 2)
    assert made_up["first_step"] == min(min(row["steps"]) for row in found["items"])
    assert "items seen until step 100" in printed


def expected_steps(folder: Path, item: str) -> list[int]:
    """Steps with a sample whose own tokens touch the text of the item, by decoding each sample's documents."""
    config = load_config(TrainConfig, folder / "train.yaml")
    reader = SampleReader(load_mixture(config.data.mixture), LENGTH, config.seed)
    encoder = ReferenceEncoder(reader.mixture.tokenizer)
    first = item.split()[0]
    places: dict[int, tuple[int, int]] = {}
    for document in range(len(reader.datasets[0])):
        tokens = reader.datasets[0].document(document)[:-1]
        text = encoder.decode(tokens)
        if first in text:
            end = max(text.find(word) + len(word) for word in item.split() if word in text)
            ends = [len(encoder.decode(tokens[: k + 1])) for k in range(len(tokens))]
            inside = [k for k, stop in enumerate(ends) if stop > text.find(first) and (ends[k - 1] if k else 0) < end]
            places[document] = (inside[0], inside[-1] + 1)
    assert places
    steps = set()
    for sample in range(800):
        for part in reader.describe(sample).parts:
            start, stop = places.get(part.document, (0, 0))
            if max(start, part.start) < min(stop, part.stop):
                steps.add(sample // 8 + 1)
    return sorted(steps)


def test_scores_with_and_without_what_was_seen(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = trained / "samples.jsonl"
    rows = [{"task": "made_up", "item": name, "metrics": {"acc": float(name == "whole")}} for name in ITEMS]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert contamination.main(["--config", str(trained / "train.yaml"), "--samples", str(samples)]) == 0
    found = json.loads((trained / "train" / "contamination.json").read_text())["scores"]
    by_measure = {row["measure"]: (row["seen"], row["mean_seen"], row["others"], row["mean_others"]) for row in found}
    assert by_measure["decontamination_gpt3"] == (2, 0.5, 3, 0)
    assert by_measure["decontamination_palm"] == (1, 1, 4, 0)
    samples.write_text(json.dumps({"task": "another", "item": "0", "metrics": {}}) + "\n")
    assert contamination.main(["--config", str(trained / "train.yaml"), "--samples", str(samples)]) == 2
    assert "its tasks are another, but the evaluation sets are made_up" in capsys.readouterr().err


def test_other_sets_than_were_measured_are_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = trained / "items.jsonl"
    content = items.read_text()
    items.write_text(content + json.dumps({"name": "more", "text": "more"}) + "\n")
    try:
        assert contamination.main(["--config", str(trained / "train.yaml")]) == 2
    finally:
        items.write_text(content)
    assert "measured with other evaluation sets" in capsys.readouterr().err


def test_a_dataset_that_was_not_measured_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mixture of the token files of two data runs: the second one's documents have not been searched."""
    mixture = trained / "run" / "tokens" / "mixture.yaml"
    content = mixture.read_text()
    settings = yaml.safe_load(content)
    settings["datasets"][0]["name"] = "another"
    mixture.write_text(yaml.safe_dump(settings))
    try:
        assert contamination.main(["--config", str(trained / "train.yaml")]) == 2
    finally:
        mixture.write_text(content)
    assert "dataset 'another' of the mixture is not one of its sources (web)" in capsys.readouterr().err


def test_a_task_of_lm_eval_becomes_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lm_eval")
    records = [
        {"q": "Which is a fruit?", "c": ["stone", "pear"], "a": 1},
        {"q": "Which flies?", "c": ["bird", "mole"], "a": 0},
    ]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    task: dict[str, Any] = {
        "task": "small_choice",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(tmp_path / "records.jsonl")},
            "cache_dir": str(tmp_path / "cache"),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{q}}\nAnswer:",
        "doc_to_choice": "{{c}}",
        "doc_to_target": "a",
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "small_choice.yaml").write_text(yaml.safe_dump(task))
    arguments = ["small_choice", "--tasks-from", str(tmp_path / "tasks"), "--output", str(tmp_path / "sets")]
    assert evaluation_set.main(arguments) == 0
    written = [json.loads(line) for line in (tmp_path / "sets" / "small_choice.jsonl").read_text().splitlines()]
    assert written == [
        {"id": "0", "text": "Question: Which is a fruit?\nAnswer: pear"},
        {"id": "1", "text": "Question: Which flies?\nAnswer: bird"},
    ]
    assert evaluation_set.main(["no_such_task", "--output", str(tmp_path / "sets")]) == 2
    assert "lm-eval has no task 'no_such_task'" in capsys.readouterr().err
