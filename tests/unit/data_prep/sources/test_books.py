"""Books: what Project Gutenberg puts around them in all its forms, encodings, and EPUBs in reading order."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from data_prep.sources import Document, Fault, FileRange, reader_of
from data_prep.sources.gutenberg import book_of


def read(path: Path, kind: str, maximum_bytes: int = 100_000) -> Document | Fault:
    size, reader = path.stat().st_size, reader_of(kind)
    assert reader.accepts(str(path))
    (found,) = reader.read(FileRange(str(path), 0, size, size), maximum_bytes)
    return found


BOOK = "THE TOWER\n\nby Ann Doe\n\nCHAPTER I.\n\nIt stood there.\n\nTHE END"
NEW = (
    "The Project Gutenberg eBook of The Tower\n\nThis ebook is for the use of anyone anywhere …\n\n"
    "Title: The Tower\n\nAuthor: Ann Doe\n\nRelease date: May 3, 2020 [eBook #12345]\n\nLanguage: English\n\n"
    "Credits: Bob\n\n*** START OF THE PROJECT GUTENBERG EBOOK THE TOWER ***\n\n{}\n\n"
    "*** END OF THE PROJECT GUTENBERG EBOOK THE TOWER ***\n\nUpdated editions will replace …\n"
)
OLD = (
    "The Project Gutenberg EBook of The Tower, by Ann Doe\n\nTitle: The Tower\nAuthor: Ann Doe\n"
    "Release Date: March, 2004 [EBook #5123]\nLanguage: English\nCharacter set encoding: {}\n\n"
    "*** START OF THIS PROJECT GUTENBERG EBOOK THE TOWER, AND\nOTHER TALES ***\n\n"
    "Produced by Bob and the\nOnline Team\n\nE-text prepared by Eve\n\n\n{}\n\n\n"
    "End of the Project Gutenberg EBook of The Tower, by Ann Doe\n\n"
    "*** END OF THIS PROJECT GUTENBERG EBOOK THE TOWER ***\n"
)
OLDEST = (
    "**The Project Gutenberg Etext of The Tower, by Ann Doe**\n\nJanuary, 1994  [Etext #99]\n\n"
    '*** START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\nWhy is this "Small Print!" statement here? …\n'
    "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n{}\n\n"
    "End of Project Gutenberg's The Tower, by Ann Doe\n"
)


@pytest.mark.parametrize("text", [NEW.format(BOOK), OLD.format("UTF-8", BOOK), OLDEST.format(BOOK)])
def test_header_and_footer_of_every_age(text: str) -> None:
    assert book_of(text) == BOOK


@pytest.mark.parametrize(
    "text", [BOOK, NEW.format(BOOK).partition("*** END")[0], BOOK + NEW.format("").partition("EBOOK THE TOWER ***")[2]]
)
def test_a_text_without_header_or_footer_is_set_aside(tmp_path: Path, text: str) -> None:
    (path := tmp_path / "a.txt").write_text(text, encoding="utf-8")
    fault = read(path, "gutenberg")
    assert isinstance(fault, Fault) and fault.reason == "no_header"


def test_what_a_header_says(tmp_path: Path) -> None:
    (path := tmp_path / "pg12345.txt.gz").write_bytes(
        gzip.compress(("\ufeff" + NEW.format(BOOK)).replace("\n", "\r\n").encode())
    )
    document = read(path, "gutenberg")
    assert isinstance(document, Document) and document.text == BOOK
    assert document.url == "https://www.gutenberg.org/ebooks/12345"
    assert document.metadata == {
        "file": "pg12345.txt.gz", "title": "The Tower", "author": "Ann Doe",
        "release_date": "May 3, 2020 [eBook #12345]", "language": "English", "ebook": 12345,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("UTF-8", "utf-8"), ("ISO-8859-1", "latin-1"), ("ISO-8859-1", "utf-8"), ("UTF-8", "cp1252"),
        ("ASCII", "cp1252"),
        ("ISO-8859-2", "iso8859-2"), ("Windows Code Page 1251", "cp1251"), ("Unknown to all", "cp1252"),
        ("KOI8-R", "koi8-r"),
        ("ISO Latin-1", "latin-1"), ("Big5", "big5"),
    ],
)  # fmt: skip
def test_encodings(tmp_path: Path, declared: str, encoding: str) -> None:
    words = {"iso8859-2": "Zażółć", "cp1251": "Башня", "koi8-r": "Башня", "big5": "燈塔立於海岸之上"}.get(
        encoding, "Über café"
    )
    book = BOOK.replace("there", words)
    (path := tmp_path / "a-8.txt").write_bytes(OLD.format(declared, book).encode(encoding))
    document = read(path, "gutenberg")
    assert isinstance(document, Document) and document.text == book


def test_bad_books_are_set_aside(tmp_path: Path) -> None:
    contents = {
        "binary": NEW.format("a\0b").encode(),
        "undecodable": OLD.format("Big5", "\xff\xff" * 500).encode("latin-1"),
        "too_large": b"x" * 200_000,
        "no_header": b"",
        "empty": NEW.format(" ").encode(),
    }
    for reason, content in contents.items():
        (path := tmp_path / "a.txt").write_bytes(content)
        fault = read(path, "gutenberg")
        assert isinstance(fault, Fault) and fault.reason == reason


# ---------------------------------------------------------------------------------------------------------------------

CONTAINER = (
    '<?xml version="1.0"?><container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)
PACKAGE = (
    '<?xml version="1.0"?><package version="3.0" xmlns="http://www.idpf.org/2007/opf" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><dc:title>The  Tower</dc:title>'
    "<dc:creator>Ann Doe</dc:creator><dc:creator>Bob</dc:creator><dc:language>ja</dc:language>"
    "<dc:identifier>urn:isbn:1</dc:identifier>"
    '</metadata><manifest><item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
    '<item id="toc" href="toc.html" media-type="application/xhtml+xml"/>'
    '<item id="two" href="text/two.xhtml" media-type="application/xhtml+xml"/>'
    '<item id="one" href="text/chapter%20one.xhtml" media-type="application/xhtml+xml"/>'
    '<item id="notes" href="text/notes.xhtml" media-type="application/xhtml+xml"/>'
    '<item id="cover" href="cover.jpg" media-type="image/jpeg"/></manifest><spine><itemref idref="cover"/>'
    '<itemref idref="nav"/><itemref idref="toc"/><itemref idref="one"/><itemref idref="two"/>'
    '<itemref idref="notes" linear="no"/></spine></package>'
)


def page(body: str) -> str:
    head = '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>T</title></head>'
    return f"{head}<body>{body}</body></html>"


FILES = {
    "META-INF/container.xml": CONTAINER,
    "OEBPS/book.opf": PACKAGE,
    "OEBPS/nav.xhtml": page("<nav>Contents</nav>"),
    "OEBPS/toc.html": page('<nav epub:type="toc">Contents again</nav>'),
    "OEBPS/text/two.xhtml": page('<nav epub:type="page-list">9</nav><h1>Two</h1><p>The <b>end</b> of it.</p>'),
    "OEBPS/text/chapter one.xhtml": page(
        "<h1>One</h1><p>It stood <ruby>灯<rp>(</rp><rt>とう</rt><rp>)</rp></ruby> the&#173;re.</p>"
        "<p>Café &amp; tea.</p>"
    ),
    "OEBPS/text/notes.xhtml": page("<p>A note.</p>"),
}


def write(path: Path, files: Mapping[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for name, content in files.items():
            book.writestr(name, content)
    return path


def test_chapters_in_reading_order(tmp_path: Path) -> None:
    document = read(write(tmp_path / "a.epub", FILES), "epub")
    assert isinstance(document, Document)
    assert document.text == "One\n\nIt stood 灯 there.\n\nCafé & tea.\n\nTwo\n\nThe end of it."
    assert document.metadata == {
        "file": "a.epub", "title": "The Tower", "authors": ["Ann Doe", "Bob"], "language": "ja",
        "identifier": "urn:isbn:1",
    }  # fmt: skip


def test_gutenbergs_license_is_cut_from_its_epubs(tmp_path: Path) -> None:
    start, end = NEW.split("{}")
    files = FILES | {
        "OEBPS/text/chapter one.xhtml": page(f"<p>{start.strip().splitlines()[-1]}</p><p>Chapter</p>"),
        "OEBPS/text/two.xhtml": page(f"<p>{end.strip().splitlines()[0]}</p><p>License</p>"),
    }
    document = read(write(tmp_path / "a.epub", files), "epub")
    assert isinstance(document, Document) and document.text == "Chapter"


ENCRYPTED = (
    '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
    '<EncryptedData xmlns="http://www.w3.org/2001/04/xmlenc#">'
    '<EncryptionMethod Algorithm="{}"/></EncryptedData></encryption>'
)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"META-INF/encryption.xml": ENCRYPTED.format("http://www.w3.org/2001/04/xmlenc#aes128-cbc")}, "encrypted"),
        ({"META-INF/encryption.xml": ENCRYPTED.format("http://www.idpf.org/2008/embedding")}, None),
        ({"META-INF/container.xml": "<container/>"}, "damaged_file"),
        ({"META-INF/container.xml": None}, "damaged_file"),
        ({"OEBPS/book.opf": "<package>"}, "damaged_file"),
        ({"OEBPS/book.opf": "<package/>"}, "no_chapters"),
        ({"OEBPS/text/two.xhtml": None}, "damaged_file"),
        ({"OEBPS/text/two.xhtml": page("<p>" + "x" * 200_000 + "</p>")}, "too_large"),
        ({"OEBPS/text/two.xhtml": page("<p></p>" * 400_000)}, "too_large"),
        ({"OEBPS/text/two.xhtml": page(""), "OEBPS/text/chapter one.xhtml": page("")}, "empty"),
    ],
)
def test_bad_epubs_are_set_aside(tmp_path: Path, changes: dict[str, str | None], reason: str | None) -> None:
    files = {name: content for name, content in (FILES | changes).items() if content is not None}
    found = read(write(tmp_path / "a.epub", files), "epub")
    assert (found.reason if isinstance(found, Fault) else None) == reason


def test_damage_of_an_epub(tmp_path: Path) -> None:
    path = write(tmp_path / "a.epub", FILES)
    whole = path.read_bytes()
    place = whole.index(b"chapter one.xhtml") + 40
    for content in (whole[:-100], whole[:place] + bytes(30) + whole[place + 30 :], b""):
        path.write_bytes(content)
        fault = read(path, "epub")
        assert isinstance(fault, Fault) and fault.reason == "damaged_file"
