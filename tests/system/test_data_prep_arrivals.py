"""Sources that arrive in a finished run: the outputs are those of a run from nothing, and what is there is not made
again."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.__main__ import main
from data_prep.run import arrivals as arrivals_module
from data_prep.run.directory import RunDirectory

REPOSITORY = Path(__file__).parents[2]
COMMON_WORDS = "the of and a to in is that for it with as was on be by this are from or have model data text train"


def sentence(source: random.Random) -> str:
    return " ".join([*source.choices(COMMON_WORDS.split(), k=9), f"word{source.randint(0, 3000)}"]).capitalize() + "."


def texts_of(name: str, number: int, lines: tuple[int, int] = (7, 16)) -> list[str]:
    source = random.Random(name)
    return ["\n".join(sentence(source) for _ in range(source.randint(*lines))) for _ in range(number)]


def make_sources(folder: Path) -> None:
    """Sources `web` and `notes`, and two arrivals with copies, near-copies and longer versions of their documents, and
    with documents of which `web` has copies that fail its rules."""
    web = [*texts_of("web", 50), *texts_of("short", 8, (2, 2))]
    notes = [*texts_of("notes", 30), web[3]]
    first = texts_of("first", 30)
    first[2], first[5] = web[7], notes[4]
    first[8] = "\n".join([*web[9].split("\n")[:-1], "Another end of this one."])
    first[11] = "\n".join([texts_of("preface", 1)[0], web[12], texts_of("more", 1)[0]])
    first[14] = "\n".join([*web[15].split("\n")[:3], first[14]])
    first += web[50:54]
    second = texts_of("second", 20)
    second[1], second[4], second[6] = first[0], first[0], web[20]
    for name, texts in {"web": web, "notes": notes, "first": first, "second": second}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def configure(folder: Path, arrivals: int, dedup: dict[str, Any]) -> Path:
    sources = [
        {"name": "web", "kind": "jsonl", "paths": [str(folder / "web.jsonl")], "rules": ["c4_paper"]},
        {"name": "notes", "kind": "jsonl", "paths": [str(folder / "notes.jsonl")], "rules": []},
        {"name": "first", "kind": "jsonl", "paths": [str(folder / "first.jsonl")], "rules": [], "arrival": 1},
        {"name": "second", "kind": "jsonl", "paths": [str(folder / "second.jsonl")], "rules": [], "arrival": 2},
    ]
    config = {
        "output": "run",
        "workers": 1,
        "shard_bytes": 8_000,
        "sources": sources[: 2 + arrivals],
        "dedup": dedup,
        "tokenizer": {"vocabulary_size": 600},
        "tokens": {"heldout_share": 0.1},
    }
    path = folder / f"data-{arrivals}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def prepare(folder: Path, config: Path, command: str, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    return main([command, "--config", str(config), *more])


def bytes_of(folder: Path) -> dict[str, str]:
    """Digest of every output but locks, time stamps, resolved settings, and what tells of the arrivals."""
    run = folder / "run"
    others = {"manifest-stamps.json", "config.resolved.yaml", "arrivals.json", "changed_verdicts.jsonl"}
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and not path.name.startswith(".lock") and path.name not in others
    }


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def times_of(folder: Path) -> dict[str, int]:
    """When each file was written that is not to be written again."""
    run = RunDirectory(folder / "run")
    kept = [run.corpus, run.quarantine, run.signals, run.tokenizer, run.tokens]
    return {
        str(path): path.stat().st_mtime_ns
        for part in kept
        for path in part.rglob("*")
        if path.is_file() and not path.name.startswith("mixture")
    }


@pytest.mark.parametrize(
    "dedup",
    [
        pytest.param({}, id="documents"),
        pytest.param({"minimum_containment": 0.9, "lines": "keep_first"}, id="contained and lines"),
    ],
)
def test_what_is_there_stays_and_the_outputs_are_those_of_a_run_from_nothing(
    dedup: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_sources(tmp_path)
    configs = [configure(tmp_path, arrivals, dedup) for arrivals in range(3)]
    assert prepare(tmp_path / "grown", configs[0], "run", monkeypatch) == 0
    for arrival in (1, 2):
        mixture = (tmp_path / "grown/run/tokens/mixture.yaml").read_bytes()
        before = times_of(tmp_path / "grown")
        assert prepare(tmp_path / "grown", configs[arrival], "add", monkeypatch) == 0
        after = times_of(tmp_path / "grown")
        assert {path: after[path] for path in before} == before
        assert "no document that was there has another verdict" in capsys.readouterr().out
        assert (tmp_path / f"grown/run/tokens/mixture.arrival-{arrival - 1}.yaml").read_bytes() == mixture
        assert prepare(tmp_path / f"nothing{arrival}", configs[arrival], "run", monkeypatch) == 0
        assert bytes_of(tmp_path / "grown") == bytes_of(tmp_path / f"nothing{arrival}")
    ledger = json.loads((tmp_path / "grown/run/ledger.json").read_text())["documents"]["by_source"]
    assert ledger["first"]["dropped"] >= 3 and ledger["second"]["dropped"] == 3
    assert ledger["first"]["kept"] >= 30  # among them those of which `web` has copies that fail its rules


def test_documents_that_lose_something_are_listed_and_their_source_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines that are shared are cut everywhere, so that what arrives changes what is there. The first call is
    interrupted when outputs are removed and the manifest is still the old one."""
    make_sources(tmp_path)
    configs = [configure(tmp_path, arrivals, {"lines": "drop_all"}) for arrivals in range(2)]
    assert prepare(tmp_path / "grown", configs[0], "run", monkeypatch) == 0
    with monkeypatch.context() as interrupted:
        interrupted.setattr(arrivals_module, "write_manifest", interrupt)
        assert prepare(tmp_path / "grown", configs[1], "add", interrupted) == 130
    assert not (tmp_path / "grown/run/verdicts").exists()
    assert prepare(tmp_path / "grown", configs[1], "add", monkeypatch) == 0
    assert "have another verdict or other cuts" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "grown/run/changed_verdicts.jsonl").read_text().splitlines()]
    assert all(row["id"].startswith("web-") and row["was_kept"] for row in rows)
    contained, shared = rows  # one that a document of `first` contains, and one with which another shares three lines
    assert (contained["is_kept"], contained["reasons"]) == (False, ["duplicate.lines"])
    assert shared["is_kept"] and 0 == shared["cut_bytes"][0] < shared["cut_bytes"][1]
    assert prepare(tmp_path / "nothing", configs[1], "run", monkeypatch) == 0
    assert bytes_of(tmp_path / "grown") == bytes_of(tmp_path / "nothing")


@pytest.mark.slow
def test_killed_anywhere_and_called_again_it_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_sources(tmp_path)
    configs = [configure(tmp_path, arrivals, {"lines": "keep_first"}) for arrivals in range(2)]
    assert prepare(tmp_path / "nothing", configs[1], "run", monkeypatch) == 0
    assert prepare(tmp_path / "grown", configs[0], "run", monkeypatch) == 0
    moments, struck = random.Random(5), Counter[str]()
    command = [sys.executable, "-m", "data_prep", "add", "--config", str(configs[1]), "workers=2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    records = tmp_path / "grown/run/commits"
    for _ in range(8):
        process = subprocess.Popen(
            command, cwd=tmp_path / "grown", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        stage = moments.choice(
            ["arrivals.json", "extract/first-*", "measure/first-*", "dedup/*", "decide/*", "tokenize/*"]
        )
        while process.poll() is None and not any(records.glob(stage)):
            time.sleep(0.005)
        time.sleep(moments.random() * 0.5)
        struck[stage] += process.poll() is None
        process.kill()
        process.communicate()
    assert sum(struck.values()) >= 4, struck
    subprocess.run(command, cwd=tmp_path / "grown", check=True, env=environment)
    assert bytes_of(tmp_path / "grown") == bytes_of(tmp_path / "nothing")
