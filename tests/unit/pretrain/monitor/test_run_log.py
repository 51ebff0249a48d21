"""The run log writes everything on the first rank, and nothing on the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foundation.configuration import load_config
from pretrain.checkpoint.save import Saved
from pretrain.config import TrainConfig
from pretrain.engine.engine import StepResult
from pretrain.evaluation.held_out import Evaluation
from pretrain.evaluation.tasks import TaskScores
from pretrain.launch.exit_codes import ExitCode
from pretrain.launch.stopping import Stop
from pretrain.monitor.flops import Peak
from pretrain.monitor.metrics import read_metrics
from pretrain.monitor.run_log import RunLog, open_run_log
from pretrain.schedule import StepPlan
from pretrain.spikes.ledger import Entry
from pretrain.topology import Topology
from tests.small_run import write_small_run

ROLLBACK = Entry(
    kind="rollback", step=3, onset=3, peak=None, reason="high", samples=(16, 24), attempt=1, to_step=1, skipped=(8, 32)
)


def do_step(log: RunLog, step: int, **changes: Any) -> None:
    result = StepResult(2.0, 0.5, 0.1, 3.0, **changes)
    plan = StepPlan(
        step=step,
        first_sample=8 * step - 8,
        batch_size=8,
        sequence_length=10,
        phase=0,
        has_targets=True,
        learning_rate=1e-3,
        consumed_samples=8 * step,
        consumed_tokens=80 * step,
    )
    log.step(plan, result, 0.5)


def do_everything(config: TrainConfig, rank: int) -> None:
    log = open_run_log(config, Topology(1, 2, 1), 0, rank)
    assert log.no_room is None
    log.start(["a note before the start"], Peak(1e12, "measured"))
    log.event(0, "started", note="a note on the way", time=1.0)
    do_step(log, 1)
    do_step(log, 2, applied=False)
    log.evaluation(2, Evaluation(1.5, 80, {"text": (1.5, 80)}))
    log.tasks(2, TaskScores({"quiz": {"acc": 0.25, "acc_norm": 0.5}, "part": {"acc": 1.0}}, 1.5))
    log.tasks(2, TaskScores({}, 1.5, "a metric failed"))
    log.saved(Saved(2, config.output / "checkpoints" / "step-00000002", 0.1, 0.2, True))
    do_step(log, 3)
    log.rolled_back(ROLLBACK, "abandoned-01")
    do_step(log, 2)
    log.note("a last note")
    log.stopped(2, Stop("Ctrl-C", ExitCode.ENDED))
    log.finish()


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return load_config(TrainConfig, write_small_run(tmp_path), ["evaluation.tasks=[{name: quiz}]"])


def test_the_first_rank_writes_it(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    do_everything(config, rank=0)
    lines = read_metrics(config.output / "metrics.jsonl")
    assert [(line["kind"], line["step"], line.get("event")) for line in lines] == [
        ("event", 0, "started"),
        ("train", 1, None),
        ("event", 1, "rolled back"),
        ("train", 2, None),
        ("event", 2, "stopped"),
    ]
    first = lines[1]
    assert first["tokens_per_second"] == 160 and first["tokens_per_second_per_device"] == 80
    assert first["mfu"] == pytest.approx(first["model_flops_per_second_per_device"] / 1e12)
    assert first["consumed_tokens"] == 80 and first["largest_logit"] == 3.0 and "dropped" not in first
    assert lines[2]["skipped"] == [8, 32] and lines[2]["from_step"] == 3 and lines[2]["branch"] == "abandoned-01"
    abandoned = read_metrics(config.output / "metrics.abandoned.jsonl")
    assert [(line["kind"], line["step"]) for line in abandoned] == [
        ("train", 2),
        ("evaluation", 2),
        ("tasks", 2),
        ("event", 2),
        ("event", 2),
        ("train", 3),
    ]
    assert abandoned[0]["dropped"] and abandoned[1]["loss/text"] == 1.5 and abandoned[4]["in_background"]
    assert abandoned[2]["quiz/acc_norm"] == 0.5 and abandoned[2]["part/acc"] == 1.0 and abandoned[2]["seconds"] == 1.5
    assert abandoned[3]["event"] == "no task metrics" and abandoned[3]["reason"] == "a metric failed"
    printed = capsys.readouterr().out
    for text in (
        "a note before the start",
        "a note on the way",
        "a last note",
        "held-out loss 1.5",
        "step 2: quiz acc_norm 0.5000",
        "the tasks have no metrics: a metric failed",
        "stopping: Ctrl-C",
    ):
        assert text in printed


def test_the_others_write_nothing(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    do_everything(config, rank=1)
    assert not config.output.exists()
    assert capsys.readouterr().out == ""
