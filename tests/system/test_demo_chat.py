"""`altiplano demo --chat`, from nothing: nine of ten answers to questions that were never seen are right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_demo_answers_what_it_never_saw(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "tools", "demo", "--chat"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    for name, kinds in (("demo-chat", 6), ("demo-chat-lora", 8)):
        found = json.loads((tmp_path / "runs" / name / "answers.json").read_text())
        assert len({one["question"] for one in found}) == 30 * kinds
        tasks = (tmp_path / "runs" / name / "tasks.jsonl").read_text().splitlines()
        trained = {json.loads(line)["instruction"] for line in tasks}
        assert not trained & {one["question"] for one in found}
        assert sum(one["answer"] == one["right"] for one in found) >= 0.9 * len(found)
    end = " ".join(done.stdout[-1200:].split())
    assert "smallest: " in end and "→" in end
    assert "Next: altiplano chat runs/demo-chat-lora/train/checkpoints" in end
