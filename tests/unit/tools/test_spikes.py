"""The list of a run's spikes, the replay with other thresholds, and the picture."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pretrain.spikes.ledger import Entry, append_entries
from tools.spikes import main


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """60 steps with a spike of 15 steps, and an abandoned branch."""
    losses = [2.0 + 0.001 * (step % 7) + (1.5 if 40 <= step < 55 else 0.0) for step in range(1, 71)]
    lines = [{"kind": "train", "step": i, "loss": loss, "gradient_norm": 0.3} for i, loss in enumerate(losses, start=1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    aside = [{**line, "branch": "abandoned-01", "loss": 5.0} for line in lines[20:25]]
    (tmp_path / "metrics.abandoned.jsonl").write_text("".join(json.dumps(line) + "\n" for line in aside))
    rollback = Entry(kind="rollback", step=25, onset=22, reason="high", attempt=1, to_step=20, skipped=(160, 1760))
    seen_before = Entry(kind="transient", step=24, onset=21, peak=1.5, reason="healed")
    append_entries(tmp_path / "spikes.jsonl", [seen_before, rollback])
    return tmp_path


def test_events_are_listed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("(on an abandoned branch)")
    assert "back to step 20, skipping samples [160, 1,760), attempt 1" in second


def test_replay_with_other_settings(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--replay"]) == 0
    assert "transient" in capsys.readouterr().out
    assert main([str(run), "--replay", "high_steps=10"]) == 0
    assert "persistent" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [("patience=3", "give SETTING=VALUE with one of"), ("high_steps=99", "high_steps: 99 of of_steps 25 can never be")],
)
def test_settings_that_there_are_not(run: Path, change: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--replay", change]) == 2
    assert message in capsys.readouterr().err


def test_the_picture_shows_both_branches(run: Path) -> None:
    assert main([str(run), "--picture", str(run / "loss.svg")]) == 0
    lines = ElementTree.parse(run / "loss.svg").getroot().findall(".//{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [70, 5]


def test_no_run_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no such file" in capsys.readouterr().err
