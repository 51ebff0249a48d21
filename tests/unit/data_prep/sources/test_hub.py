"""Datasets of the hub by name, against a local hub: the same documents as from files, pinned and streamed."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.config import DataConfig
from data_prep.extract import extract
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import load_manifest
from data_prep.sources import storage
from data_prep.sources.failures import DeniedError, NotThereError, PassingError
from data_prep.sources.hub import HubAddress, read_range
from tests.unit.data_prep.sources.object_server import Answer, ObjectServer
from tests.unit.data_prep.sources.test_storage import lines

NAME = "people/texts"


class Hub(ObjectServer):
    """A hub with one dataset: contents by path, for each commit; `branches` name commits.

    Attributes:
        token: without it, everything is denied; None: the dataset is public.
    """

    def __init__(self) -> None:
        super().__init__()
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, str] = {}
        self.token: str | None = None
        self.knows_ranges = True
        self.ranges: list[tuple[str, str]] = []

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        sha = hashlib.sha1(repr(sorted(files)).encode() + b"".join(files.values())).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def answer(self, request: BaseHTTPRequestHandler) -> Answer:
        path = unquote(urlsplit(request.path).path).strip("/")
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {"X-Error-Message": "Invalid username or password."}, b"{}"
        if path.startswith("cdn/"):
            self.ranges.append((path, request.headers.get("Range", "")))
            return super().answer(request) if self.knows_ranges else (200, {}, self.files[path])
        for kind in ("api/datasets", "datasets"):
            if path.startswith(f"{kind}/{NAME}"):
                return self._asked(request, path.removeprefix(f"{kind}/{NAME}").strip("/"))
        return 401, {}, b"{}"  # as the hub answers for datasets that do not exist

    def _asked(self, request: BaseHTTPRequestHandler, path: str) -> Answer:
        what, _, rest = path.partition("/")
        names = sorted([*self.branches, *self.commits, "main"], key=len, reverse=True)
        revision = next(
            (name for name in names if rest == name or rest.startswith(f"{name}/")), None if what else "main"
        )
        sha = self.branches.get(revision or "", revision or "")
        if sha not in self.commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        files = self.commits[sha]
        if what in ("", "revision"):
            return self._json({"id": NAME, "sha": sha, "private": False, "tags": [], "siblings": []})
        inside = rest.removeprefix(revision or "").strip("/")
        if what == "tree":
            folders = sorted({name.rpartition("/")[0] for name in files if "/" in name})
            entries = [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in folders]
            return self._json(entries + [self._entry(name, content) for name, content in files.items()])
        if what == "paths-info":
            paths = parse_qs(request.content.decode())["paths"]  # type: ignore[attr-defined]
            return self._json([self._entry(name, files[name]) for name in paths if name in files])
        if what == "resolve" and inside in files:
            self.files[f"cdn/{sha}/{inside}"] = files[inside]
            return 302, {"Location": f"/cdn/{sha}/{inside}"}, b""
        return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"

    @staticmethod
    def _entry(name: str, content: bytes) -> dict[str, Any]:
        oid = hashlib.sha1(content).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": oid}
        if name.endswith(".parquet"):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    @staticmethod
    def _json(value: Any) -> Answer:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def parquet(rows: int) -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"text": [f"Row {i}. {'word ' * (i % 70)}" for i in range(rows)], "score": list(range(rows))})
    pq.write_table(table, buffer, row_group_size=100)
    return buffer.getvalue()


FILES = {
    "README.md": b"# Texts\n",
    "data/train-00000.parquet": parquet(700),
    "data/train-00001.parquet": parquet(300),
    "data/test-00000.parquet": parquet(20),
    "lines/a.jsonl.gz": b"".join(gzip.compress(lines(300 * i + 300, 300 * i)) for i in range(3)),
    "lines/b.jsonl": lines(1500),
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(storage, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(storage, "_LARGEST_RANGE", 1 << 14)
    monkeypatch.setattr(storage, "_SMALLEST_RANGE", 1 << 11)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    storage.retries.clear()
    one = Hub()
    one.commit(FILES)
    with one.running() as host:
        monkeypatch.setenv("HF_ENDPOINT", f"http://{host}")
        yield one


def configuration(folder: Path, kind: str, path: str, **values: Any) -> DataConfig:
    source = {"name": "web", "kind": kind, "paths": [path], **values}
    return DataConfig.model_validate({"output": folder, "sources": [source], "shard_bytes": 20_000, "workers": 1})


def documents(run: RunDirectory) -> list[tuple[str, str]]:
    rows = [row for path in sorted(run.corpus.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return [(row["text"], row["metadata"]) for row in rows]


def local(folder: Path) -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("kind", "path", "count"),
    [
        ("parquet", "", 1020),
        ("parquet", "/data/train-*.parquet", 1000),
        ("parquet", "/data/test-00000.parquet", 20),
        ("jsonl", "/lines/", 2400),
    ],
)
@pytest.mark.parametrize("fault", [None, "503", "reset", "truncated"])
def test_a_dataset_is_read_as_its_files_are(
    hub: Hub, tmp_path: Path, kind: str, path: str, count: int, fault: str | None
) -> None:
    here, there = RunDirectory(tmp_path / "here"), RunDirectory(tmp_path / "there")
    extract(configuration(here.root, kind, f"{local(tmp_path / 'raw')}{path}"), here)
    hub.fault = lambda number: fault if number % 3 == 0 else None
    config = configuration(there.root, kind, f"hf://datasets/{NAME}{path}")
    extract(config, there)
    assert documents(there) == documents(here) and len(documents(here)) == count
    (source,) = load_manifest(there).sources
    sha = hub.branches["main"]
    assert all(file.path.startswith(f"hf://datasets/{NAME}@{sha}/") for file in source.files)
    assert [file.size for file in source.files] == [file.size for file in load_manifest(here).sources[0].files]
    assert (storage.retries.total() > 0) == (fault is not None)
    extract(config, there)  # done already


def test_only_ranges_are_read(hub: Hub, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    extract(configuration(run.root, "jsonl", f"hf://datasets/{NAME}/lines/b.jsonl"), run)
    sizes = [int(last) - int(first) + 1 for _, asked in hub.ranges for first, last in [asked[6:].split("-")]]
    assert len(sizes) > 20 and max(sizes) < len(FILES["lines/b.jsonl"])


def test_what_is_frozen_is_a_commit(hub: Hub, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    config = configuration(run.root, "parquet", f"hf://datasets/{NAME}/data/test-00000.parquet")
    extract(config, run)
    before = documents(run)
    hub.commit({**FILES, "data/test-00000.parquet": parquet(30)})
    again = RunDirectory(tmp_path / "again")
    run.manifest.rename(run.root / "kept")
    again.root.mkdir()
    (run.root / "kept").rename(again.manifest)
    extract(config.model_copy(update={"output": again.root}), again)
    assert documents(again) == before, "the dataset has changed, what was frozen has not"
    other = RunDirectory(tmp_path / "other")
    extract(configuration(other.root, "parquet", config.sources[0].paths[0]), other)
    assert len(documents(other)) == 30


def test_files_that_are_excluded(hub: Hub, tmp_path: Path) -> None:
    excluded = [f"hf://datasets/{NAME}/data/test-*.parquet", f"hf://datasets/{NAME}@main/data/train-00001.parquet"]
    run = RunDirectory(tmp_path / "run")
    extract(configuration(run.root, "parquet", f"hf://datasets/{NAME}", exclude=excluded), run)
    assert len(documents(run)) == 700
    assert load_manifest(run).sources[0].skipped["(excluded)"] == 2


def test_revisions(hub: Hub, tmp_path: Path) -> None:
    hub.commit({"default/train/0000.parquet": parquet(5)}, "refs/convert/parquet")
    hub.commit({"a.parquet": parquet(6)}, "v1.0")
    for revision, path, count in (("refs/convert/parquet", "/default/train/", 5), ("v1.0", "", 6)):
        run = RunDirectory(tmp_path / revision.replace("/", "-"))
        extract(configuration(run.root, "parquet", f"hf://datasets/{NAME}@{revision}{path}"), run)
        assert len(documents(run)) == count


def test_a_private_dataset_needs_a_token(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secretsecret"
    run = RunDirectory(tmp_path / "run")
    config = configuration(run.root, "parquet", f"hf://datasets/{NAME}/data/")
    with pytest.raises(OSError, match="the hub has no such dataset, or it is private or gated; set HF_TOKEN"):
        extract(config, run)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    extract(config, run)
    assert len(documents(run)) == 1020
    written = b"".join(path.read_bytes() for path in run.root.rglob("*") if path.is_file())
    assert hub.token.encode() not in written


def test_a_hub_that_fails_ends_the_run_and_loses_nothing(hub: Hub, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    config = configuration(run.root, "jsonl", f"hf://datasets/{NAME}/lines/b.jsonl")
    hub.fault = lambda number: "503" if number > 12 else None
    with pytest.raises(ValueError, match=r"b\.jsonl: cannot be read, 8 times in a row: .*503"):
        extract(config, run)
    hub.fault = lambda number: None
    extract(config, run)
    assert len(documents(run)) == 1500 and not any(path.stat().st_size for path in run.quarantine.iterdir())


def test_what_is_not_there(hub: Hub, tmp_path: Path) -> None:
    for path in (f"{NAME}/none.parquet", f"{NAME}/none/", f"{NAME}@none/data/", f"{NAME}/data/none-*.parquet"):
        run = RunDirectory(tmp_path / "run")
        with pytest.raises(ValueError, match="no source has a single readable file; not found: hf://"):
            extract(configuration(run.root, "parquet", f"hf://datasets/{path}"), run)
    with pytest.raises(OSError, match="the hub has no such dataset"):
        extract(configuration(run.root, "parquet", "hf://datasets/people/others"), run)


def test_failures_of_a_range(hub: Hub) -> None:
    address = f"hf://datasets/{NAME}@{hub.branches['main']}"
    with pytest.raises(NotThereError):
        read_range(f"{address}/none.jsonl", 0, 5)
    assert read_range(f"{address}/README.md", 2, 5) == b"Tex"
    hub.knows_ranges = False
    with pytest.raises(PassingError, match="status 200 and range '' for bytes 2-4"):
        read_range(f"{address}/README.md", 2, 5)
    hub.token = "hf_other"
    with pytest.raises(DeniedError, match="set HF_TOKEN"):
        read_range(f"{address}/README.md", 2, 5)


@pytest.mark.parametrize("address", ["hf://people/texts", "hf://datasets/texts", "hf://models/people/texts"])
def test_other_addresses_are_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ValueError, match="must be hf://datasets/OWNER/NAME"):
        configuration(tmp_path, "parquet", address)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("hf://datasets/a/b", ("a/b", None, "")),
        ("hf://datasets/a/b/", ("a/b", None, "")),
        ("hf://datasets/a/b.c-d/e/f@g.parquet", ("a/b.c-d", None, "e/f@g.parquet")),
        ("hf://datasets/a/b@refs/pr/12/e", ("a/b", "refs/pr/12", "e")),
        ("hf://datasets/a/b@refs/convert/parquet", ("a/b", "refs/convert/parquet", "")),
    ],
)
def test_parts_of_an_address(address: str, parts: tuple[str, str | None, str]) -> None:
    found = HubAddress.parse(address)
    assert (found.repository, found.revision, found.path) == parts
