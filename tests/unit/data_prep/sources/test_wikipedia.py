"""Dumps of MediaWiki: every article is read once however a dump is packed and divided; bad pages are set aside."""

from __future__ import annotations

import bz2
import gzip
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
import zstandard

from data_prep.sources import Document, Fault, FileRange, reader_of
from tests.unit.data_prep.sources.test_wikitext import ARTICLES, LOCAL


def head(language: str = "en", base: str = "Main_Page") -> str:
    file, category = LOCAL.get(language, "File Category").split()
    return (
        f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="{language}">\n'
        f"  <siteinfo>\n    <sitename>W</sitename>\n    <dbname>{language}wiki</dbname>\n"
        f"    <base>https://{language}.wikipedia.org/wiki/{base}</base>\n    <namespaces>\n"
        '      <namespace key="0" case="first-letter" />\n'
        f'      <namespace key="6" case="first-letter">{file}</namespace>\n'
        f'      <namespace key="14" case="first-letter">{category}</namespace>\n    </namespaces>\n  </siteinfo>\n'
    )


def page(title: str, text: str, number: int = 1, ns: int = 0, extra: str = "", model: str = "wikitext") -> str:
    return (
        f"  <page>\n    <title>{escape(title)}</title>\n    <ns>{ns}</ns>\n    <id>{number}</id>\n{extra}"
        f"    <revision>\n      <id>{number + 1000}</id>\n      <timestamp>2024-01-02T03:04:05Z</timestamp>\n"
        f"      <model>{model}</model>\n      <format>text/x-wiki</format>\n"
        f'      <text bytes="1" xml:space="preserve">{escape(text)}</text>\n    </revision>\n  </page>\n'
    )


END = "</mediawiki>\n"


def read(
    path: Path, shard_bytes: int = 10**9, maximum_bytes: int = 10**6
) -> tuple[list[Document | Fault], Counter[str]]:
    size, passed_over = path.stat().st_size, Counter[str]()
    reader, found = reader_of("wikipedia"), []

    def one(piece: FileRange) -> Generator[Document | Fault, None, None]:
        passed_over.update((yield from reader.read(piece, maximum_bytes)))  # type: ignore[func-returns-value]

    assert reader.accepts(str(path))
    for piece in reader.divide(str(path), size, shard_bytes):
        found += one(piece)
    return found, passed_over


def titles(found: list[Document | Fault]) -> list[Any]:
    return [item.metadata["title"] if isinstance(item, Document) else item.reason for item in found]


@pytest.mark.parametrize("language", ARTICLES)
def test_namespaces_are_those_of_the_dump(tmp_path: Path, language: str) -> None:
    wikitext, text = ARTICLES[language]
    path = tmp_path / f"{language}wiki-pages-articles.xml"
    path.write_text(head(language) + page("Titel d'É", wikitext) + END, encoding="utf-8")
    (document,), _ = read(path)
    assert isinstance(document, Document)
    assert document.text == f"Titel d'É\n\n{text}"
    assert document.url == f"https://{language}.wikipedia.org/wiki/Titel_d%27%C3%89"
    assert document.metadata == {
        "title": "Titel d'É", "page_id": 1, "revision_id": 1001, "date": "2024-01-02T03:04:05Z",
        "wiki": f"{language}wiki", "language": language,
    }  # fmt: skip


def test_what_is_not_an_article_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(
        head()
        + page("A", "Text of '''A'''.")
        + page("B", "#REDIRECT [[A]]", extra='    <redirect title="A" />\n')
        + page("Talk:A", "Text", ns=1)
        + page("Template:A", "Text", ns=10)
        + page("Module.css", "a {}", model="css")
        + page("Mercury", "'''Mercury''' may be:\n* [[A]]\n{{Disambiguation|geo}}")
        + page("Venus (disambiguation)", "'''Venus''' may be:\n* [[A]]")
        + page("List of A", "Text of the list.")
        + page("Letters", "Letters:\n" + "* [[A]], a letter of the alphabet\n" * 20)
        + page("Only a box", "{{Infobox|a=b}}\n[[Category:A]]")
        + END
    )
    found, passed_over = read(path)
    assert titles(found) == ["A", "empty"]
    assert passed_over == {
        "redirects": 1, "pages of other namespaces": 2, "pages that are not wikitext": 1, "disambiguation pages": 2,
        "lists": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("language", "title", "text"),
    [
        ("de", "Merkur", "Merkur:\n{{Begriffsklärung}}"), ("fr", "Mercure", "Mercure\n{{Homonymie}}"),
        ("es", "Mercurio", "M\n{{desambiguación}}"), ("ru", "Меркурий", "М\n{{неоднозначность}}"),
        ("ja", "水星", "水\n{{Aimai}}"), ("zh", "水星", "水\n{{消歧义}}"), ("ar", "عطارد", "ع\n{{توضيح}}"),
        ("nl", "Mercurius", "M\n{{dp}}"), ("pl", "Merkury", "M\n{{Ujednoznacznienie}}"),
    ],
)  # fmt: skip
def test_disambiguation_pages_of_a_language(tmp_path: Path, language: str, title: str, text: str) -> None:
    (path := tmp_path / "a.xml").write_text(head(language) + page(title, text) + END, encoding="utf-8")
    assert read(path) == ([], {"disambiguation pages": 1})


@pytest.mark.parametrize(
    ("language", "title", "is_list"),
    [
        ("de", "Liste der Türme", True), ("de", "Listenhund", False), ("en", "Listening", False),
        ("hu", "Tornyok listája", True), ("ja", "灯台の一覧", True), ("zh", "灯塔列表", True),
        ("ru", "Список маяков", True),
        ("eo", "List of towers", False), ("pt", "Anexo:Lista de faróis", True), ("sv", "Lista över fyrar", True),
    ],
)  # fmt: skip
def test_titles_of_lists(tmp_path: Path, language: str, title: str, is_list: bool) -> None:
    (path := tmp_path / "a.xml").write_text(head(language) + page(title, "Text.") + END, encoding="utf-8")
    assert read(path)[1] == ({"lists": 1} if is_list else {})


def dump(count: int) -> tuple[list[str], list[str]]:
    """Pages of very different lengths, and their titles."""
    pages = [page(f"P{n}", f"Text <ref>&amp;</ref> of {n}. " * (n * 37 % 101 + 1), n) for n in range(count)]
    return pages, [f"P{n}" for n in range(count)]


@pytest.mark.parametrize("shard_bytes", [300, 1000, 5000, 10**9])
@pytest.mark.parametrize("packed", ["plain", "multistream", "one stream", "cut anywhere", "gzip", "zstd"])
def test_however_a_dump_is_divided_each_page_is_read_once(tmp_path: Path, packed: str, shard_bytes: int) -> None:
    pages, expected = dump(60)
    whole = (head() + "".join(pages) + END).encode()
    streams = [head(), *("".join(pages[n : n + 10]) for n in range(0, 60, 10)), END]
    suffix, content = {
        "plain": ("", whole),
        "multistream": (".bz2", b"".join(bz2.compress(stream.encode()) for stream in streams)),
        "one stream": (".bz2", bz2.compress(whole)),
        "cut anywhere": (".bz2", b"".join(bz2.compress(whole[n : n + 7001]) for n in range(0, len(whole), 7001))),
        "gzip": (".gz", gzip.compress(whole)),
        "zstd": (".zst", zstandard.compress(whole)),
    }[packed]
    path = tmp_path / f"enwiki-pages-articles1.xml-p1p60{suffix}"
    path.write_bytes(content)
    pieces = reader_of("wikipedia").divide(str(path), len(content), shard_bytes)
    assert len(pieces) > 3 or shard_bytes > 1000 or packed in ("gzip", "zstd", "one stream")
    found, _ = read(path, shard_bytes)
    assert titles(found) == expected
    shuffled = [item for piece in reversed(pieces) for item in [*reader_of("wikipedia").read(piece, 10**6)][::-1]]
    assert titles(shuffled[::-1]) == expected


def test_a_range_may_end_anywhere(tmp_path: Path) -> None:
    expected = ["P0", "P1", "P2"]
    pages = [page(title, "Text.") for title in expected]
    content = (head() + "".join(pages) + END).encode()
    (path := tmp_path / "a.xml").write_bytes(content)
    size, reader = len(content), reader_of("wikipedia")
    for cut in range(1, size):
        ranges = FileRange(str(path), 0, cut, size), FileRange(str(path), cut, size, size)
        assert titles([item for piece in ranges for item in reader.read(piece, 10**6)]) == expected


def test_bad_pages_are_set_aside(tmp_path: Path) -> None:
    good = page("Good", "Text.")
    path = tmp_path / "a.xml"
    path.write_bytes(
        (
            head()
            + page("Large", "x" * 3000)
            + good
            + page("Half", "Text.").replace("</revision>", "")
            + page("", "Text.")
            + "  <page>\n    <title>No revision</title>\n    <ns>0</ns>\n  </page>\n"
        ).encode()
        + page("Latin", "caf\u00e9").encode("latin-1")
        + (good + END).encode()
    )
    found, _ = read(path, maximum_bytes=2000)
    assert titles(found) == ["too_large", "Good", "invalid_xml", "invalid_xml", "invalid_xml", "invalid_xml", "Good"]
    fault = found[0]
    assert isinstance(fault, Fault) and fault.path == f"{path} page 1" and "a page of 3,7" in fault.detail


def test_a_dump_that_ends_too_early_gives_the_pages_before(tmp_path: Path) -> None:
    pages, _ = dump(9)
    content = (head() + "".join(pages)).encode()
    (path := tmp_path / "a.xml").write_bytes(content[:-200])
    found, _ = read(path)
    assert titles(found) == [*(f"P{n}" for n in range(8)), "invalid_xml"]
    path.write_bytes(content)
    assert titles(read(path)[0]) == [f"P{n}" for n in range(9)] + ["damaged_file"]


def test_a_damaged_stream_costs_its_range(tmp_path: Path) -> None:
    pages, _ = dump(60)
    streams = [bz2.compress("".join(pages[n : n + 10]).encode()) for n in range(0, 60, 10)]
    streams[2] = streams[2][:100] + bytes(40) + streams[2][140:]
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(bz2.compress(head().encode()) + b"".join(streams) + bz2.compress(END.encode()))
    found, _ = read(path, shard_bytes=min(map(len, streams)) // 2)
    assert titles(found).count("damaged_file") == 1
    lost = {f"P{n}" for n in range(60)} - set(titles(found))
    assert {f"P{n}" for n in range(20, 30)} <= lost <= {f"P{n}" for n in range(20, 31)}
    path.write_bytes(path.read_bytes()[:-10])
    fault = read(path)[0][-1]
    assert isinstance(fault, Fault) and "damaged bzip2 file" in fault.detail


def test_a_file_that_is_no_dump_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "a.xml").write_text("<rss>…</rss>", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.xml: not a dump of MediaWiki: it does not begin with <mediawiki"):
        read(path)
    path.write_bytes(b"")
    assert titles(read(path)[0]) == ["damaged_file"]


@pytest.mark.parametrize(
    ("name", "is_accepted"),
    [
        ("enwiki-latest-pages-articles.xml.bz2", True), ("a.xml", True), ("x.xml-p1p297012.bz2", True),
        ("enwiki-latest-pages-articles-multistream-index.txt.bz2", False), ("a.xml.7z", False), ("Posts.xml.gz", True),
    ],
)  # fmt: skip
def test_names_of_dumps(name: str, is_accepted: bool) -> None:
    assert reader_of("wikipedia").accepts(name) == is_accepted


def test_the_last_revision_of_a_history_counts(tmp_path: Path) -> None:
    one, other = page("A", "old text"), page("A", "new text")
    start = other.index("    <revision>")
    both = one.replace("  </page>\n", other[start:])
    (path := tmp_path / "a.xml").write_text(head() + both + END)
    (document,), _ = read(path)
    assert isinstance(document, Document) and document.text == "A\n\nnew text"
