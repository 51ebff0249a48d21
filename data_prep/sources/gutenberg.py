"""Books of Project Gutenberg (`.txt`, also `.gz`, `.zst`, `.bz2`): the text between the licence's header and footer.

Since 1991 the wording around a book has changed several times; all forms are known that its files have. A file without
a header or a footer is set aside, since its licence would be part of the text. The encoding is UTF-8, or else the one
that the header declares, or else Windows-1252, in which files without a declaration were made.

Source: Project Gutenberg's files of 1991 to 2024; the wording of `_STARTS` and `_ENDS`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from data_prep.sources.compression import without_compression
from data_prep.sources.ranges import FileRange
from data_prep.sources.reading import Document, Fault, Reader, excerpt_of, read_whole, usable
from data_prep.sources.web_encodings import LARGEST_REPLACED_SHARE, decode_as

_STARTS = (
    re.compile(r"^\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG[^\n]*(?:\n[^\n]+){0,3}?\*\*\*[ \t]*$", re.M | re.I),
    re.compile(r"^\*END[* ]*THE SMALL PRINT[^\n]*\*END\*?[ \t]*$", re.M | re.I),
    re.compile(r"^\*+ ?START:? (?:FULL )?(?:OF )?(?:THE |THIS )?PROJECT GUTENBERG[^\n]*$", re.M | re.I),
)
"""Ends of headers, the newer ones first."""
_ENDS = (
    re.compile(r"^\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG", re.M | re.I),
    re.compile(r"^[ \t]{0,8}(?:\*+ ?)?(?:THE )?END OF (?:THE |THIS )?PROJECT GUTENBERG", re.M | re.I),
    re.compile(r"^[ \t]{0,8}(?:\*+ ?)?THIS IS THE END OF (?:THE )?PROJECT GUTENBERG", re.M | re.I),
)
"""Starts of footers; the one that comes first ends the book."""
_HEADER_CHARACTERS = 60_000
"""Largest header: that with the small print of the 1990s has 14,000 characters."""
_FIELD = re.compile(r"^(Title|Author|Translator|Editor|Language|Release Date|Posting Date): *(\S[^\n]*)$", re.M | re.I)
_NUMBER = re.compile(r"\[(?:e-?(?:book|text)) *#? *(\d{1,6})\]", re.I)
_ENCODING = re.compile(rb"Character set encoding: *([A-Za-z0-9_ .-]{2,30})", re.I)
_CREDITS = re.compile(
    r"(?:produced by|e-?text prepared by|this e-?(?:text|book) was (?:produced|prepared|transcribed)|transcribed by|"
    r"prepared by|scanned by|credits:|\[?note: (?:project gutenberg|images of the original))[^\n]*(?:\n[^\n]+)*",
    re.I,
)
"""Paragraph on those who transcribed a book, at its start."""
_MOST_CREDITS = 4
_USUAL_ENCODING = "windows-1252"
_WRONGLY_DECLARED = ("utf-8", "utf8", "unicode", "ascii", "us-ascii")
"""Declarations of files whose bytes are not UTF-8."""


def _accepts(path: str) -> bool:
    return without_compression(path).lower().endswith((".txt", ".txt.utf-8", ".txt.utf8"))


def read(piece: FileRange, maximum_document_bytes: int) -> Iterator[Document | Fault]:
    """Yield the book; title, author, language and number are metadata."""
    path = piece.path
    content = read_whole(path, maximum_document_bytes)
    if isinstance(content, Fault):
        yield content
        return

    def fault(reason: str, detail: str) -> Fault:
        return Fault(reason, detail, path, excerpt=excerpt_of(content))

    text = _decoded(content)
    if text is None or "\0" in text:
        yield fault("undecodable" if text is None else "binary", "its bytes are not text in the encoding it declares")
        return
    body = book_of(text)
    if body is None:
        yield fault("no_header", "no header and footer of Project Gutenberg around the book")
        return
    facts = _facts(text[:_HEADER_CHARACTERS])
    number = facts.get("ebook")
    url = f"https://www.gutenberg.org/ebooks/{number}" if number else path
    yield usable(body, url, {"file": os.path.basename(path), **facts}, fault, maximum_document_bytes)


def _decoded(content: bytes) -> str | None:
    """Decode a file; None: it is not in the encoding that it declares."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        declared = _ENCODING.search(content[: 4 * _HEADER_CHARACTERS])
        label = declared[1].decode().strip().lower() if declared else _USUAL_ENCODING
        if label.startswith(_WRONGLY_DECLARED):
            label = _USUAL_ENCODING
        code_page = re.search(r"125\d|8859-\d{1,2}", label)  # as in "Windows Code Page 1252"
        if code_page:
            label = f"{'iso-' if '-' in code_page[0] else 'windows-'}{code_page[0]}"
        found = decode_as(content, label) or decode_as(content, _USUAL_ENCODING)
        if found is None or found.count("\ufffd") > LARGEST_REPLACED_SHARE * len(found):
            return None
        text = found
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _facts(header: str) -> dict[str, str | int]:
    """Return what a header says about its book."""
    facts: dict[str, str | int] = {}
    for field in _FIELD.finditer(header):
        facts.setdefault(field[1].lower().replace(" ", "_"), field[2].strip())
    number = _NUMBER.search(header)
    if number:
        facts["ebook"] = int(number[1])
    return facts


def book_of(text: str) -> str | None:
    """Return a book without Project Gutenberg's header, footer and credits; None: they are not there."""
    starts = [match.end() for pattern in _STARTS if (match := pattern.search(text, 0, _HEADER_CHARACTERS))]
    if not starts:
        return None
    start = max(starts)
    ends = [match.start() for pattern in _ENDS if (match := pattern.search(text, start))]
    if not ends:
        return None
    book = text[start : min(ends)].strip()
    for _ in range(_MOST_CREDITS):
        credit = _CREDITS.match(book)
        if credit is None:
            break
        book = book[credit.end() :].lstrip()
    return book


READER = Reader(_accepts, read)
