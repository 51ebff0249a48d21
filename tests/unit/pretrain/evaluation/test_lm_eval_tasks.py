"""Tasks are refused by name before the first step, and scored as lm-eval scores them."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundation.configuration import ConfigError, load_config
from pretrain.config import TrainConfig
from pretrain.evaluation.lm_eval_tasks import PlannedTasks, load_tasks, main_metric, open_tokenizer
from pretrain.evaluation.settings import EvaluationConfig
from tests.task_run import MAXIMUM_POSITIONS, write_task_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lm_eval", reason="the optional extra [eval] is not installed")
    return write_task_run(tmp_path_factory.mktemp("run"))


def settings(run: Path, *tasks: dict[str, Any]) -> EvaluationConfig:
    return EvaluationConfig.model_validate({"tasks": tasks, "tasks_from": str(run.parent / "tasks")})


def planned(run: Path, *tasks: dict[str, Any]) -> PlannedTasks:
    model = load_config(TrainConfig, run).model
    tokenizer, prefix = open_tokenizer(run.parent / "tokenizer", model, 2, None)
    return PlannedTasks(load_tasks(settings(run, *tasks)), tokenizer, prefix, model.maximum_positions)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([{"name": "no_such"}], r"evaluation.tasks: lm-eval has no task 'no_such', nor has .*tasks; its own are"),
        ([{"name": "stories"}], "evaluation.tasks: stories is of type generate_until; only multiple_choice, "),
        (
            [{"name": "bare", "num_fewshot": 1}],
            "evaluation.tasks: num_fewshot 1 has no effect on bare, whose own file says 0",
        ),
        ([{"name": "both"}, {"name": "pairs"}], "evaluation.tasks: pairs: 'pairs' is part of 'both' already"),
    ],
)
def test_tasks_that_cannot_be_scored_are_named(run: Path, tasks: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_tasks(settings(run, *tasks))


def test_requests_that_cannot_be_scored_are_named(run: Path) -> None:
    with pytest.raises(ValueError, match=r"evaluation.tasks: bare: .* has 0 tokens; between 1 and"):
        planned(run, {"name": "bare"})
    with pytest.raises(ValueError, match=r"evaluation.tasks: pairs: .*ValueError in lm-eval"):
        planned(run, {"name": "pairs", "num_fewshot": 6})  # there are five examples


def test_questions_have_the_examples_that_were_asked_for(run: Path) -> None:
    for settings, examples in (
        ({"name": "pairs"}, 2),
        ({"name": "pairs", "num_fewshot": 1}, 1),
        ({"name": "more_pairs"}, 0),
    ):
        (task,) = planned(run, {**settings, "limit": 3})._tasks
        (inner,) = task.loaded["tasks"].values()
        assert {request.args[0].count(":") for request in inner.instances} == {examples + 1}
        assert len(inner.instances) == 3 * 4


def test_missing_records_are_named(run: Path, tmp_path: Path) -> None:
    text = (run.parent / "tasks" / "texts.yaml").read_text().replace("texts.test.jsonl", "gone.jsonl")
    (tmp_path / "texts.yaml").write_text(text)
    own = EvaluationConfig.model_validate({"tasks": [{"name": "texts"}], "tasks_from": str(tmp_path)})
    with pytest.raises(ValueError, match=r"evaluation.tasks: texts: .*gone.jsonl.* give a task file with local ones"):
        load_tasks(own)
    gone = own.model_copy(update={"tasks_from": tmp_path / "none"})
    with pytest.raises(ValueError, match=r"evaluation.tasks: .*none: no such folder"):
        load_tasks(gone)


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "lm_eval.tasks", raising=False)
    own = EvaluationConfig.model_validate({"tasks": [{"name": "arc_easy"}]})
    with pytest.raises(ValueError, match=r"evaluation.tasks: lm-eval is not installed; .*pip install"):
        load_tasks(own)


def test_metrics_follow_from_the_scores(run: Path) -> None:
    """The right answer is made the likeliest in some questions, and the texts as likely as two bits a byte."""
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    found = planned(
        run, {"name": "pairs", "limit": 8}, {"name": "texts"}, {"name": "altiplano_continuations", "limit": 3}
    )
    assert found.questions == {"pairs": 8, "texts": 5, "altiplano_continuations": 3}
    requests = [
        request for task in found._tasks for inner in task.loaded["tasks"].values() for request in inner.instances
    ]
    assert (found.rows.sizes <= MAXIMUM_POSITIONS + 1).all() and (found.rows.sizes == MAXIMUM_POSITIONS + 1).any()
    scores = np.zeros((len(found.rows), 2))
    for request in requests[:32]:
        place = found._model._places[id(request)]
        wanted = request.doc["answer"] if request.doc_id % 4 else (request.doc["answer"] + 1) % 4
        scores[place, 0] = -1.0 if request.idx == wanted else -9.0
    size = nats = 0.0
    for request in requests:
        if request.request_type == "loglikelihood_rolling":
            place = found._model._places[id(request)]
            own = -2 * np.log(2) * len(request.doc["text"].encode())
            scores[place, 0] = own / (place.stop - place.start)
            size, nats = size + 1, nats + own
    assert size == 5
    for _ in range(2):  # the second evaluation forgets the first
        metrics = found.metrics(scores)
        assert metrics["pairs"]["acc"] == 6 / 8
        assert metrics["texts"]["bits_per_byte"] == pytest.approx(2.0)
    assert found.metrics(np.zeros_like(scores))["texts"]["bits_per_byte"] == 0
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]


def test_the_metric_that_stands_for_a_task() -> None:
    assert main_metric({"f1": 0.1, "acc": 0.2, "acc_norm": 0.3}) == "acc_norm"
    assert main_metric({"word_perplexity": 9.0, "bits_per_byte": 0.3}) == "bits_per_byte"
    assert main_metric({"f1": 0.1, "mcc": 0.2}) == "f1"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.tasks=[{name: a}, {name: b}, {name: a}]"], "tasks: 'a' is given twice"),
        (["evaluation.tasks=[]"], "tasks_every_steps: 2 has no effect without tasks"),
        (["evaluation.tasks=[{name: a, limit: 0}]"], "evaluation.tasks.0.limit"),
        (["evaluation.tasks=[{name: a, num_fewshot: -1}]"], "evaluation.tasks.0.num_fewshot"),
        (
            ["objective.kind=prefix"],
            "evaluation.tasks: tasks ask how likely a text is after another, which a model of",
        ),
        (
            ["parallel.tensor=2", "parallel.sequence=true", "model.maximum_positions=257"],
            "evaluation.tasks: model.maximum_positions: 257 must be a multiple of parallel.tensor 2",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named(run: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(TrainConfig, run, overrides)
    assert message in str(error.value)


def test_rows_are_never_scored_with_the_factors_of_longer_ones(run: Path) -> None:
    factors = [1.0] * 8
    scaling = {"kind": "longrope", "short_factors": factors, "long_factors": factors, "original_positions": 100}
    config = load_config(TrainConfig, run)
    assert config.scored_lengths == [64, 128, 256]
    model = config.model.model_copy(update={"rope_scaling": type(config.model).model_validate(
        {**config.model.model_dump(), "rope_scaling": scaling}).rope_scaling})  # fmt: skip
    assert config.model_copy(update={"model": model}).scored_lengths == [64, 100, 128, 256]
