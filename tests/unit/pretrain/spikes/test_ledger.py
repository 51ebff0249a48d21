"""The ledger survives kills, and two copies of it agree or raise an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.spikes.ledger import Entry, append_entries, joined, read_ledger

TRANSIENT = Entry(kind="transient", step=120, onset=110, peak=1.4, reason="healed", time="2026-11-23T12:00:00Z")
ROLLBACK = Entry(
    kind="rollback", step=220, onset=200, peak=None, reason="high", attempt=1, to_step=100, skipped=(8, 16)
)


def test_it_is_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "run" / "spikes.jsonl"
    assert read_ledger(path) == []
    append_entries(path, [TRANSIENT])
    append_entries(path, [ROLLBACK, TRANSIENT])
    assert read_ledger(path) == [TRANSIENT, ROLLBACK, TRANSIENT]


def test_a_half_written_line_goes(tmp_path: Path) -> None:
    path = tmp_path / "spikes.jsonl"
    append_entries(path, [TRANSIENT])
    with open(path, "a") as file:
        file.write('{"kind": "roll')
    assert read_ledger(path) == [TRANSIENT]
    append_entries(path, [ROLLBACK])
    assert read_ledger(path) == [TRANSIENT, ROLLBACK]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "spikes.jsonl"
    append_entries(path, [TRANSIENT, ROLLBACK])
    path.write_text(path.read_text().replace('"onset": 110', '"onset": -1'))
    with pytest.raises(ValueError, match=r"spikes\.jsonl:1: damaged line: onset: "):
        read_ledger(path)


def test_the_longer_story_holds(tmp_path: Path) -> None:
    later = TRANSIENT.model_copy(update={"time": "later"})
    assert joined(tmp_path, [TRANSIENT, ROLLBACK], [later]) == [TRANSIENT, ROLLBACK]
    assert joined(tmp_path, [], [later]) == [later]
    with pytest.raises(ValueError, match=r":1: records a transient at step 120, the checkpoint a rollback at step 220"):
        joined(tmp_path, [TRANSIENT], [ROLLBACK, TRANSIENT])
