"""Web pages and web archives."""

from __future__ import annotations

import functools
import gzip
import io
import random
import re
import struct
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from data_prep.config import DataConfig, SourceConfig
from data_prep.extract import extract
from data_prep.run.commit_records import StaleOutputError
from data_prep.run.directory import RunDirectory
from data_prep.sources import Document, Fault, reader_of
from data_prep.sources.html import extract_with, main_text
from data_prep.sources.ranges import FileRange

# the writer that these tests use leaves its temporary files to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

PAGE = """<html><head><title>Title</title><script>var x = 1;</script></head><body>
<nav><a href="/">Home</a> <a href="/about">About</a></nav>
<main><h1>Heading</h1><p>The first <b>paragraph</b> of a page about caf\u00e9s &amp; bars.</p>
<p>The second paragraph is here so that there is some text in this page.</p></main>
<footer>Copyright</footer></body></html>"""
TEXT = (
    "Heading\n\nThe first paragraph of a page about caf\u00e9s & bars.\n\n"
    "The second paragraph is here so that there is some text in this page."
)


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1", "utf-16"])
def test_the_main_text_of_a_page_in_any_encoding_that_it_declares(encoding: str) -> None:
    meta = f'<meta charset="{encoding}">' if encoding == "iso-8859-1" else ""
    assert main_text(PAGE.replace("<head>", f"<head>{meta}").encode(encoding)) == TEXT
    assert main_text(PAGE.encode(encoding), declared=encoding) == TEXT


def test_a_wrong_declaration_gives_way_to_the_bytes() -> None:
    assert main_text(PAGE.encode("utf-8"), declared="us-ascii") == TEXT
    assert main_text(PAGE.encode("utf-8"), declared="no-such-encoding") == TEXT


def test_an_html_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "a.html.gz"
    path.write_bytes(gzip.compress(PAGE.encode()))
    size = path.stat().st_size
    reader = reader_of("html")
    (document,) = reader.read(FileRange(str(path), 0, size, size), 10_000)
    assert isinstance(document, Document) and document.text == TEXT and reader.accepts(str(path))
    (fault,) = reader.read(FileRange(str(path), 0, size, size), 100)
    assert isinstance(fault, Fault) and fault.reason == "too_large"


@pytest.mark.parametrize("kind", ["html", "warc"])
def test_a_source_names_its_extractor(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("a.html" if kind == "html" else "a.warc")
    page = PAGE.replace("</main>", "<ul><li>an item</li></ul><p><a href='/'>A link in a paragraph</a></p></main>")
    path.write_bytes(PAGE.encode())
    if kind == "warc":
        with path.open("wb") as file, io.BytesIO(page.encode()) as content:
            headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
            writer = WARCWriter(file, gzip=False)
            writer.write_record(writer.create_warc_record("http://a", "response", content, http_headers=headers))
    else:
        path.write_text(page)

    def text(**settings: Any) -> str:
        source = SourceConfig(name="a", kind=kind, paths=(str(path),), **settings)
        size = path.stat().st_size
        (document,) = reader_of(kind, source.options).read(FileRange(str(path), 0, size, size), 10_000)
        assert isinstance(document, Document)
        return document.text

    assert text() == text(extractor="blocks") == f"{TEXT}\n\n- an item\n\nA link in a paragraph"
    assert text(markdown=True) == f"# {TEXT}\n\n- an item\n\nA link in a paragraph"
    assert text(extractor="resiliparse") == f"{TEXT}\n\nA link in a paragraph"  # it drops short items


def test_an_extractor_is_a_part_of_what_a_run_is_made_from(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE)

    def run(**settings: Any) -> str:
        source = {"name": "a", "kind": "html", "paths": [str(tmp_path / "a.html")], **settings}
        config = DataConfig.model_validate({"output": tmp_path / "run", "workers": 1, "sources": [source]})
        extract(config, RunDirectory(config.output))
        (shard,) = RunDirectory(config.output).corpus.glob("*.parquet")
        return str(pq.read_table(shard)["text"][0].as_py())

    assert run() == TEXT
    for changed in ({"markdown": True}, {"extractor": "resiliparse"}):
        with pytest.raises(StaleOutputError, match=r"sources"):
            run(**changed)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "text", "extractor": "resiliparse"}, "extractor: has no effect: kind is 'text', not html or warc"),
        ({"kind": "epub", "markdown": True}, "markdown: has no effect: kind is 'epub', not html or warc"),
        (
            {"kind": "html", "extractor": "resiliparse", "markdown": True},
            "markdown: extractor 'resiliparse' does not write it; choose 'blocks' or 'trafilatura'",
        ),
        ({"kind": "html", "extractor": "readability"}, "Input should be 'blocks', 'resiliparse' or 'trafilatura'"),
    ],
)
def test_settings_of_pages_are_refused_where_they_have_no_effect(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        SourceConfig(name="a", paths=("a",), **settings)


def test_trafilatura_is_asked_for_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    (tmp_path / "a.html").write_text(PAGE)
    source = {"name": "a", "kind": "html", "paths": [str(tmp_path / "a.html")], "extractor": "trafilatura"}
    config = DataConfig.model_validate({"output": tmp_path / "run", "sources": [source]})
    with pytest.raises(ValueError, match=r"needs trafilatura: pip install 'altiplano\[trafilatura\]'"):
        extract(config, RunDirectory(config.output))
    assert not (tmp_path / "run").exists()


def test_trafilatura_where_it_is_installed() -> None:
    pytest.importorskip("trafilatura", reason="trafilatura is not installed")
    for markdown, heading in ((False, "Heading"), (True, "# Heading")):
        text = main_text(PAGE.encode(), extract=extract_with("trafilatura", markdown))
        assert text is not None and text.startswith(heading) and "café" in text and "About" not in text


def page(number: int) -> bytes:
    noise = random.Random(number).randbytes(300).hex()
    return f"<html><body><main><p>Page {number} has words and {noise}.</p></main></body></html>".encode()


def dictionary_frame(content: bytes) -> bytes:
    return struct.pack("<II", 0x184D2A5D, len(content)) + content


@functools.cache
def dictionary() -> zstandard.ZstdCompressionDict:
    samples = [
        b"WARC/1.0\r\nWARC-Type: response\r\n" + random.Random(n).randbytes(200).hex().encode() for n in range(99)
    ]
    return zstandard.train_dictionary(4096, samples)


def packed_by_record(records: list[bytes], kind: str) -> bytes:
    """As the IIPC has it: one record is one frame, or two; a dictionary stands in front, packed or not."""
    if kind == "plain":
        return b"".join(zstandard.ZstdCompressor(write_checksum=True).compress(record) for record in records)
    packer = zstandard.ZstdCompressor(dict_data=dictionary(), write_checksum=True)
    frames = [packer.compress(part) for record in records for part in (record[:100], record[100:])]
    inner = dictionary().as_bytes()
    return dictionary_frame(zstandard.compress(inner) if kind == "packed dictionary" else inner) + b"".join(frames)


def write_archive(path: Path, pages: int = 30, kind: str = "plain") -> None:
    """Responses among requests, other types and failures, as a crawler leaves them."""
    records: list[bytes] = []
    with io.BytesIO() as file:
        writer = WARCWriter(file, gzip=path.suffix == ".gz")

        def add(kind: str, url: str, content: bytes, content_type: str, status: str = "200 OK", *more: str) -> None:
            headers = [("Content-Type", content_type), *zip(more[::2], more[1::2], strict=True)]
            http = StatusAndHeaders(status, headers, protocol="HTTP/1.1") if kind == "response" else None
            writer.write_record(
                writer.create_warc_record(
                    url, kind, io.BytesIO(content), http_headers=http, warc_content_type=content_type
                )
            )
            records.append(file.getvalue())
            file.seek(0)
            file.truncate()

        add("warcinfo", "", b"software: x", "application/warc-fields")
        for number in range(pages):
            url = f"http://example.org/{number}"
            add("metadata", url, b"fetchTimeMs: 1", "application/warc-fields")
            add("response", url, page(number), "text/html; charset=UTF-8")
            add("response", f"{url}.png", b"\x89PNG" + bytes(50), "image/png")
            add("response", f"{url}/none", b"<p>Not found</p>", "text/html", "404 Not Found")
        packed = gzip.compress(page(100))
        add("response", "http://example.org/packed", packed, "text/html", "200 OK", "Content-Encoding", "gzip")
        chunked = b"5\r\nplain\r\n6\r\n words\r\n0\r\n\r\n"
        add("response", "http://example.org/t", chunked, "text/plain", "200 OK", "Transfer-Encoding", "chunked")
        add("conversion", "http://example.org/wet", b"Extracted before.", "text/plain")
    path.write_bytes(packed_by_record(records, kind) if path.suffix == ".zst" else b"".join(records))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.warc", "plain"),
        ("a.warc.gz", "plain"),
        ("a.warc.zst", "plain"),
        ("a.warc.zst", "dictionary"),
        ("a.warc.zst", "packed dictionary"),
    ],
)
@pytest.mark.parametrize("shard_bytes", [10**9, 3000])
def test_the_pages_of_an_archive_however_it_is_divided(tmp_path: Path, name: str, kind: str, shard_bytes: int) -> None:
    path = tmp_path / name
    write_archive(path, kind=kind)
    reader, size = reader_of("warc"), path.stat().st_size
    assert reader.accepts(str(path))
    ranges = reader.divide(str(path), size, shard_bytes)
    assert len(ranges) == 1 if shard_bytes > size else len(ranges) >= 5
    found = [document for piece in ranges for document in reader.read(piece, 1_000_000)]
    assert all(isinstance(document, Document) for document in found), found
    documents = [document for document in found if isinstance(document, Document)]
    urls = [f"http://example.org/{number}" for number in range(30)]
    assert [document.url for document in documents] == [
        *urls,
        "http://example.org/packed",
        "http://example.org/t",
        "http://example.org/wet",
    ]
    assert documents[7].text.startswith("Page 7 has words and ")
    assert documents[30].text.startswith("Page 100 has words and ")
    assert [document.text for document in documents[31:]] == ["plain words", "Extracted before."]
    assert documents[0].metadata["warc_id"].startswith("<urn:uuid:")


def test_faults_of_records_are_told_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    write_archive(path, pages=2)
    (piece,) = reader_of("warc").divide(str(path), path.stat().st_size, 10**9)
    faults = [fault for fault in reader_of("warc").read(piece, 200) if isinstance(fault, Fault)]
    assert [(fault.reason, fault.path.rpartition("/a.warc.gz")[2]) for fault in faults] == [
        ("too_large", " record 2 (http://example.org/0)"),
        ("too_large", " record 6 (http://example.org/1)"),
        ("too_large", " record 9 (http://example.org/packed)"),
    ]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.warc.zst"])
def test_a_damaged_archive_gives_what_is_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_archive(path)
    content = path.read_bytes()
    (piece,) = reader_of("warc").divide(str(path), len(content), 10**9)
    whole = list(reader_of("warc").read(piece, 1_000_000))
    for place in range(len(content) // 2, len(content) // 2 + 2500, 50):
        path.write_bytes(content[:place])
        (piece,) = reader_of("warc").divide(str(path), place, 10**9)
        *documents, last = reader_of("warc").read(piece, 1_000_000)
        if isinstance(last, Fault):
            assert last.reason == "damaged_file" and len(documents) > 10 and documents == whole[: len(documents)]
        else:  # cut between two records
            assert [*documents, last] == whole[: len(documents) + 1]
    path.write_bytes(content[: len(content) // 2] + bytes(500))
    (piece,) = reader_of("warc").divide(str(path), len(content) // 2 + 500, 10**9)
    *documents, fault = reader_of("warc").read(piece, 1_000_000)
    assert len(documents) > 10 and isinstance(fault, Fault) and fault.reason in ("damaged_file", "too_large")


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (
            b"",
            "a dictionary that the file does not begin with; decompress the file with `zstd -D DICTIONARY`",
        ),
        (dictionary_frame(b"no dictionary"), "its first frame should be a dictionary, and is not"),
        (dictionary_frame(zstandard.compress(b"no dictionary")), "its first frame should be a dictionary, and is"),
        (dictionary_frame(zstandard.compress(b"x" * 50)[:-2]), "its dictionary cannot be decompressed"),
        (dictionary_frame(zstandard.compress(bytes(1 << 24))), "its zstd dictionary has 16,777,216 bytes; at most"),
    ],
)
def test_an_archive_without_its_dictionary_is_refused(tmp_path: Path, head: bytes, told: str) -> None:
    path = tmp_path / "a.warc.zst"
    write_archive(path, kind="dictionary")
    path.write_bytes(head + path.read_bytes()[8 + len(dictionary().as_bytes()) :])
    (piece,) = reader_of("warc").divide(str(path), path.stat().st_size, 10**9)
    (fault,) = reader_of("warc").read(piece, 1_000_000)
    assert isinstance(fault, Fault) and fault.reason == "damaged_file" and told in fault.detail


def test_a_file_that_is_no_archive_is_one_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(b"no archive at all\n" * 10)
    (piece,) = reader_of("warc").divide(str(path), 180, 100)
    (fault,) = reader_of("warc").read(piece, 1_000_000)
    assert isinstance(fault, Fault) and fault.reason == "damaged_file"


@pytest.mark.parametrize(
    ("content_type", "reason", "detail"),
    [
        ("text/plain", "invalid_utf8", "not UTF-8, and it declares no other"),
        (
            "text/plain; charset=shift_jis",
            "undecodable",
            "neither shift_jis, which it declares, nor UTF-8",
        ),
    ],
)
def test_plain_text_in_no_declared_encoding_is_set_aside(
    tmp_path: Path, content_type: str, reason: str, detail: str
) -> None:
    path = tmp_path / "a.warc"
    with path.open("wb") as file:
        content = io.BytesIO(b"\xff\xfe\xfd" * 20)
        writer = WARCWriter(file, gzip=False)
        headers = StatusAndHeaders("200 OK", [("Content-Type", content_type)], protocol="HTTP/1.1")
        writer.write_record(writer.create_warc_record("http://example.org", "response", content, http_headers=headers))
    size = path.stat().st_size
    (fault,) = reader_of("warc").read(FileRange(str(path), 0, size, size), 1000)
    assert isinstance(fault, Fault) and (fault.reason, fault.detail) == (reason, f"its bytes are {detail}")
