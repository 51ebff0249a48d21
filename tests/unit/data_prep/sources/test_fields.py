"""Documents from other people's fields: named, nested, several in a template; and what is not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.config import DataConfig
from data_prep.extract import extract
from data_prep.ledger.why import ids_of_url
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import load_manifest
from data_prep.sources import Document, Fault, FileRange, reader_of
from data_prep.sources.fields import Fields, parse_template

RECORDS: list[dict[str, Any]] = [
    {"title": "Zugspitze", "data": {"body": "A mountain.", "lang": "en"}, "number": 7, "url": "https://a.example"},
    {"title": "Ärger", "data": {"body": "Ein Wort.", "lang": "de"}, "number": 8, "url": "https://b.example"},
]


def as_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.with_suffix(".jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path.with_suffix(".jsonl")


def as_parquet(path: Path, records: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(records), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def as_stream(path: Path, records: list[dict[str, Any]]) -> Path:
    table = pa.Table.from_pylist(records)
    with pa.OSFile(str(path.with_suffix(".arrow")), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    return path.with_suffix(".arrow")


def as_file(path: Path, records: list[dict[str, Any]]) -> Path:
    table = pa.Table.from_pylist(records)
    with pa.OSFile(str(path.with_suffix(".arrow")), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    return path.with_suffix(".arrow")


WRITERS = [as_jsonl, as_parquet, as_stream, as_file]
Writer = Callable[[Path, list[dict[str, Any]]], Path]


def read(path: Path, **options: str) -> list[Document | Fault]:
    kind = path.suffix[1:]
    size = path.stat().st_size
    return list(reader_of(kind, options).read(FileRange(str(path), 0, size, size), 1_000_000))


def documents(path: Path, **options: str) -> list[Document]:
    found = read(path, **options)
    assert all(isinstance(one, Document) for one in found), found
    return [one for one in found if isinstance(one, Document)]


@pytest.mark.parametrize("write", WRITERS)
def test_a_field_of_an_object(tmp_path: Path, write: Writer) -> None:
    first, second = documents(write(tmp_path / "x", RECORDS), text_field="data.body")
    assert (first.text, first.url) == ("A mountain.", "https://a.example")
    assert first.metadata == {"title": "Zugspitze", "data": {"lang": "en"}, "number": 7}
    assert second.text == "Ein Wort."


@pytest.mark.parametrize("write", WRITERS)
def test_a_template_and_a_field_that_names_documents(tmp_path: Path, write: Writer) -> None:
    path = write(tmp_path / "x", RECORDS)
    first, second = documents(path, text_template="# {title} ({number})\n\n{{{data.body}}}\n", id_field="number")
    assert first.text == "# Zugspitze (7)\n\n{A mountain.}\n"
    assert (first.url, second.url) == ("7", "8")
    assert second.metadata == {"data": {"lang": "de"}, "url": "https://b.example"}


def test_a_key_with_a_dot_comes_first(tmp_path: Path) -> None:
    record = {"data.body": "the key", "data": {"body": "the object"}}
    (found,) = documents(as_jsonl(tmp_path / "x", [record]), text_field="data.body")
    assert found.text == "the key" and found.metadata == {"data": {"body": "the object"}}


@pytest.mark.parametrize("write", WRITERS)
def test_an_object_with_nothing_else_is_no_metadata(tmp_path: Path, write: Writer) -> None:
    (found,) = documents(write(tmp_path / "x", [{"data": {"body": "text"}}]), text_field="data.body")
    assert found.metadata == {}


@pytest.mark.parametrize("write", WRITERS)
def test_a_null_is_set_aside(tmp_path: Path, write: Writer) -> None:
    records = [RECORDS[0], {**RECORDS[1], "data": {"body": None, "lang": "de"}}, {**RECORDS[1], "title": None}]
    found = read(write(tmp_path / "x", records), text_template="{title}: {data.body}")
    assert [type(one) for one in found] == [Document, Fault, Fault]
    assert [one.detail for one in found if isinstance(one, Fault)] == ["`data.body` is null", "`title` is null"]


def test_a_record_without_the_field_is_set_aside_by_name(tmp_path: Path) -> None:
    records = [*RECORDS, {"title": "no body", "data": {"lang": "fr"}}, {"title": "flat", "data": "x"}]
    *_, missing, flat = read(as_jsonl(tmp_path / "x", records), text_field="data.body", id_field="title")
    assert isinstance(missing, Fault) and isinstance(flat, Fault)
    assert (missing.reason, missing.line) == ("missing_text", 3)
    assert missing.detail == "no field `body`: the fields of `data` are 'lang'"
    assert flat.detail == "`data` is string, not an object"
    (unnamed,) = read(as_jsonl(tmp_path / "y", [{"text": "x", "title": None}]), id_field="title")
    assert isinstance(unnamed, Fault) and (unnamed.reason, unnamed.detail) == ("missing_id", "`title` is null")


def test_bytes_that_are_no_text_are_never_part_of_a_text(tmp_path: Path) -> None:
    """A string in a structure may hold any bytes, too: that row is set aside, and its neighbours are kept."""
    bad = pa.array([b"good", b"b\xffd"]).view(pa.string())
    table = pa.table({"data": pa.StructArray.from_arrays([bad], ["body"])})
    pq.write_table(table, tmp_path / "x.parquet")
    for options in ({"text_field": "data.body"}, {"text_template": "<{data.body}>"}):
        good, fault = read(tmp_path / "x.parquet", **options)
        assert isinstance(good, Document) and isinstance(fault, Fault)
        assert (fault.reason, fault.row) == ("invalid_utf8", 1)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("options", [{"text_field": "body"}, {"text_field": "data"}, {"text_field": "data.title"}])
def test_a_wrong_field_is_refused_and_the_others_named(tmp_path: Path, write: Writer, options: dict[str, str]) -> None:
    name = options["text_field"]
    with pytest.raises(ValueError, match=rf"`{name}`") as error:
        read(write(tmp_path / "x", RECORDS * 50), **options)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("write", WRITERS[1:])
def test_a_wrong_id_of_a_table_is_refused(tmp_path: Path, write: Writer) -> None:
    with pytest.raises(ValueError, match="no column `key`, which `id_field` names"):
        read(write(tmp_path / "x", RECORDS), text_field="title", id_field="key")


def test_a_damaged_arrow_file_gives_what_is_before_the_damage(tmp_path: Path) -> None:
    path = as_stream(tmp_path / "x", [{"text": f"row {i} " * 100} for i in range(50)])
    path.write_bytes(path.read_bytes()[:20_000])
    *good, fault = read(path)
    assert len(good) > 10 and isinstance(fault, Fault)
    assert fault.reason == "damaged_file" and fault.row == len(good)
    assert isinstance(good[-1], Document) and good[-1].text == f"row {len(good) - 1} " * 100


def test_files_of_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(RECORDS).save_to_disk(str(tmp_path / "set"))
    (path,) = (tmp_path / "set").glob("*.arrow")
    assert reader_of("arrow").accepts(str(path)) and not reader_of("arrow").accepts("cache-1.arrow")
    assert [one.text for one in documents(path, text_field="title")] == ["Zugspitze", "Ärger"]


def test_a_document_is_found_by_what_its_field_calls_it(tmp_path: Path) -> None:
    """The setting reaches the readers of a run, and `data why` looks a document up by it."""
    as_jsonl(tmp_path / "x", RECORDS * 2)
    source = {"name": "a", "kind": "jsonl", "paths": (str(tmp_path),), "text_field": "data.body", "id_field": "number"}
    config = DataConfig.model_validate({"output": tmp_path / "run", "workers": 1, "sources": (source,)})
    run = RunDirectory(config.output)
    extract(config, run)
    manifest = load_manifest(run)
    assert ids_of_url(manifest, run, "8") == ["a-00000/0000001", "a-00000/0000003"]
    assert ids_of_url(manifest, run, "9") == []


@pytest.mark.parametrize("template", ["no field", "{", "}", "{}", "{title!r}", "{title:>8}", "{ }"])
def test_a_template_that_means_nothing_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"brace|field"):
        parse_template(template)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "text", "text_field": "body"}, "text_field: has no effect: kind is 'text'"),
        ({"kind": "jsonl", "text_field": "a", "text_template": "{b}"}, "text_field: has no effect beside"),
        ({"kind": "jsonl", "text_template": "{"}, "written twice"),
    ],
)
def test_settings_that_do_nothing_are_refused(settings: dict[str, str], message: str) -> None:
    source = {"name": "a", "paths": ["x"], **settings}
    with pytest.raises(ValueError, match=message):
        DataConfig.model_validate({"output": "runs/x", "sources": [source]})


def test_usual_fields_are_those_of_no_settings() -> None:
    assert Fields.of(None) == Fields.of({}) == Fields()
