"""The table shows the state of a run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from foundation.configuration import load_config, write_resolved
from pretrain.config import TrainConfig
from tools.status import main

CONFIGS = Path(__file__).parents[3] / "configs" / "train"
STEPS = ["schedule={total_steps: 160, warmup_steps: 20}"]


def write_run(folder: Path, *more: dict[str, object], steps: int = 4) -> Path:
    folder.mkdir(parents=True)
    write_resolved(load_config(TrainConfig, CONFIGS / "demo.yaml", STEPS), folder / "config.resolved.yaml")
    lines: list[dict[str, object]] = [
        {
            "kind": "event",
            "step": 0,
            "event": "started",
            "topology": "tensor 2 × pipeline 2 × data 2",
            "peak_flops_per_device": 1.5e11,
            "peak_source": "measured",
        }
    ]
    for step in range(1, steps + 1):
        lines.append(
            {"kind": "train", "step": step, "consumed_tokens": step * 100, "loss": 9.0 - step, "gradient_norm": 1.0,
             "learning_rate": 3e-4, "tokens_per_second": 50.0, "step_seconds": 2.0, "mfu": 0.4}
        )  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in [*lines, *more])
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder


def shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main([str(folder)]) == 0
    rows = [line.strip().split("  ", 1) for line in capsys.readouterr().out.splitlines() if "  " in line.strip()]
    return {row[0]: row[1].strip() for row in rows}


def test_a_run_that_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = {"kind": "event", "step": 4, "event": "straggler", "nodes": ["n2"], "ranks": [4, 5], "ratio": 1.4}
    paces = {
        "kind": "event",
        "step": 4,
        "event": "pass seconds",
        "by_rank": [1.0, 1.0, 1.4],
        "nodes": ["n1", "n1", "n2"],
    }
    rows = shown(write_run(tmp_path / "run", slow, paces), capsys)
    assert rows["state"].startswith("goes on")
    assert rows["step"] == "4 of 160" and rows["time left"] == "5 min 12 s"
    assert rows["loss"] == "5.0000, 3 steps ago 8.0000"
    assert rows["share of peak speed (MFU)"] == "40.0% of 150.0 GFLOP/s a process, measured"
    assert rows["processes"] == "8: tensor 2 × pipeline 2 × data 2"
    assert rows["slow"] == "n2 at step 4: × 1.4"
    assert rows["n2"].split() == ["1", "1.4", "1.40"]


def test_stopped_silent_and_done_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopped = {"kind": "event", "step": 4, "event": "stopped", "reason": "SIGUSR1 on n1", "exit_code": 75}
    assert shown(write_run(tmp_path / "stopped", stopped), capsys)["state"] == "stopped: SIGUSR1 on n1"
    assert shown(write_run(tmp_path / "done", steps=160), capsys)["state"] == "done"
    silent = write_run(tmp_path / "silent")
    old = (silent / "metrics.jsonl").stat().st_mtime - 7200
    os.utime(silent / "metrics.jsonl", (old, old))
    assert shown(silent, capsys)["state"].startswith("silent for 2 h 00 min: waiting in the queue")


def test_nothing_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 0
    assert "no step has been trained yet" in capsys.readouterr().out
    assert main([str(tmp_path / "none")]) == 2


def test_the_best_checkpoint_is_named_by_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = {10: (3.0, 4.0, 2.0), 20: (2.5, 3.0, 2.2), 30: (2.4, 3.2, 1.8), 40: (2.6, 3.1, 2.1)}
    lines: list[dict[str, object]] = [
        {"kind": "evaluation", "step": step, "loss": loss, "loss/en": english, "loss/zh": chinese}
        for step, (loss, english, chinese) in losses.items()
    ]
    run = write_run(tmp_path / "run", *lines)
    assert main([str(run), "--best"]) == 2
    assert "0 checkpoints and 4 evaluations, but none at the same step" in capsys.readouterr().err
    for step in (10, 20, 40, 45):  # not 30, where the loss is lowest
        (run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    assert main([str(run), "--best"]) == 0
    out = capsys.readouterr().out
    rows = {
        line.split()[0]: line.split()[1:] for line in out.splitlines() if "step-000" in line and "next:" not in line
    }
    assert rows == {
        "all": ["step-00000020", "2.5000", "2.6000", "2.4000"],
        "en": ["step-00000020", "3.0000", "3.1000"],
        "zh": ["step-00000010", "2.0000", "2.1000", "1.8000"],
    }
    assert f"next: altiplano convert to-hf {run}/checkpoints/step-00000020 OUT" in out
