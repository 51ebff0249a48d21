"""What cannot be added to a run is refused, and nothing of it is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from data_prep.__main__ import main
from data_prep.run.documents import VERDICTS, with_kept_digest


def source(folder: Path, name: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, "kind": "jsonl", "paths": [str(folder / name)], **settings}


def write_input(folder: Path, name: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"text": f"a document in {name}"}) + "\n")


def configure(folder: Path, sources: list[dict[str, Any]], **settings: Any) -> str:
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({"output": str(folder / "run"), "sources": sources, **settings}))
    return str(path)


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    """A run of the sources `web` and `notes` whose input is listed."""
    for name in ("web", "notes", "more"):
        write_input(tmp_path / name, "part.jsonl")
    assert main(["freeze", "--config", configure(tmp_path, [source(tmp_path, "web"), source(tmp_path, "notes")])]) == 0
    return tmp_path


def refusal(command: str, config: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main([command, "--config", config]) == 2
    return capsys.readouterr().err


def test_a_run_without_anything_new_is_refused(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refusal("add", str(frozen / "data.yaml"), capsys)
    assert "every source of the configuration is in this run already" in told and "`arrival: 1`" in told


def test_a_run_that_is_not_finished_is_refused(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = (frozen / "run/manifest.json").read_bytes()
    sources = [source(frozen, "web"), source(frozen, "notes"), source(frozen, "more", arrival=1)]
    told = refusal("add", configure(frozen, sources), capsys)
    assert "extract web-00000 is missing; finish the run first: `altiplano data run`" in told
    assert (frozen / "run/manifest.json").read_bytes() == manifest
    assert not (frozen / "run/commits/arrivals.json").exists()


def test_running_with_a_source_that_was_not_added_names_the_command(
    frozen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [source(frozen, "web"), source(frozen, "notes"), source(frozen, "more", arrival=1)]
    told = refusal("run", configure(frozen, sources), capsys)
    assert "sources: more is not in this run yet; `altiplano data add` adds it" in told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("web", {}), ("notes", {}), ("more", {})], "sources.2.arrival: 0; source more is added to a run whose last"),
        ([("web", {}), ("more", {"arrival": 1})], "sources: notes is in this run and not in the configuration"),
        (
            [("web", {"maximum_bytes": 9}), ("notes", {}), ("more", {"arrival": 1})],
            "sources.web.maximum_bytes: is 9, the run was made with None; `altiplano data add` only adds sources",
        ),
        (
            [("web", {}), ("notes", {}), ("more", {"arrival": 1, "user_names": True})],
            "sources.2.user_names: sources with user names cannot be added",
        ),
        (
            [("web", {"weight": 0.5}), ("notes", {"weight": 0.5}), ("more", {"arrival": 1})],
            "sources.2.weight: missing; the sources that are there have weights: give all sources a weight",
        ),
        (
            [("web", {}), ("notes", {}), ("more", {"arrival": 1, "weight": 0.5})],
            "sources.2.weight: the others have none: give all sources a weight in the mixture, or none",
        ),
        ([("web", {"arrival": 1}), ("notes", {"arrival": 1})], "sources.0.arrival: 1; the first arrival is 0"),
        ([("web", {}), ("more", {"arrival": 1}), ("notes", {})], "sources.2.arrival: 0 after 1; sources are listed in"),
    ],
)
def test_other_changes_are_refused(
    frozen: Path, capsys: pytest.CaptureFixture[str], changes: list[tuple[str, dict[str, Any]]], message: str
) -> None:
    told = refusal("add", configure(frozen, [source(frozen, name, **more) for name, more in changes]), capsys)
    assert message in told


def test_new_files_of_a_source_that_is_there_are_refused(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run from nothing would divide the source otherwise."""
    write_input(frozen / "web", "another.jsonl")
    sources = [source(frozen, "web"), source(frozen, "notes"), source(frozen, "more", arrival=1)]
    told = refusal("add", configure(frozen, sources), capsys)
    assert "another.jsonl: a new file in the paths of source web, which is in this run already" in told


def test_a_changed_file_is_refused(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (frozen / "web/part.jsonl").write_text(json.dumps({"text": "another document"}) + "\n")
    sources = [source(frozen, "web"), source(frozen, "notes"), source(frozen, "more", arrival=1)]
    assert "part.jsonl: the input has" in refusal("add", configure(frozen, sources), capsys)


def verdicts(kept: list[bool], cuts: list[list[tuple[int, int]]], reasons: str = "") -> pa.Table:
    ranges = [[{"start": start, "end": end} for start, end in row] for row in cuts]
    count = len(kept)
    columns = [
        [f"web-00000/{row:07d}" for row in range(count)], ["web"] * count, ["en"] * count, kept,
        [[] if one else [reasons] for one in kept], [None] * count, ranges,
    ]  # fmt: skip
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, VERDICTS, strict=True)], VERDICTS)


def test_the_digest_tells_what_is_kept_and_cut_and_not_why() -> None:
    def digest(*of: Any) -> bytes:
        return with_kept_digest(verdicts(*of)).schema.metadata[b"kept"]  # type: ignore[no-any-return]

    one = digest([True, False, True], [[(0, 4)], [], [(1, 2)]])
    assert one == digest([True, False, True], [[(0, 4)], [], [(1, 2)]], "duplicate.near")
    others = [
        ([True, True, True], [[(0, 4)], [], [(1, 2)]]),
        ([True, False, True], [[(0, 4)], [], [(1, 3)]]),
        ([True, False, True], [[(0, 4)], [], [(0, 2)]]),
        ([True, False, True], [[(0, 4), (1, 2)], [], []]),
        ([True, False, True], [[], [], []]),
    ]
    assert len({one, *(digest(*of) for of in others)}) == 1 + len(others)
