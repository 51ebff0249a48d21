"""Bad input, and bytes that do not depend on how the work was divided."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep.config import DataConfig
from data_prep.extract import extract, place_of, quarantined
from data_prep.run.commit_records import read_records
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import load_manifest
from data_prep.sources import reader_of
from data_prep.sources.compression import _Range

GOOD = [
    {"text": f"Document {number} has some words.", "id": number, "url": f"https://example.org/{number}"}
    for number in range(20)
]


def lines(*values: object) -> bytes:
    return b"".join(value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n" for value in values)


def run_extract(folder: Path, kind: str = "jsonl", name: str = "run", **settings: Any) -> RunDirectory:
    source = {"name": "web", "kind": kind, "paths": (str(folder / "raw"),)}
    config = DataConfig.model_validate({"output": folder / name, "workers": 1, "sources": (source,), **settings})
    run = RunDirectory(config.output)
    extract(config, run)
    return run


def write_raw(folder: Path, **files: bytes) -> None:
    (folder / "raw").mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / "raw" / name.replace("__", ".")).write_bytes(content)


def documents(run: RunDirectory) -> list[dict[str, Any]]:
    return [
        row
        for name in load_manifest(run).shard_names
        for row in pq.read_table(run.corpus / f"{name}.parquet").to_pylist()
    ]


def aside(run: RunDirectory) -> list[dict[str, Any]]:
    return list(quarantined(run, load_manifest(run).shard_names))


def test_good_lines_become_documents_with_stable_ids(tmp_path: Path) -> None:
    write_raw(tmp_path, a__jsonl=lines(*GOOD))
    run = run_extract(tmp_path)
    rows = documents(run)
    assert [row["text"] for row in rows] == [value["text"] for value in GOOD]
    assert rows[3] == {
        "id": "web-00000/0000003",
        "text": "Document 3 has some words.",
        "source": "web",
        "url": "https://example.org/3",
        "metadata": '{"id":3}',
    }
    assert read_records(run, "extract")["web-00000"].counts["documents"] == 20


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        (b'{"text": "half writ\n', "invalid_json", "Unterminated string"),
        (b'{"text": "caf\xe9"}\n', "invalid_utf8", "byte 0xe9 at offset 13"),
        (b'{"text": "x \\ud800 y"}\n', "invalid_unicode", "U+D800"),
        (b'{"text": "  \\n "}\n', "empty", "white space only"),
        (b'{"text": ""}\n', "empty", "no text"),
        (b'{"content": "x"}\n', "missing_text", "the fields are 'content'"),
        (b'{"text": 7}\n', "missing_text", "`text` is number"),
        (b"[1, 2]\n", "missing_text", "a JSON array, not an object"),
        (b"[" * 100_000 + b"\n", "invalid_json", ""),
        (b'{"text": "' + b"x" * 3000 + b'"}\n', "too_large", "3,012 bytes"),
    ],
)
def test_one_bad_line_is_kept_aside_with_its_place(tmp_path: Path, bad: bytes, reason: str, detail: str) -> None:
    limit = 2000 if reason == "too_large" else 1_000_000
    write_raw(tmp_path, a__jsonl=lines(*GOOD[:7], bad, *GOOD[7:]))
    run = run_extract(tmp_path, maximum_document_bytes=limit)
    assert [row["text"] for row in documents(run)] == [value["text"] for value in GOOD]
    (record,) = aside(run)
    assert (record["reason"], record["line"], record["source"]) == (reason, 8, "web")
    assert record["path"].endswith("raw/a.jsonl") and detail in record["detail"] and len(record["excerpt"]) <= 200
    counts = read_records(run, "extract")["web-00000"].counts
    assert counts[f"quarantine:{reason}"] == counts["quarantined"] == 1


def test_a_half_written_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_raw(tmp_path, a__jsonl=lines(*GOOD)[:-15])
    run = run_extract(tmp_path)
    assert len(documents(run)) == 19
    assert [(record["line"], record["reason"]) for record in aside(run)] == [(20, "invalid_json")]
    assert "set aside in" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_truncated_packed_file_gives_what_is_whole_and_is_said_loudly(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # incompressible words, so that the cut falls between many lines
    values = [{"text": hashlib.sha256(str(number).encode()).hexdigest() * 20} for number in range(3000)]
    packed = gzip.compress(lines(*values)) if suffix == "gz" else zstandard.compress(lines(*values))
    write_raw(tmp_path, **{f"a__jsonl__{suffix}": packed[: len(packed) * 2 // 3]})
    run = run_extract(tmp_path)
    found = documents(run)
    assert [row["text"] for row in found] == [value["text"] for value in values[: len(found)]] and len(found) > 100
    record = aside(run)[-1]
    assert record["reason"] == "damaged_file" and record["line"] == len(found) + 1 and suffix in record["detail"]
    assert f"DAMAGED {tmp_path}/raw/a.jsonl.{suffix}:{len(found) + 1}: damaged" in capsys.readouterr().err


def test_a_file_that_is_not_what_its_name_says(tmp_path: Path) -> None:
    write_raw(tmp_path, a__jsonl=lines(*GOOD), b__jsonl__gz=lines(*GOOD), c__jsonl__zst=lines(*GOOD))
    run = run_extract(tmp_path)
    assert len(documents(run)) == 20
    assert [record["reason"] for record in aside(run)] == ["damaged_file", "damaged_file"]


def test_a_single_line_of_fifty_megabytes_takes_no_memory_and_stops_nothing(tmp_path: Path) -> None:
    import tracemalloc

    big = b'{"text": "' + b"x" * 50_000_000 + b'"}\n'
    write_raw(tmp_path, a__jsonl=lines(GOOD[0], big, GOOD[1]))
    del big
    tracemalloc.start()
    run = run_extract(tmp_path, maximum_document_bytes=1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(documents(run)) == 2 and peak < 20_000_000
    (record,) = aside(run)
    assert (record["reason"], record["line"]) == ("too_large", 2) and "50,000,012 bytes" in record["detail"]


def test_a_wrong_field_is_an_error_that_names_the_fields(tmp_path: Path) -> None:
    write_raw(tmp_path, a__jsonl=lines(*({"content": "x", "id": number} for number in range(150))))
    with pytest.raises(
        ValueError, match=r"a\.jsonl:1: none of the first 100 lines has a string `text` .*'content', 'id'"
    ):
        run_extract(tmp_path)


def test_a_source_of_which_nothing_is_left_is_an_error(tmp_path: Path) -> None:
    write_raw(tmp_path, a__jsonl=b"no json\n" * 3)
    with pytest.raises(
        ValueError, match=r"source web: none of its 3 documents can be used \(3 invalid_json\).*a\.jsonl:1"
    ):
        run_extract(tmp_path)


# --- Parquet ----------------------------------------------------------------------------------------------------------


def write_parquet(folder: Path, name: str = "a.parquet", **columns: object) -> Path:
    (folder / "raw").mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / "raw" / name)
    return folder / "raw" / name


def test_parquet_columns_become_metadata(tmp_path: Path) -> None:
    write_parquet(tmp_path, text=["one", "two"], url=["https://a", None], score=[1.5, None])
    run = run_extract(tmp_path, "parquet")
    assert [(row["text"], row["metadata"]) for row in documents(run)] == [
        ("one", '{"score":1.5}'),
        ("two", '{"score":null}'),
    ]
    assert documents(run)[0]["url"] == "https://a" and documents(run)[1]["url"].endswith("a.parquet#row=1")


def test_a_missing_column_is_an_error_that_names_file_and_columns(tmp_path: Path) -> None:
    write_parquet(tmp_path, content=["one"], id=[1])
    with pytest.raises(
        ValueError, match=r"a\.parquet: no column `text`; name the string column .*content \(string\), id \(int64\)"
    ):
        run_extract(tmp_path, "parquet")


def test_a_column_of_another_type_is_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path, text=[1, 2])
    with pytest.raises(ValueError, match=r"a\.parquet: the column `text` is int64; it must be a string"):
        run_extract(tmp_path, "parquet")


def test_a_truncated_parquet_file_is_one_unit_and_costs_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_parquet(tmp_path, "b.parquet", text=["x" * 1000] * 100)
    path.write_bytes(path.read_bytes()[:-50])
    write_parquet(tmp_path, "a.parquet", text=["one"])
    run = run_extract(tmp_path, "parquet")
    assert [row["text"] for row in documents(run)] == ["one"]
    (record,) = aside(run)
    assert record["reason"] == "damaged_file" and record["path"].endswith("b.parquet")
    assert "not a whole Parquet file" in record["detail"]
    assert "b.parquet: not a whole Parquet file" in capsys.readouterr().err


def test_bad_rows_of_a_parquet_file(tmp_path: Path) -> None:
    # bytes declared as a string, as a careless writer leaves them
    broken = pa.array([b"good", b"caf\xe9", None, b"", b"also good"], pa.binary()).view(pa.string())
    write_parquet(tmp_path, text=broken)
    run = run_extract(tmp_path, "parquet")
    assert [row["text"] for row in documents(run)] == ["good", "also good"]
    assert [(record["row"], record["reason"]) for record in aside(run)] == [
        (1, "invalid_utf8"),
        (2, "empty"),
        (3, "empty"),
    ]


# --- the same bytes ---------------------------------------------------------------------------------------------------


def written(run: RunDirectory) -> dict[str, str]:
    files = [
        path for folder in (run.corpus, run.quarantine, run.commits) for path in folder.rglob("*") if path.is_file()
    ]
    return {
        str(path.relative_to(run.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in [*files, run.manifest]
        if path.name != "manifest-stamps.json"
    }


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path) -> None:
    # two bad lines and a document that spans many ranges; ranges of 300 bytes cut most lines
    long = {"text": "long " * 300}
    write_raw(tmp_path, a__jsonl=lines(*GOOD[:5], b"bad\n", long, *GOOD[5:], b'{"text": "\n'), b__jsonl=lines(*GOOD))
    one = run_extract(tmp_path, name="one", workers=1, shard_bytes=300)
    two = run_extract(tmp_path, name="two", workers=2, shard_bytes=300)
    assert len(load_manifest(one).shards) > 10
    assert written(one) == written(two)
    texts = [value["text"] for value in [*GOOD[:5], long, *GOOD[5:], *GOOD]]
    assert [row["text"] for row in documents(one)] == texts
    contents = (tmp_path / "raw" / "a.jsonl").read_bytes()
    told = [(record.get("from_byte", 0), record["line"]) for record in aside(one)]
    assert [contents[start:].split(b"\n")[line - 1] for start, line in told] == [b"bad", b'{"text": "']


@pytest.mark.parametrize("suffix", ["gz", "zst"])
@pytest.mark.parametrize("pieces", [1, 7])
def test_a_packed_file_is_many_shards_with_the_same_bytes_for_any_number_of_workers(
    tmp_path: Path, suffix: str, pieces: int
) -> None:
    values = [{"text": hashlib.sha256(str(number).encode()).hexdigest() * 9} for number in range(210)]
    pack = gzip.compress if suffix == "gz" else zstandard.compress
    each = len(values) // pieces
    content = b"".join(pack(lines(*values[start : start + each])) for start in range(0, len(values), each))
    write_raw(tmp_path, **{f"a__jsonl__{suffix}": content})
    one = run_extract(tmp_path, name="one", workers=1, shard_bytes=len(content) // 7)
    two = run_extract(tmp_path, name="two", workers=2, shard_bytes=len(content) // 7)
    manifest = load_manifest(one)
    assert len(manifest.shards) >= 6 and len(manifest.chains) == (1 if pieces == 1 else len(manifest.shards))
    assert written(one) == written(two)
    assert [row["text"] for row in documents(one)] == [value["text"] for value in values]
    assert all(read_records(one, "extract")[name].counts["documents"] > 10 for name in manifest.shard_names)
    # a shard in the middle, by itself
    before = written(one)
    (one.commits / "extract" / "web-00003.json").unlink()
    run_extract(tmp_path, name="one", workers=1, shard_bytes=len(content) // 7)
    assert written(one) == before


def test_behind_the_first_range_a_fault_is_found_by_the_byte_of_its_range(tmp_path: Path) -> None:
    content = lines(*GOOD[:3], b"bad 1\n", *GOOD[3:18], b"bad 2\n", *GOOD[18:])
    write_raw(tmp_path, a__jsonl=content)
    run = run_extract(tmp_path, shard_bytes=600)
    first, second = aside(run)
    assert place_of(first).endswith("a.jsonl:4")
    start = second["from_byte"]
    assert content[start:].split(b"\n")[second["line"] - 1] == b"bad 2"
    assert place_of(second).endswith(f"a.jsonl line {second['line']} from byte {start + 1}")


def test_no_fault_makes_a_file_be_read_a_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bytes_read(name: str, *content: Any) -> int:
        path = tmp_path / name
        path.write_bytes(lines(*content))
        size = path.stat().st_size
        taken = 0

        def counted(self: _Range, buffer: Any) -> int:
            nonlocal taken
            count = read(self, buffer)
            taken += count
            return count

        read = _Range.readinto
        with monkeypatch.context() as patch:
            patch.setattr(_Range, "readinto", counted)
            for piece in reader_of("jsonl").divide(str(path), size, size // 4 + 1):
                list(reader_of("jsonl").read(piece, 1000))
        return taken

    good = {"text": "x" * 40}
    bad = b'{"text": ' + b"?" * (len(lines(good)) - 10) + b"\n"
    assert bytes_read("bad.jsonl", *[good, bad] * 500) == bytes_read("good.jsonl", *[good] * 1000)


def test_an_input_that_cannot_be_read_any_more_is_named_and_nothing_done_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        write_raw(tmp_path, **{f"{name}__jsonl": lines(*GOOD)})
    good = run_extract(tmp_path, name="good", shard_bytes=1800)
    assert len(load_manifest(good).shards) == 3

    read = _Range.readinto

    def fail(self: _Range, buffer: memoryview) -> int:
        if self.name.endswith("b.jsonl"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(self, buffer)

    with monkeypatch.context() as patch:
        patch.setattr(_Range, "readinto", fail)
        with pytest.raises(
            ValueError,
            match=r"web-00001: .*raw/b\.jsonl: cannot be read \(Input/output error\).*finished work is kept",
        ):
            run_extract(tmp_path, shard_bytes=1800)
    run = RunDirectory(tmp_path / "run")
    assert list(read_records(run, "extract")) == ["web-00000"]
    assert not list(run.root.rglob("*.partial"))
    run_extract(tmp_path, shard_bytes=1800)
    assert written(run) == written(good)


def test_what_is_lost_is_done_again_with_the_same_bytes(tmp_path: Path) -> None:
    write_raw(tmp_path, a__jsonl=lines(*GOOD))
    run = run_extract(tmp_path, shard_bytes=300)
    before = written(run)
    times = {path: path.stat().st_mtime_ns for path in run.corpus.iterdir()}
    (run.commits / "extract" / "web-00002.json").unlink()
    (run.corpus / "web-00001.parquet").unlink()
    run_extract(tmp_path, shard_bytes=300)
    assert written(run) == before
    redone = {path.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert redone == {"web-00001.parquet", "web-00002.parquet"}


def test_a_real_corpus(tmp_path: Path) -> None:
    corpus = Path(__file__).parents[4] / "shared" / "data" / "corpus.jsonl.zst"
    if not corpus.exists():
        pytest.skip("the corpus of 22,005 documents is not on this machine")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "corpus.jsonl.zst").symlink_to(corpus)
    run = run_extract(tmp_path)
    counts = read_records(run, "extract")["web-00000"].counts
    assert counts["documents"] == 22005 and counts["quarantined"] == 0


def test_output_at_an_address_and_other_compression_are_refused_by_name(tmp_path: Path) -> None:
    source = {"name": "web", "kind": "jsonl", "paths": ["s3://bucket/a.jsonl"]}
    with pytest.raises(ValueError, match="gs:// is supported for input only; mount the storage"):
        DataConfig.model_validate({"output": "gs://bucket/run", "sources": [source]})
    write_raw(tmp_path, a__jsonl__xz=b"\xfd7zXZ")
    with pytest.raises(ValueError, match=r"has no file that kind 'jsonl' reads, but 1 \.xz"):
        run_extract(tmp_path)
    config = {"output": tmp_path / "run", "sources": [{**source, "paths": [str(tmp_path / "raw" / "a.jsonl.xz")]}]}
    with pytest.raises(ValueError, match=r"a\.jsonl\.xz: files compressed by xz \(\.xz\) are not read"):
        extract(DataConfig.model_validate(config), RunDirectory(tmp_path / "run"))
