"""The stage on a small corpus: which copy is kept, what is recorded, and how it resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_prep.config import DataConfig
from data_prep.dedup.stage import dedup
from data_prep.extract import extract
from data_prep.rules.decide import decide
from data_prep.run.commit_records import StaleOutputError, read_records
from data_prep.run.directory import RunDirectory
from data_prep.signals.measure import measure

PROSE = (
    "The river had risen in the night, and by morning the lower fields were under water. Farmers moved their cattle to "
    "higher ground while children watched from the windows of the school. Nobody could remember such a flood so early "
    "in the year; even the oldest woman of the village, who kept a record of every winter, only shook her head."
)
OTHER = (
    "A clock that loses one minute each day shows the right time once in two years, while a clock that stands still "
    "is right twice a day. The joke is old, but it holds a question that engineers have to answer again and again: "
    "what do we want of an instrument, that it be seldom far from the truth, or that it be often exactly there?"
)
NEAR = PROSE.replace("shook her head", "looked away")
SHORT = "Too short for the rules of prose, but not for those of code."

SOURCES = {
    "web": [PROSE, OTHER, PROSE, SHORT, "", SHORT],
    "books": [NEAR, OTHER + " ", PROSE, SHORT.upper()],
    "notes": [SHORT],
}


def configure(folder: Path, **overrides: Any) -> DataConfig:
    sources = []
    for name, texts in SOURCES.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        rules = ["code"] if name == "notes" else ["gopher", "language"]
        sources.append({"name": name, "kind": "jsonl", "paths": [str(path)], "rules": rules})
    return DataConfig.model_validate({"output": folder / "run", "sources": sources, "workers": 1, **overrides})


@pytest.fixture
def measured(tmp_path: Path) -> tuple[DataConfig, RunDirectory]:
    config = configure(tmp_path, dedup={"alarm_share": 0.7})
    run = RunDirectory(config.output)
    extract(config, run)
    measure(config, run)
    return config, run


def test_copies_go_and_the_evidence_stays(
    measured: tuple[DataConfig, RunDirectory], capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = measured
    dedup(config, run)
    alarm = capsys.readouterr().err
    assert "source books loses 4 of 4 documents to duplicates, more than dedup.alarm_share 0.7; look at" in alarm
    assert "source web" not in alarm
    removals = {row["id"]: row for row in pq.read_table(run.dedup / "removals").to_pylist()}
    kinds = {identity: (row["kind"], row["duplicate_of"]) for identity, row in removals.items()}
    assert kinds == {
        "web-00000/0000002": ("exact", "web-00000/0000000"),
        # `notes` comes last, but its rules accept what those of prose refuse: its copy is the one that stays
        "web-00000/0000003": ("exact", "notes-00000/0000000"),
        "web-00000/0000004": ("exact", "notes-00000/0000000"),
        "books-00000/0000000": ("near", "web-00000/0000000"),
        "books-00000/0000001": ("near", "web-00000/0000001"),
        "books-00000/0000002": ("exact", "web-00000/0000000"),
        "books-00000/0000003": ("near", "notes-00000/0000000"),
    }
    assert not {row["duplicate_of"] for row in removals.values()} & removals.keys()
    assert removals["books-00000/0000001"]["jaccard"] == 1  # a blank more: other bytes, the same shingles
    assert 0.8 <= removals["books-00000/0000000"]["jaccard"] < 1
    pairs = pq.read_table(run.dedup / "pairs").to_pylist()
    assert {pair["id_b"] for pair in pairs} == removals.keys()
    assert not list(run.dedup.glob("*.partial"))

    counts = read_records(run, "dedup")["all"].counts
    assert (counts["documents"], counts["exact"], counts["near"]) == (10, 4, 3)
    assert (counts["removed:web"], counts["removed:books"], counts["removed:notes"]) == (3, 4, 0)
    assert counts["alarm:books"] == 4
    assert "alarm:web" not in counts

    decide(config, run)
    verdicts = {
        row["id"]: row for path in sorted(run.verdicts.glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    }
    assert {identity for identity, row in verdicts.items() if row["kept"]} == {
        "web-00000/0000000",
        "web-00000/0000001",
        "notes-00000/0000000",
    }
    for row in verdicts.values():
        if row["reasons"] in (["duplicate.exact"], ["duplicate.near"]):
            assert verdicts[row["duplicate_of"]]["kept"]
    assert verdicts["web-00000/0000003"]["reasons"] == ["gopher.minimum_words", "duplicate.exact"]
    totals = [record.counts for record in read_records(run, "decide").values()]
    for total in totals:
        assert total["documents"] == total["kept"] + sum(n for name, n in total.items() if name.startswith("dropped:"))


def test_a_second_run_does_nothing_and_a_changed_setting_is_refused(
    measured: tuple[DataConfig, RunDirectory], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = measured
    dedup(config, run)
    written = (run.dedup / "removals" / "web-00000.parquet").read_bytes()
    (run.dedup / "removals" / "web-00000.parquet").unlink()
    dedup(config, run)  # what is missing is made again, to the byte
    assert (run.dedup / "removals" / "web-00000.parquet").read_bytes() == written
    capsys.readouterr()
    dedup(config, run)
    assert capsys.readouterr().out == "dedup: already done\n"
    with pytest.raises(
        StaleOutputError, match=r"dedup\.minimum_jaccard is 0\.9, the outputs on disk were made with 0\.8"
    ):
        dedup(configure(tmp_path, dedup={"minimum_jaccard": 0.9, "alarm_share": 0.7}), run)
    refusal = r"rule language\.probability of source \w+ is .* at least 0\.1', .* at least 0\.65'.*--restart dedup"
    with pytest.raises(StaleOutputError, match=refusal):
        decide(configure(tmp_path, dedup={"alarm_share": 0.7}, language={"minimum_probability": 0.1}), run)
    with pytest.raises(StaleOutputError, match=r"rules\.books\.language\.probability"):
        dedup(configure(tmp_path, dedup={"alarm_share": 0.7}, language={"minimum_probability": 0.1}), run)


def test_signals_that_are_not_measured_are_asked_for(tmp_path: Path) -> None:
    config = configure(tmp_path)
    run = RunDirectory(config.output)
    extract(config, run)
    with pytest.raises(ValueError, match="measure is not complete, 3 of 3 units are missing"):
        dedup(config, run)


def test_a_broken_file_of_signals_is_named(measured: tuple[DataConfig, RunDirectory]) -> None:
    config, run = measured
    (run.signals / "books-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"books-00000\.parquet: not a readable file of signals .*--restart measure"):
        dedup(config, run)
