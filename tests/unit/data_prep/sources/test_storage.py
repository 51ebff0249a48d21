"""Input at addresses: the same documents as from files, whatever goes wrong on the way."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import ValidationError

from data_prep.config import DataConfig
from data_prep.extract import extract
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import freeze_manifest, load_manifest
from data_prep.sources import reader_of, storage
from tests.unit.data_prep.sources.object_server import ObjectServer

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"


def lines(count: int, first: int = 0) -> bytes:
    rows = ({"text": f"Document {i}. {'word ' * (i % 90)}", "url": f"https://a.example/{i}"} for i in range(count))
    return b"".join(json.dumps(row).encode() + b"\n" for row in list(rows)[first:])


def files() -> dict[str, tuple[str, bytes]]:
    """Kind and content of a file of each form, most of them divided into several shards."""
    parquet, tar = io.BytesIO(), io.BytesIO()
    table = pa.table({"text": [f"Row {i}. {'word ' * (i % 70)}" for i in range(900)], "n": list(range(900))})
    pq.write_table(table, parquet, row_group_size=100)
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for i in range(5):
            paper = rb"\documentclass{article}\begin{document}\section{One} Some text of a paper.\end{document}"
            member = tarfile.TarInfo(f"2001/{i:05d}.gz")
            member.size = len(packed := gzip.compress(paper))
            archive.addfile(member, io.BytesIO(packed))
    page = (
        b"<html><body><article><p>"
        + b"A sentence of the page that is long enough. " * 20
        + b"</p></article></body></html>"
    )
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
    records = [
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://b.example/%d\r\nWARC-Record-ID: <urn:uuid:%d>\r\n"
        b"Content-Type: application/http; msgtype=response\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n"
        % (i, i, len(head + page), head + page)
        for i in range(60)
    ]
    frames = b"".join(zstandard.compress(lines(400 * i + 400, 400 * i)) for i in range(3))
    return {
        "a.jsonl": ("jsonl", lines(600)),
        "a.jsonl.gz": ("jsonl", b"".join(gzip.compress(lines(500 * i + 500, 500 * i)) for i in range(4))),
        "a.jsonl.zst": ("jsonl", frames),
        "a.parquet": ("parquet", parquet.getvalue()),
        "a.warc": ("warc", b"".join(records)),
        "a.warc.gz": ("warc", b"".join(map(gzip.compress, records))),
        "a.tar": ("arxiv", tar.getvalue()),
        "a.xml.bz2": (
            "wikipedia",
            bz2.compress(b'<mediawiki xml:lang="en"><siteinfo></siteinfo>\n')
            + b"".join(
                bz2.compress(
                    b"".join(
                        b"<page><title>P%d.%d</title><revision><text>Text of [[%d]]</text></revision></page>\n"
                        % (i, j, j)
                        for j in range(200)
                    )
                )
                for i in range(9)
            )
            + bz2.compress(b"</mediawiki>\n"),
        ),
        "a.txt": ("text", b"One text.\n" * 300),
        "a.html": ("html", page),
        "x.stackexchange.com/Posts.xml": (
            "stackexchange",
            b'<?xml version="1.0"?>\n<posts>\n'
            + b"".join(
                b'  <row Id="%d" PostTypeId="1" Score="3" Title="Why %d?" Body="&lt;p&gt;Question %d&lt;/p&gt;" />\n'
                b'  <row Id="%d" PostTypeId="2" ParentId="%d" Score="4" Body="&lt;p&gt;Answer %d&lt;/p&gt;" />\n'
                % (2 * i, i, i, 2 * i + 1, 2 * i, i)
                for i in range(1, 60)
            )
            + b"</posts>\n",
        ),
    }


def read_all(kind: str, path: str, size: int) -> list[str]:
    """Everything the reader yields for all ranges, without the path."""
    reader = reader_of(kind)
    return [
        repr(result).replace(path, "PATH")
        for piece in reader.divide(path, size, 8000)
        for result in reader.read(piece, 10**6)
    ]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ObjectServer, str]]:
    monkeypatch.setattr(storage, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(storage, "_LARGEST_RANGE", 1 << 14)
    monkeypatch.setattr(storage, "_SMALLEST_RANGE", 1 << 11)
    storage.retries.clear()
    one = ObjectServer()
    with one.running() as host:
        yield one, f"http://{host}"


@pytest.mark.parametrize("name", files())
@pytest.mark.parametrize("fault", [None, "503", "reset", "truncated", "slow"])
def test_every_kind_reads_the_same(
    tmp_path: Path, server: tuple[ObjectServer, str], name: str, fault: str | None
) -> None:
    one, address = server
    kind, content = files()[name]
    (path := tmp_path / name).parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    one.files[name] = content
    expected = read_all(kind, str(path), len(content))
    one.fault = lambda number: fault if number % 3 == 0 else None
    assert read_all(kind, f"{address}/{name}", len(content)) == expected
    assert len(expected) > (0 if kind in ("text", "html") else 4)
    if fault in ("503", "reset", "truncated"):
        assert storage.retries.total() == one.counts[fault] > 0
    else:
        assert not storage.retries


def test_a_server_with_weak_tags(server: tuple[ObjectServer, str]) -> None:
    one, address = server
    one.files["a.txt"], one.has_weak_tags = lines(400), True
    with storage.open_input(f"{address}/a.txt") as file:
        assert file.read(5000) == lines(400)[:5000]
        one.files["a.txt"] = lines(401)
        with pytest.raises(storage.StorageError, match="changed while it was read"):
            file.read()


def configuration(folder: Path, paths: list[str]) -> DataConfig:
    source = {"name": "web", "kind": "jsonl", "paths": paths}
    return DataConfig.model_validate({"output": folder, "sources": [source], "shard_bytes": 20_000, "workers": 1})


def corpus(run: RunDirectory) -> list[dict[str, Any]]:
    return [row for path in sorted(run.corpus.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, ObjectServer]]:
    """A bucket `crawl` of a real S3 server, and the proxy through which it is read."""
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto.server")
    s3 = moto.ThreadedMotoServer(port=0, verbose=False)
    s3.start()
    host, port = s3.get_host_and_port()
    secrets = {"aws_access_key_id": "key", "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **secrets)
    client.create_bucket(Bucket="crawl")
    proxy = ObjectServer(forward=f"{host}:{port}")
    monkeypatch.setattr(storage, "FIRST_PAUSE_SECONDS", 0.001)
    storage.retries.clear()
    storage._store.cache_clear()
    with proxy.running() as address:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{address}",
        }.items():
            monkeypatch.setenv(name, value)
        yield client, proxy
    storage._store.cache_clear()
    s3.stop()


def test_a_bucket_is_read_as_a_folder_is(
    tmp_path: Path, bucket: tuple[Any, ObjectServer], capsys: pytest.CaptureFixture[str]
) -> None:
    client, proxy = bucket
    for i in range(4):
        name, content = f"2024/part-{i}.jsonl.gz", gzip.compress(lines(400 * i + 400, 400 * i))
        (path := tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        client.put_object(Bucket="crawl", Key=name, Body=content)
    client.put_object(Bucket="crawl", Key="2024/notes.pdf", Body=b"%PDF")
    client.put_object(Bucket="crawl", Key="2025/part-0.jsonl", Body=lines(3))
    here, there = RunDirectory(tmp_path / "here"), RunDirectory(tmp_path / "there")
    extract(configuration(here.root, [str(tmp_path / "raw" / "2024")]), here)
    proxy.fault = lambda number: ("503", None, "truncated", None, None)[number % 5]
    config = configuration(there.root, ["s3://crawl/2024/"])
    extract(config, there)
    assert corpus(there) == corpus(here) and len(corpus(here)) == 1600
    (source,) = load_manifest(there).sources
    assert source.skipped == {".pdf": 1} and [file.size for file in source.files] == [
        file.size for file in load_manifest(here).sources[0].files
    ]
    assert source.files[0].path == "s3://crawl/2024/part-0.jsonl.gz" and source.files[0].sha256.startswith('tag "')
    assert "requests to the store were repeated" in capsys.readouterr().err
    written = b"".join(path.read_bytes() for path in there.root.rglob("*") if path.is_file())
    assert SECRET.encode() not in written
    extract(config, there)  # done already

    globbed = RunDirectory(tmp_path / "globbed")
    extract(configuration(globbed.root, ["s3://crawl/**/part-[01].jsonl*"]), globbed)
    assert [file.path for file in load_manifest(globbed).sources[0].files] == [
        f"s3://crawl/{name}" for name in ("2024/part-0.jsonl.gz", "2024/part-1.jsonl.gz", "2025/part-0.jsonl")
    ]


def test_a_store_that_fails_ends_the_run_and_loses_nothing(tmp_path: Path, bucket: tuple[Any, ObjectServer]) -> None:
    client, proxy = bucket
    client.put_object(Bucket="crawl", Key="a.jsonl", Body=lines(1000))
    run = RunDirectory(tmp_path / "run")
    config = configuration(run.root, ["s3://crawl/a.jsonl"])
    proxy.fault = lambda number: "503" if number > 0 else None
    with pytest.raises(ValueError, match=r"s3://crawl/a\.jsonl: cannot be read, 8 times in a row: .*503"):
        extract(config, run)
    proxy.fault = lambda number: None
    extract(config, run)
    assert len(corpus(run)) == 1000
    assert not any(path.stat().st_size for path in run.quarantine.glob("*.jsonl"))


def test_an_object_that_changes_is_an_error(tmp_path: Path, bucket: tuple[Any, ObjectServer]) -> None:
    client, _ = bucket
    client.put_object(Bucket="crawl", Key="a.jsonl", Body=lines(1000))
    with storage.open_input("s3://crawl/a.jsonl") as file:
        file.read(100)
        client.put_object(Bucket="crawl", Key="a.jsonl", Body=lines(1001))
        with pytest.raises(storage.StorageError, match="changed while it was read"):
            file.seek(90_000)
            file.read(100)
    run = RunDirectory(tmp_path / "run")
    config = configuration(run.root, ["s3://crawl/a.jsonl"])
    freeze_manifest(config, run)
    client.put_object(Bucket="crawl", Key="a.jsonl", Body=lines(1000))
    with pytest.raises(ValueError, match="changed after it was frozen"):
        extract(config, run)
    client.delete_object(Bucket="crawl", Key="a.jsonl")
    with pytest.raises(ValueError, match="removed after it was frozen"):
        extract(config, run)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://host/a.jsonl", "ftp:// is not supported, only s3://, gs://, https://, http://, hf:// and paths"),
        ("https://user:secret@host/a.jsonl", "'https://…@host/a.jsonl': an address must not contain credentials"),
        ("https://host/a.jsonl?signature=secret", "'https://host/a.jsonl': an address must not contain credentials"),
    ],
)
def test_addresses_that_are_refused(tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(ValidationError) as error:
        configuration(tmp_path, [address])
    told = error.value.errors(include_input=False)[0]["msg"]
    assert message in told and "secret" not in told


def test_what_is_not_there(tmp_path: Path, server: tuple[ObjectServer, str], bucket: tuple[Any, ObjectServer]) -> None:
    _, address = server
    for path in (f"{address}/none.jsonl", "s3://crawl/none.jsonl", "s3://crawl/none/"):
        with pytest.raises(ValueError, match="no source has a single readable file; not found: "):
            extract(configuration(tmp_path / "run", [path]), RunDirectory(tmp_path / "run"))
    with pytest.raises(storage.StorageError, match="a web server cannot list files; give the address of each file"):
        extract(configuration(tmp_path / "run", [f"{address}/folder/"]), RunDirectory(tmp_path / "run"))
