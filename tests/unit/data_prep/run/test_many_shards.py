"""A source with many shards: work grows no faster than their number, and open files do not grow at all."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.config import DataConfig
from data_prep.run.directory import RunDirectory
from data_prep.stages import STAGES
from foundation import atomic_files

REPOSITORY = Path(__file__).parents[4]
FEW = 6
OPEN_FILES = 64
MANY = 4 * OPEN_FILES


def make_config(folder: Path, shards: int) -> dict[str, Any]:
    """Settings of a run whose source has a document in each shard."""
    folder.mkdir()
    source = random.Random(shards)
    syllables = [source.choice("bdfgklmnprst") + source.choice("aeiou") for _ in range(60)]
    with open(folder / "raw.jsonl", "w", encoding="utf-8") as file:
        for _ in range(shards):
            text = " ".join("".join(source.choices(syllables, k=source.randint(1, 3))) for _ in range(400))
            file.write(json.dumps({"text": text[: 1023 - len('{"text": ""}')]}) + "\n")  # a line for each shard
    web = {"name": "web", "kind": "jsonl", "paths": [str(folder / "raw.jsonl")], "rules": ["language"]}
    return {
        "output": str(folder / "run"),
        "shard_bytes": 1024,
        "workers": 1,
        "sources": [web],
        "language": {"minimum_probability": 0.0},
        "tokenizer": {"vocabulary_size": 512},
        "tokens": {"heldout_share": 0.1},
    }


class Work:
    """Calls of Python functions, and files that Python opened, in a `with` block."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Work:
        def count(frame: Any, event: str, argument: Any) -> None:
            if event == "call":
                self.counts["calls"] += 1
            elif event == "c_call" and argument.__name__ == "open":
                self.counts["openings"] += 1

        sys.setprofile(count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, dict[str, Counter[str]]]]:
    """Shards -> stage -> what the stage took. The first run, of which some is work that is done once, is left out."""
    folder = tmp_path_factory.mktemp("many")
    taken: dict[int, dict[str, Counter[str]]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic_files, "sync", lambda path: None)
        for number, shards in enumerate((FEW, FEW, 2 * FEW, 4 * FEW)):
            config = DataConfig.model_validate(make_config(folder / str(number), shards))
            run = RunDirectory(config.output)
            taken[shards] = {}
            for stage in STAGES:
                if stage != "report-tokenizer":  # it trains tokenizers, which does not depend on the number of shards
                    function = STAGES[stage].load()
                    with Work() as taken_work:
                        function(config, run)
                    taken[shards][stage] = taken_work.counts
    yield taken


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "report-tokenizer"])
@pytest.mark.parametrize("what", ["openings", "calls"])
def test_work_is_linear_in_the_number_of_shards(
    work: dict[int, dict[str, Counter[str]]], stage: str, what: str
) -> None:
    few, more, many = (work[shards][stage][what] for shards in (FEW, 2 * FEW, 4 * FEW))
    # from 6 to 12 and from 12 to 24 shards: twice as many more; what grows as the square takes four times as much
    assert few > 0 or what == "openings"
    assert many - more <= 2.5 * (more - few) + 10


def test_many_shards_need_few_open_files(tmp_path: Path) -> None:
    settings = make_config(tmp_path / "run", MANY)
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))

    ended = subprocess.run(
        [sys.executable, "-m", "data_prep", "run", "--config", str(tmp_path / "data.yaml")],
        cwd=REPOSITORY,
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    ledger = json.loads((tmp_path / "run" / "run" / "ledger.json").read_text(encoding="utf-8"))
    assert ledger["documents"]["in"] == MANY
