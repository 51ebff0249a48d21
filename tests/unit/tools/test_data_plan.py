"""The forecast of a run of data preparation, beside the run itself."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data_prep.run.manifest import Shard
from tools import data_plan
from tools.data_plan import Usage, advice, forecast, sample_shards

WORDS = [f"{a}{b}{c}" for a in "bdgkmn" for b in "aeiou" for c in ("l", "r", "st", "nd", "")]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 shards of two sources."""
    folder = tmp_path_factory.mktemp("plan")
    source = random.Random(1)
    for name, documents in (("news", 1800), ("books", 600)):
        lines = (
            json.dumps({"text": "\n".join(" ".join(source.choices(WORDS, k=12)) + "." for _ in range(10))}) + "\n"
            for _ in range(documents)
        )
        (folder / f"{name}.jsonl").write_text("".join(lines))
    settings = {
        "output": str(folder / "run"),
        "workers": 1,
        "shard_bytes": (folder / "news.jsonl").stat().st_size // 18 + 1,
        "sources": [
            {"name": name, "kind": "jsonl", "paths": [str(folder / f"{name}.jsonl")], "rules": []}
            for name in ("news", "books")
        ],
        "tokenizer": {"vocabulary_size": 520, "reserved_entries": 20},
    }
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.xdist_group("data plan")
def test_output_and_files_are_those_of_the_run(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = sum(path.stat().st_size for path in config.parent.glob("*.jsonl"))
    arguments = ["--config", str(config), "--nodes", "3", "--cores", "4", "--sample", str(size / 2e6), "--json"]
    assert data_plan.main(arguments) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["bytes"], found["shards"], found["sample"]["shards"]) == (size, 24, 12)
    assert not (config.parent / "run").exists()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "data_prep", "run", "--config", str(config)]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    kept = {row["stage"]: (row["kept"], row["files"], row["processes"]) for row in found["stages"]}
    run = config.parent / "run"
    for folder, stages in (("corpus", ["extract"]), ("signals", ["measure"]), ("tokens", ["tokenize", "shuffle"])):
        actual = sum(path.stat().st_size for path in (run / folder).rglob("*") if path.is_file())
        assert sum(kept[stage][0] for stage in stages) == pytest.approx(actual, rel=0.15), folder
        assert kept[stages[0]][2] == 12
    assert kept["shuffle"][2] == 2  # sources
    files = sum(len(names) for _, _, names in os.walk(run))
    assert sum(count for _, count, _ in kept.values()) == pytest.approx(files, abs=4)
    assert all(row["processor_seconds"] > 0 and row["memory"] > 10e6 for row in found["stages"])


def shards(source: str, count: int) -> list[Shard]:
    return [Shard(f"{source}-{k:05d}", source, "jsonl", k, ()) for k in range(count)]


def test_each_source_is_in_the_sample() -> None:
    chosen = sample_shards([*shards("a", 90), *shards("b", 9), *shards("c", 1)], 10)
    assert [(shard.source, shard.index) for shard in chosen] == [
        *(("a", k * 10) for k in range(9)),
        ("b", 0),
        ("c", 0),
    ]


def test_what_a_stage_takes_once_is_not_multiplied() -> None:
    """5 s and 1 file once, 2 s and 4 files for each megabyte; the tokenizer reads no more than its sample."""
    few, many = (
        {
            stage: Usage(5 + 2 * megabytes, 100, 10**6 * megabytes, 2 * 10**6 * megabytes, 1 + 4 * megabytes)
            for stage in ("measure", "train-tokenizer", "shuffle")
        }
        for megabytes in (1, 4)
    )
    measure, train, shuffle = forecast(few, many, (10**6, 4 * 10**6), 10**9, 1000, 64, 10**7, [3 * 10**8, 7 * 10**8])
    assert (measure.processes, measure.processor_seconds, measure.files) == (64, 2005, 4001)
    assert measure.seconds == pytest.approx(2005 / 1000 * 16)  # 1000 shards in 16 rounds
    assert (measure.kept, measure.most) == (10**9, 2 * 10**9)
    assert (train.processes, train.processor_seconds, train.seconds) == (1, 25, 25)
    assert (shuffle.processes, shuffle.processor_seconds) == (2, 2005)
    assert shuffle.seconds == pytest.approx(0.7 * 2005)  # a process for each source


def test_advice_names_the_setting() -> None:
    stage = {"stage": "measure", "memory": 2 * 10**9, "files": 2_000_000, "kept": 10**9, "most": 5 * 10**9}
    found = {"stages": [stage], "cores": 8, "nodes": 4, "shards": 20, "sample": {"shards": 4}}
    said = advice(found, 10 * 10**9, 10**9)
    assert (
        said[0] == "measure needs 16 GB on a node with 8 processes, which has 10 GB: start at most 5 there (`workers`)"
    )
    assert "lower shard_bytes" in said[1] and "raise shard_bytes" in said[2]
    assert said[3:] == [
        "5 GB of disk are needed; 1 GB are free for the output",
        "the sample has only 4 shards: raise --sample for a better estimate",
    ]
    ample = {**found, "shards": 32, "sample": {"shards": 64}, "stages": [{**stage, "files": 9}]}
    assert advice(ample, None, 10**12) == []


def test_without_input_nothing_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.yaml"
    source = {"name": "none", "kind": "jsonl", "paths": [str(tmp_path / "none")]}
    path.write_text(yaml.safe_dump({"output": str(tmp_path / "run"), "sources": [source]}))
    assert data_plan.main(["--config", str(path)]) == 2
    assert "no source has a single readable file" in capsys.readouterr().err
