"""Dumps of Wikipedia and other MediaWikis (`…-pages-articles.xml`, also `.bz2`, `.gz`, `.zst`): an article is a
document, its title first.

What is removed of the wikitext, and what stays, is in `wikitext`. Redirects, pages of other namespaces, disambiguation
pages and lists are not documents: they are counted. A list is a page with such a title, or whose text is mostly items
of lists. Of several revisions of a page, as in a dump of histories, the last one in the file counts.

Multistream dumps, and all others of several bzip2 streams, are divided at streams.

Source of the format: MediaWiki, export schema 0.11 (mediawiki.org/xml/export-0.11.xsd).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote
from xml.etree import ElementTree

from data_prep.sources.compression import ByteStream, DamagedFileError, without_compression
from data_prep.sources.lines import Line, read_lines
from data_prep.sources.packed_ranges import divide_lines
from data_prep.sources.ranges import FileRange
from data_prep.sources.reading import Document, Fault, Reader, excerpt_of, usable
from data_prep.sources.wikipedia_names import (
    CATEGORY_ALIASES,
    FILE_ALIASES,
    LANGUAGES,
    VARIANTS,
    disambiguation_templates,
    is_list_title,
)
from data_prep.sources.wikitext import Article, Names, render

_NAME = re.compile(r"\.xml(?:-p\d+p\d+)?$", re.IGNORECASE)
PAGE, END_OF_PAGE, _END = b"<page>", b"</page>", b"</mediawiki>"
_HEAD_BYTES = 1 << 20
"""Largest start of a file in which its description ends; that of Wikipedia has 4 kB."""
_LIST_SHARE = 0.9
"""Share of characters in items of lists above which a page is a list. Of the 106 articles of gensim's sample of the
English Wikipedia, it holds for disambiguation pages and one list by its title, and for no article with prose."""
_FILES, _CATEGORIES = "6", "14"
"""Numbers of namespaces."""
_UNQUOTED = ";@$!*(),/~:"
"""Characters that MediaWiki leaves in URLs (`wfUrlencode`)."""


@dataclass(frozen=True)
class _Site:
    """Description of a wiki at the start of its dump."""

    language: str
    name: str
    address: str
    """URL of an article without its title; empty: unknown."""
    names: Names


class PassedOverError(Exception):
    """A page is not a document, such as a redirect."""


def _accepts(path: str) -> bool:
    return bool(_NAME.search(without_compression(path)))


def read(piece: FileRange, maximum_document_bytes: int) -> Generator[Document | Fault, None, Counter[str]]:
    """Yield the articles of a range.

    Returns:
        The number of other pages by what they are.

    Raises:
        ValueError: the file is not a dump.
    """
    passed_over: Counter[str] = Counter()
    done = 0
    try:
        site = _site_of(piece.path)
        for record in read_lines(piece, maximum_document_bytes, END_OF_PAGE):
            start = record.content.find(PAGE) if record.content is not None else 0
            if record.is_cut:
                continue  # reported as damage of the file
            if start < 0:
                if record.content and _END not in record.content:
                    yield Fault("damaged_file", f"the dump ends without {_END.decode()}", _place(piece, record))
                continue
            try:
                yield _document(record, start, piece, site, maximum_document_bytes)
            except PassedOverError as error:
                passed_over[str(error)] += 1
            done += 1
    except DamagedFileError as error:
        yield Fault("damaged_file", f"{error}; the {done:,} pages before it are read", piece.path)
    return passed_over


def _place(piece: FileRange, record: Line) -> str:
    start = f" from byte {piece.start:,}" if piece.start else ""
    return f"{piece.path}{start} page {record.number}"


def _document(record: Line, start: int, piece: FileRange, site: _Site, maximum_bytes: int) -> Document | Fault:
    title = ""

    def fault(reason: str, detail: str) -> Fault:
        place = f"{_place(piece, record)} ({title})" if title else _place(piece, record)
        return Fault(reason, detail, place, excerpt=excerpt_of(record.head))

    if record.content is None:
        return fault("too_large", f"a page of {record.size:,} bytes, maximum_document_bytes is {maximum_bytes:,}")
    try:
        page = ElementTree.fromstring(record.content[start:] + END_OF_PAGE)
    except ElementTree.ParseError as error:
        return fault("invalid_xml", f"a page that is no XML, or is cut: {error}")
    title = (page.findtext("title") or "").strip()
    revision = last_revision(page)
    if not title or revision is None:
        return fault("invalid_xml", f"a page without a {'revision' if title else 'title'}")
    article = render(revision.findtext("text") or "", site.names)
    if kind := _kind(title, article, site.language):
        raise PassedOverError(kind)
    if not article.text.strip():
        return fault("empty", "no text outside of templates, tables and links to files")
    metadata = {
        "title": title,
        "page_id": _number(page.findtext("id")),
        "revision_id": _number(revision.findtext("id")),
        "date": revision.findtext("timestamp"),
        "wiki": site.name,
        "language": site.language,
    }
    url = f"{site.address}{quote(title.replace(' ', '_'), safe=_UNQUOTED)}" if site.address else _place(piece, record)
    return usable(f"{title}\n\n{article.text}", url, metadata, fault, maximum_bytes)


def last_revision(page: ElementTree.Element) -> ElementTree.Element | None:
    """Return the last revision of an article; None: it has none.

    Raises:
        PassedOverError: the page is a redirect, in another namespace, or not wikitext.
    """
    if page.find("redirect") is not None:
        raise PassedOverError("redirects")
    if (page.findtext("ns") or "0").strip() != "0":
        raise PassedOverError("pages of other namespaces")
    revisions = page.findall("revision")
    if revisions and (revisions[-1].findtext("model") or "wikitext").strip() != "wikitext":
        raise PassedOverError("pages that are not wikitext")
    return revisions[-1] if revisions else None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdigit() else None


def _kind(title: str, article: Article, language: str) -> str | None:
    """Return what a page is if it is not an article."""
    if article.templates & disambiguation_templates(language) or title.endswith("(disambiguation)"):
        return "disambiguation pages"
    if is_list_title(title, language) or article.list_share > _LIST_SHARE:
        return "lists"
    return None


# ---------------------------------------------------------------------------------------------------------------------
# the description at the start of a dump


@lru_cache(maxsize=64)
def _site_of(path: str) -> _Site:
    """Read the description of a wiki.

    Raises:
        ValueError: the file is not a dump.
        DamagedFileError: its start is damaged.
    """
    head = b""
    with ByteStream(path) as stream:
        while b"</siteinfo>" not in head and len(head) < _HEAD_BYTES and (block := stream.read(1 << 14)):
            head += block
    if not head:
        raise DamagedFileError("the file is empty")
    root = re.search(rb"<mediawiki\b[^>]*>", head[: 1 << 14])
    if root is None:
        raise ValueError(f"{path}: not a dump of MediaWiki: it does not begin with <mediawiki …>")
    language = re.search(rb'xml:lang="([\w-]+)"', root[0])
    info = re.search(rb"<siteinfo>.*?</siteinfo>", head, re.DOTALL)
    try:
        site = ElementTree.fromstring(info[0] if info else b"<siteinfo/>")
    except ElementTree.ParseError as error:
        raise DamagedFileError(f"its <siteinfo> is no XML: {error}") from None
    code = language[1].decode() if language else ""
    return _Site(
        code, site.findtext("dbname") or "", re.sub(r"[^/]*$", "", site.findtext("base") or ""), _names(site, code)
    )


def _names(site: ElementTree.Element, language: str) -> Names:
    hidden = {"file", "image", "category"}
    for aliases in (FILE_ALIASES, CATEGORY_ALIASES):
        hidden.update(name.lower() for name in aliases.get(language, "").split())
    for namespace in site.iter("namespace"):
        if namespace.get("key") in (_FILES, _CATEGORIES) and namespace.text:
            hidden.add(namespace.text.replace("_", " ").strip().lower())
    return Names(frozenset(hidden), LANGUAGES, VARIANTS.get(language, ()))


READER = Reader(_accepts, read, divide_lines)
