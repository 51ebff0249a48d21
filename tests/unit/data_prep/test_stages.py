"""The table of stages: which earlier outputs each stage reads."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from data_prep.__main__ import main
from data_prep.stages import STAGES

WORDS = "the of and a to in is that for it with as was on be by this are from or have model data text train"
READ = [(stage, other) for stage, row in STAGES.items() for other in row.reads]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `config.yaml`, its finished run in `run`, and a copy of the run in `pristine`."""
    folder = tmp_path_factory.mktemp("stages")
    source = random.Random(5)
    words = [*WORDS.split(), *("".join(source.choices("aeioulmnrst", k=6)) for _ in range(300))]
    lines = [" ".join(source.choices(words, k=9)).capitalize() + "." for _ in range(400)]
    texts = ["\n".join(["Home | About", *source.sample(lines, 9)]) for _ in range(60)]
    texts[20] = texts[10]
    texts[40] = f"{texts[50]} Indeed."
    texts[30] += "\nWrite to jane@example.org."
    raw = [json.dumps({"text": text}) for text in texts] + ["no JSON"]
    (folder / "web.jsonl").write_text("\n".join(raw))
    config = {
        "output": str(folder / "run"),
        "workers": 1,
        "sources": [{"name": "web", "kind": "jsonl", "paths": [str(folder / "web.jsonl")], "rules": ["c4_paper"]}],
        "tokenizer": {"vocabulary_size": 600, "reserved_entries": 0, "monolingual_vocabulary_size": 512},
        "tokens": {"heldout_share": 0.1},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for command in ("run", "report-tokenizer", "tokenize", "ledger"):
        assert main([command, "--config", str(folder / "config.yaml")]) == 0
    (folder / "run").rename(folder / "pristine")
    return folder


def outputs(folder: Path, stage: str) -> Iterator[tuple[str, bytes]]:
    for output in STAGES[stage].outputs:
        assert (folder / output).exists(), output
        paths = sorted((folder / output).rglob("*")) if (folder / output).is_dir() else [folder / output]
        yield from ((str(path.relative_to(folder)), path.read_bytes()) for path in paths if path.is_file())


def rerun(finished: Path, stage: str, without: tuple[str, ...]) -> bool:
    """Whether a stage writes the same bytes again after the outputs of the stages `without` are removed."""
    run = finished / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(finished / "pristine", run)
    for other in without:
        for output in STAGES[other].outputs:
            shutil.rmtree(run / output) if (run / output).is_dir() else (run / output).unlink()
    try:
        code = main([stage, "--restart", stage, "--config", str(finished / "config.yaml")])
    except Exception:
        return False
    return code == 0 and list(outputs(run, stage)) == list(outputs(finished / "pristine", stage))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_needs_no_output_that_the_table_does_not_name(finished: Path, stage: str) -> None:
    earlier = list(STAGES)[: list(STAGES).index(stage)]
    assert rerun(finished, stage, tuple(name for name in earlier if name not in STAGES[stage].reads))


@pytest.mark.parametrize(("stage", "other"), READ)
def test_a_stage_reads_every_output_that_the_table_names(finished: Path, stage: str, other: str) -> None:
    assert not rerun(finished, stage, (other,))
