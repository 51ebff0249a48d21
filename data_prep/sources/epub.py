"""Books as EPUB: the chapters in reading order; title, authors and language are metadata.

The order is that of the package's spine. Tables of contents, pronunciations above characters (ruby), and parts that the
package takes out of the reading order are left out. An encrypted book is set aside.

Source: W3C, EPUB 3.3, sections 4.2 (container), 5.6 (manifest) and 5.7 (spine); IDPF, Open Packaging Format 2.0.1.
"""

from __future__ import annotations

import os
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from urllib.parse import unquote
from xml.etree import ElementTree

from data_prep.sources.gutenberg import book_of
from data_prep.sources.ranges import FileRange
from data_prep.sources.reading import Document, Fault, Reader, SetAsideError, usable
from data_prep.sources.storage import open_input
from data_prep.sources.web_encodings import decode_page

_CONTAINER, _ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
_PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")
_OBFUSCATED_FONTS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")
"""Algorithms that protect fonts only."""
_LARGEST_GROWTH = 20
"""Largest ratio of the pages' markup to `maximum_document_bytes`; beyond it a book is not unpacked."""
_RUBY = re.compile(r"<r(?:t|p)\b[^<>]*>[^<>]*</r(?:t|p)\s*>", re.IGNORECASE)
_NAVIGATION = re.compile(r"<nav\b[^<>]*\b(?:epub:)?type\s*=\s*[\"'](?:toc|landmarks|page-list)", re.IGNORECASE)
_SPACES_AT_LINE_ENDS = re.compile(r"(?<![ \t])[ \t]+$", re.MULTILINE)
_EMPTY_LINES = re.compile(r"\n{3,}")


def _accepts(path: str) -> bool:
    return path.lower().endswith(".epub")


def read(piece: FileRange, maximum_document_bytes: int) -> Iterator[Document | Fault]:
    """Yield the book."""
    path = piece.path

    def fault(reason: str, detail: str) -> Fault:
        return Fault(reason, detail, path)

    try:
        with open_input(path) as file, zipfile.ZipFile(file) as book:
            text, metadata = _book(book, maximum_document_bytes)
    except SetAsideError as error:
        yield fault(error.reason, str(error))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        yield fault("damaged_file", f"damaged EPUB: {error}")
    else:
        yield usable(text, path, {"file": os.path.basename(path), **metadata}, fault, maximum_document_bytes)


def _book(book: zipfile.ZipFile, maximum_bytes: int) -> tuple[str, dict[str, object]]:
    """Return the text and the metadata of a book.

    Raises:
        SetAsideError: it is encrypted, has no chapters, or is too large.
    """
    _refuse_encryption(book)
    root = _xml(book, _CONTAINER).find(".//{*}rootfile")
    package_path = root.get("full-path", "") if root is not None else ""
    package = _xml(book, package_path)
    folder = posixpath.dirname(package_path)
    items = {item.get("id"): item for item in package.iterfind("{*}manifest/{*}item")}
    parts: list[str] = []
    left = _LARGEST_GROWTH * maximum_bytes
    for reference in package.iterfind("{*}spine/{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is None or reference.get("linear") == "no" or item.get("media-type") not in _PAGES:
            continue
        if "nav" in (item.get("properties") or "").split():
            continue
        name = posixpath.normpath(posixpath.join(folder, unquote(item.get("href", ""))))
        try:
            left -= book.getinfo(name).file_size
        except KeyError:
            raise SetAsideError("damaged_file", f"the chapter {name} is missing") from None
        if left < 0:
            raise SetAsideError("too_large", f"more than {_LARGEST_GROWTH} × maximum_document_bytes of markup")
        parts.append(_text_of(book.read(name), name))
    if not parts:
        raise SetAsideError("no_chapters", "its spine names no chapter")
    text = "\n\n".join(part for part in parts if part)
    return book_of(text) or text, _metadata(package)


def _refuse_encryption(book: zipfile.ZipFile) -> None:
    if _ENCRYPTION not in book.namelist():
        return
    methods = {method.get("Algorithm") for method in _xml(book, _ENCRYPTION).iterfind(".//{*}EncryptionMethod")}
    if methods - set(_OBFUSCATED_FONTS):
        raise SetAsideError("encrypted", "its chapters are encrypted")


def _xml(book: zipfile.ZipFile, name: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(book.read(name))
    except KeyError:
        raise SetAsideError("damaged_file", f"no {name or 'package'} in the EPUB") from None
    except ElementTree.ParseError as error:
        raise SetAsideError("damaged_file", f"{name} is no XML: {error}") from None


def _text_of(content: bytes, name: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    page = decode_page(content, None)
    if page is None:
        raise SetAsideError("undecodable", f"{name} is not text in the encoding that it declares")
    page = _RUBY.sub("", _without_navigation(page)).replace("\r\n", "\n")
    text: str = extract_plain_text(page, preserve_formatting=True, main_content=False, alt_texts=False)
    text = _SPACES_AT_LINE_ENDS.sub("", text.replace("\u00ad", ""))  # without places for hyphens
    return _EMPTY_LINES.sub("\n\n", text).strip("\n")


def _without_navigation(page: str) -> str:
    """Return a page without tables of contents and lists of pages."""
    pieces, done = [], 0
    while (start := _NAVIGATION.search(page, done)) is not None:
        end = page.find("</nav", start.end())
        if end < 0:
            break
        pieces.append(page[done : start.start()])
        done = end
    return "".join([*pieces, page[done:]])


def _metadata(package: ElementTree.Element) -> dict[str, object]:
    """Return title, authors, language and identifier (Dublin Core)."""
    dublin_core = "{http://purl.org/dc/elements/1.1/}"

    def values(name: str) -> list[str]:
        return [" ".join(found.text.split()) for found in package.iter(dublin_core + name) if found.text]

    facts: dict[str, object] = {name: next(iter(values(name)), None) for name in ("title", "language", "identifier")}
    facts["authors"] = values("creator") or None
    return {name: value for name, value in facts.items() if value}


READER = Reader(_accepts, read)
