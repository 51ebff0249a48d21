"""A model goes to Hugging Face's format and back, and continues training under another topology."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer, models

from pretrain.data.mixture import load_mixture
from pretrain.monitor.metrics import read_metrics
from tests.system.test_pretrain import pretrain, refused, run  # noqa: F401
from tools.__main__ import main as altiplano

STEPS = 40


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(output / "metrics.jsonl") if line["kind"] == "evaluation"]


@pytest.fixture
def tokenizer(run: Path) -> None:  # noqa: F811
    (run / "tokenizer").mkdir()
    Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])).save(str(run / "tokenizer" / "tokenizer.json"))


@pytest.mark.slow
def test_an_imported_model_goes_on_learning(run: Path, tokenizer: None) -> None:  # noqa: F811
    schedule = (f"schedule.total_steps={STEPS}", "evaluation.every_steps=10")
    first = pretrain(run, "model.family=bloom", "model.positions=alibi", "model.feed_forward_size=128", *schedule)
    assert first.returncode == 0, first.stdout + first.stderr
    assert altiplano(["convert", "to-hf", str(run / "train" / "checkpoints"), str(run / "hf")]) == 0
    generation = {"eos_token_id": 7, "pad_token_id": 3, "temperature": 0.6}
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (run / "hf" / "generation_config.json").write_text(json.dumps(generation))
    (run / "hf" / "chat_template.jinja").write_text(template)
    assert altiplano(["convert", "from-hf", str(run / "hf"), str(run / "imported")]) == 0

    change: dict[str, Any] = yaml.safe_load((run / "train.yaml").read_text())
    change |= {"output": str(run / "tuned"), "initial_weights": str(run / "imported"), "seed": 5}
    change["model"] |= {"family": "bloom", "feed_forward_size": 128}
    (run / "train.yaml").write_text(yaml.safe_dump(change))
    tuned = pretrain(run, *schedule, "parallel.tensor=2", processes=2)
    assert tuned.returncode == 0, tuned.stdout + tuned.stderr
    assert f"the weights are those of {run / 'imported'}" in " ".join(tuned.stdout.split())
    before, after = losses(run / "train"), losses(run / "tuned")
    assert after[-1] < before[-1] - 0.1, "held-out loss did not fall further"
    assert before[-1] < before[0] - 0.1

    (run / "imported").rename(run / "moved")  # the run's own checkpoints know how the model is used
    on = pretrain(run, f"schedule.total_steps={STEPS + 2}", "parallel.tensor=2", "initial_weights=null", processes=2)
    assert on.returncode == 0, on.stdout + on.stderr
    assert altiplano(["convert", "to-hf", str(run / "tuned" / "checkpoints"), str(run / "tuned_hf")]) == 0
    (run / "moved").rename(run / "imported")
    end = load_mixture(Path(change["data"]["mixture"])).end_of_document
    kept = json.loads((run / "tuned_hf" / "generation_config.json").read_text())
    assert kept == generation | {"eos_token_id": [7, end]}, "it stops where its texts ended as well"
    assert (run / "tuned_hf" / "chat_template.jinja").read_text() == template

    message = refused(run, "model.norm_epsilon=1e-3", f"output={run / 'other'}")
    assert "has norm_epsilon 1e-05, but model.norm_epsilon is 0.001: set model.norm_epsilon=1e-05" in message

    other = Tokenizer(models.BPE(vocab={"b": 0, "a": 1}, merges=[]))
    other.save(str(run / "tokenizer" / "tokenizer.json"))
    message = refused(run, f"output={run / 'other'}")
    assert "token 0 is 'a' for its tokenizer, and 'b' in data.mixture" in message
    assert f"set tokenizer.path={run / 'imported' / 'tokenizer'} in the settings of data_prep" in message
