"""`decide --what-if` on a small corpus, and the lines that C4 removes from kept documents."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.config import DataConfig
from data_prep.dedup.stage import dedup
from data_prep.extract import extract
from data_prep.rules.compare import compare
from data_prep.rules.decide import decide
from data_prep.run.commit_records import read_records
from data_prep.run.directory import RunDirectory
from data_prep.signals.measure import measure
from data_prep.tokenizer.kept_documents import read_kept

SENTENCES = [
    "The river had risen in the night and the fields were under water.",
    "Farmers moved their cattle to higher ground while children watched.",
    "Nobody could remember such a flood so early in the year.",
    "The oldest woman of the village only shook her head at it.",
    "By noon the rain had stopped and the first boats went out.",
]
PAGE = "Home | About\n" + "\n".join(SENTENCES) + "\nWrite to jane@example.org for more of this.\nShare"
SHORT = "\n".join(SENTENCES[:3])
CODE = "x = {}\n" + "\n".join(reversed(SENTENCES))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataConfig, RunDirectory, Path]:
    folder = tmp_path_factory.mktemp("compare")
    (folder / "web.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in (PAGE, SHORT, CODE)))
    settings = {
        "output": str(folder / "run"),
        "workers": 1,
        "sources": [{"name": "web", "kind": "jsonl", "paths": [str(folder / "web.jsonl")], "rules": ["c4_paper"]}],
    }
    config = DataConfig.model_validate(settings)
    run = RunDirectory(config.output)
    for stage in (extract, measure, dedup, decide):
        stage(config, run)
    path = folder / "data.yaml"
    path.write_text(json.dumps(settings))
    return config, run, path


def test_c4_cuts_lines_of_what_it_keeps(made: tuple[DataConfig, RunDirectory, Path]) -> None:
    _, run, _ = made
    (kept,) = read_kept(run, "web-00000")
    assert kept.text == "\n".join(SENTENCES) + "\nWrite to PI:EMAIL for more of this.\n"
    assert read_records(run, "decide")["web-00000"].counts["cut_bytes"] == len("Home | About\n") + len("Share")


def test_two_rule_sets_are_compared_without_writing(
    made: tuple[DataConfig, RunDirectory, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config, run, path = made
    result = compare(config, run, "configured", "c4_dataset")
    # the paper wants 5 sentences and no { at all; the dataset's code 3, and forgives { in a line that goes
    assert result.documents["all"].tolist() == [3, 1, 3, 1]
    assert result.documents["source web"].tolist() == result.documents["language en"].tolist() == [3, 1, 3, 1]
    assert result.sizes["all"].tolist() == [len(PAGE + SHORT + CODE), len(PAGE), len(PAGE + SHORT + CODE), len(PAGE)]
    assert result.against[0] == {"c4_paper.curly_brackets": 1, "c4_paper.lorem_ipsum": 0, "c4_paper.sentences": 1}
    assert result.examples[1] == []
    before = {file: file.stat().st_mtime_ns for file in run.root.rglob("*")}
    time.sleep(0.01)
    assert main(["decide", "--config", str(path), "--what-if", "configured", "c4_dataset"]) == 0
    told = capsys.readouterr().out
    assert "web-00000/0000001  c4_paper.sentences\n    'The river had risen" in told
    assert "B drops nothing that A keeps" in told
    assert {file: file.stat().st_mtime_ns for file in run.root.rglob("*")} == before
    assert main(["decide", "--config", str(path), "--what-if", "gopher", "c4+gopher"]) == 2
    assert "error: rule set 'c4' is unknown; did you mean 'mc4'? known are language, " in capsys.readouterr().err
