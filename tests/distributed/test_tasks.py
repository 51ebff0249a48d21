"""Tasks of lm-eval during training: the scores of the exported model under every topology, and no trace in training."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.checkpoint.layout import STATES
from pretrain.checkpoint.read import CheckpointReader
from pretrain.launch.exit_codes import ExitCode
from pretrain.monitor.metrics import CLOCKED, read_metrics
from pretrain.monitor.watchdog import HANGS_FOLDER, REPORT_FILE, culprits, read_states
from tests.distributed import task_cases
from tests.distributed.processes import run_processes, start_processes
from tests.task_run import write_task_run
from tools.evaluate import evaluate
from tools.hugging_face.to_hf import export_command

pytest.importorskip("lm_eval", reason="the optional extra [eval] is not installed")

EIGHT = ("parallel.tensor=2", "parallel.pipeline=2", "parallel.data=2")
NOT_CAUSAL_ALONE = ("objective.separate_documents=true", "model.hidden_dropout=0.1")
"""Settings with which training passes other tensors from stage to stage than the evaluation."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_task_run(tmp_path)


def lines_of(output: Path, kind: str) -> list[dict[str, Any]]:
    lines = [line for line in read_metrics(output / "metrics.jsonl") if line["kind"] == kind]
    return [{key: value for key, value in line.items() if key not in CLOCKED} for line in lines]


def exported_scores(output: Path, tasks: Path) -> Iterator[tuple[str, float]]:
    """Metrics of the exported model by the names of a `tasks` line, as lm-eval's model for transformers has them."""
    folder = output.parent / f"{output.name}-hf"
    export_command(output / "checkpoints", folder, None, "float32", "own", None)
    settings: dict[str, Any] = {"batch_size": 4, "tasks_from": tasks}
    for names, own in (
        (["both"], {"limit": 12}),
        (["more_pairs"], {"num_fewshot": 3, "limit": 5}),
        (["texts"], {"limit": None}),
    ):
        for task, values in evaluate(folder, names, **settings, **own)["results"].items():
            for key, value in values.items():
                name, _, answers = key.partition(",")
                if answers and not name.endswith("_stderr"):
                    yield f"{task}/{name}", value


def check_scores(output: Path, tasks: Path) -> None:
    last = lines_of(output, "tasks")[-1]
    expected = dict(exported_scores(output, tasks))
    assert expected.keys() == last.keys() - {"kind", "step"}
    assert {"pairs/acc", "pairs/acc_norm", "endings/perplexity", "both/acc", "texts/bits_per_byte"} <= expected.keys()
    for name, value in expected.items():
        assert last[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name
    assert last["step"] == CheckpointReader(output / "checkpoints").step


def test_scores_are_those_of_the_exported_model(config: Path) -> None:
    shape = ("parallel.tensor=2", "parallel.sequence=true", "stop_after_step=2")
    run_processes(2, task_cases.run, str(config), shape)
    check_scores(config.parent / "train", config.parent / "tasks")


@pytest.mark.slow
@pytest.mark.parametrize(
    "others", [(), ("parallel.sequence=true",), NOT_CAUSAL_ALONE], ids=["plain", "sequence", "other"]
)
def test_training_does_not_notice_them(config: Path, others: tuple[str, ...]) -> None:
    """Under tensor 2 × pipeline 2 × data 2, bit for bit, stopped and gone on too."""
    folder = config.parent
    shape = (*EIGHT, *others)
    run_processes(8, task_cases.run, str(config), (*shape, "stop_after_step=3"))
    run_processes(8, task_cases.run, str(config), shape)
    run_processes(8, task_cases.run, str(config), (*shape, f"output={folder / 'whole'}"))
    without = ("evaluation.tasks=[]", "evaluation.tasks_every_steps=null", "evaluation.tasks_from=null")
    run_processes(8, task_cases.run, str(config), (*shape, *without, f"output={folder / 'without'}"))

    check_scores(folder / "train", folder / "tasks")
    tasks = lines_of(folder / "whole", "tasks")
    assert [line["step"] for line in tasks] == [2, 4, 6]
    # A stop evaluates its step too, as it does the held-out loss.
    assert [line for line in lines_of(folder / "train", "tasks") if line["step"] != 3] == tasks
    assert lines_of(folder / "without", "tasks") == []
    plain = lines_of(folder / "without", "train")
    assert len(plain) == 6
    assert lines_of(folder / "whole", "train") == lines_of(folder / "train", "train") == plain
    assert lines_of(folder / "whole", "evaluation") == lines_of(folder / "without", "evaluation")
    whole, train, reference = (
        CheckpointReader(folder / name / "checkpoints") for name in ("whole", "train", "without")
    )
    for name in reference.names():
        for state in STATES:
            expected = reference.tensor(name, state)
            assert torch.equal(whole.tensor(name, state), expected), f"{state} of {name}"
            assert torch.equal(train.tensor(name, state), expected), f"{state} of {name}, gone on"


@pytest.mark.slow
def test_a_hang_in_them_is_found(config: Path) -> None:
    fifo = config.parent / "storage"
    os.mkfifo(fifo)
    settings = (
        "parallel.tensor=2",
        "parallel.pipeline=2",
        "spikes.enabled=false",
        "checkpoint.every_steps=4",
        "evaluation.every_steps=6",
        "monitor.hang.training_seconds=10",
        "monitor.hang.evaluating_seconds=10",
    )
    with tempfile.TemporaryDirectory() as store:
        processes, _ = start_processes(4, f"{store}/store", task_cases.hang, str(config), settings, str(fifo))
        for process in processes:
            process.join()
    assert [process.exitcode for process in processes] == [ExitCode.REQUEUE] * 4
    (folder,) = (config.parent / "train" / HANGS_FOLDER).iterdir()
    states = read_states(folder)
    assert list(culprits(states, 4)) == [2]
    assert states[2].activity == "evaluating" and states[2].frames[-1].function == "wait_for_storage"
    assert "culprit: rank 2 on " in (folder / REPORT_FILE).read_text()
