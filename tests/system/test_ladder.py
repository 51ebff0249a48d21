"""A ladder of nine real runs: interrupted, continued, and fitted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from foundation.configuration import load_config
from pretrain.monitor.metrics import METRICS_FILE, read_metrics
from tests.small_run import write_small_run, write_tokens
from tests.unit.tools.ladder.climbed import size
from tools.ladder.__main__ import main
from tools.ladder.interval import points_of
from tools.ladder.rungs import RESULT_FILE, result_of, rungs_of
from tools.ladder.settings import LadderConfig


def write_real_ladder(folder: Path) -> Path:
    train = write_small_run(folder)
    mixture = yaml.safe_load((folder / "mixture.yaml").read_text())
    mixture["datasets"][0] |= write_tokens(folder / "text", 9000, 1)
    (folder / "mixture.yaml").write_text(yaml.safe_dump(mixture))
    values = yaml.safe_load(train.read_text())
    values["output"] = str(folder / "target")
    values["schedule"] = {"total_steps": 3000, "warmup_ratio": 0.02}
    values["evaluation"] = {"every_steps": 3000, "batches": 1000}
    values["checkpoint"] = {"every_steps": 50, "keep_last": 2}
    values |= {"spikes": {"enabled": False}, "precision": "fp32"}
    train.write_text(yaml.safe_dump(values))
    ladder = {
        "output": str(folder / "ladder"),
        "train": str(train),
        "tokens_per_parameter": [20, 30, 45],
        "sizes": {"a": size(4, 1), "b": size(8, 1), "c": size(12, 1)},
    }
    (folder / "ladder.yaml").write_text(yaml.safe_dump(ladder))
    return folder / "ladder.yaml"


@pytest.mark.slow
def test_an_interrupted_ladder_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_real_ladder(tmp_path)
    ladder = load_config(LadderConfig, path)
    rungs = rungs_of(ladder)
    command = [sys.executable, "-m", "tools", "ladder", "run", str(path), "--at-once", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as first:
        longest = rungs[-1].folder / METRICS_FILE
        while not (longest.is_file() and any(line["step"] > 60 for line in read_metrics(longest))):
            assert first.poll() is None, first.communicate()
            time.sleep(0.2)
        first.send_signal(signal.SIGTERM)
        told, _ = first.communicate()
    assert first.returncode == 128 + signal.SIGTERM, told
    assert "exit code 75" in told, "rungs save and stop"
    assert result_of(rungs[-1]) is None

    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [line["event"] for line in read_metrics(longest) if line["kind"] == "event"]
    assert "resumed" in events, "from its checkpoint, not from the beginning"
    results = [result_of(rung) for rung in rungs]
    assert all(result is not None for result in results)
    written = {rung.name: (rung.folder / RESULT_FILE).stat().st_mtime_ns for rung in rungs}
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "9 of them finished" in again.stdout and "parameters" not in again.stdout
    assert written == {rung.name: (rung.folder / RESULT_FILE).stat().st_mtime_ns for rung in rungs}
    assert len(points_of([result for result in results if result is not None])) == 9
    assert main(["fit", str(path)]) in (0, 1), "what was written here may follow no law"
    assert (ladder.output / "ladder.html").is_file() and "9 of 9 rungs are finished" in capsys.readouterr().out
