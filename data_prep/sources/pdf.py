"""PDF files: the text of a document in reading order, with divided words put together and without running heads.

PDFium (through pypdfium2, `pip install 'altiplano[pdf]'`) gives each character and its place; `pdf_layout` does the
rest. Scans have no text: they are set aside, as are files whose fonts do not say which characters they show.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from statistics import median_low
from typing import Any

from data_prep.sources.pdf_layout import Line, Page, text_of
from data_prep.sources.ranges import FileRange
from data_prep.sources.reading import Document, Fault, Reader, SetAsideError, read_whole, usable

_LARGEST_FILE_BYTES = 500_000_000
_LEAST_CHARACTERS_A_PAGE = 20
"""Least mean number of characters for a document to have a text layer; scans have none, or stamps and numbers."""
_LARGEST_UNKNOWN_SHARE = 0.05
"""Largest share of characters that a font does not name: private ones, and U+FFFD."""
_GAP_EMS = 1.5
"""Horizontal gap, in heights of the line, that divides a line: columns and cells are further apart than words."""
_OVERLAP_SHARE = 0.4
"""Least overlap of two words in height for them to be on one line; raised and lowered characters overlap more."""
_UNKNOWN = re.compile("[\ufffd\ue000-\uf8ff]")
_WORD = re.compile("[^\\s\x02\ufffe]+[\x02\ufffe]?|[\x02\ufffe]")
"""Characters without white space. PDFium joins a divided word with U+FFFE, or U+0002, although a line ends there."""


def _accepts(path: str) -> bool:
    return path.lower().endswith(".pdf")


def read(piece: FileRange, maximum_document_bytes: int) -> Iterator[Document | Fault]:
    """Yield the document; `pages` and the number of running heads that were removed are metadata."""
    path = piece.path

    def fault(reason: str, detail: str) -> Fault:
        return Fault(reason, detail, path)

    content = read_whole(path, _LARGEST_FILE_BYTES)
    if isinstance(content, Fault):
        yield content
        return
    try:
        pages, facts = _pages(content, maximum_document_bytes)
    except SetAsideError as error:
        yield fault(error.reason, str(error))
        return
    text, heads = text_of(pages)
    metadata = {"file": os.path.basename(path), "pages": len(pages), "running_heads": heads, **facts}
    yield usable(text, path, metadata, fault, maximum_document_bytes)


def _pages(content: bytes, maximum_bytes: int) -> tuple[list[Page], dict[str, str]]:
    """Return the pages of a file, and what it says about itself.

    Raises:
        SetAsideError: it cannot be read, or has no text.
        ValueError: pypdfium2 is not installed.
    """
    try:
        import pypdfium2
        import pypdfium2.raw as pdfium
    except ImportError:
        raise ValueError("kind 'pdf' needs pypdfium2: pip install 'altiplano[pdf]'") from None
    try:
        document = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        if error.err_code == pdfium.FPDF_ERR_PASSWORD:
            raise SetAsideError("encrypted", "it needs a password") from None
        raise SetAsideError("damaged_file", f"damaged PDF: {error}") from None
    pages: list[Page] = []
    characters = unknown = 0
    try:
        facts = document.get_metadata_dict(skip_empty=True)
        for number in range(len(document)):
            try:
                page = document[number]
            except pypdfium2.PdfiumError as error:
                raise SetAsideError("damaged_file", f"damaged PDF: page {number + 1}: {error}") from None
            words = _words(page, pdfium)
            characters += sum(len(word[0]) for word in words)
            unknown += sum(len(_UNKNOWN.findall(word[0])) for word in words)
            if characters > maximum_bytes:
                raise SetAsideError("too_large", f"more than maximum_document_bytes = {maximum_bytes:,} characters")
            pages.append(Page(tuple(_lines(words)), 0.0, page.get_height()))
            page.close()
    finally:
        document.close()
    if characters < _LEAST_CHARACTERS_A_PAGE * len(pages):
        raise SetAsideError("no_text_layer", f"{characters:,} characters on {len(pages):,} pages, as in a scan")
    if unknown > _LARGEST_UNKNOWN_SHARE * characters:
        raise SetAsideError("unknown_characters", f"its fonts do not name {unknown:,} of {characters:,} characters")
    return pages, {
        key.lower(): facts[key] for key in ("Title", "Author") if isinstance(facts.get(key), str) and facts[key].strip()
    }


_Word = tuple[str, float, float, float, float]
"""Characters without white space between them, and the left, bottom, right and top of their box."""


def _words(page: Any, pdfium: Any) -> list[_Word]:
    """Return the words of a page in the order of its content, turned as the page is."""
    text_page = page.get_textpage()
    raw, count = text_page.raw, text_page.count_chars()
    text = text_page.get_text_range() if count else ""
    if len(text) != count:  # characters beyond the basic plane, or none, so that places differ
        codes = (pdfium.FPDFText_GetUnicode(raw, index) for index in range(count))
        text = "".join(chr(code) if 0 < code < 0xD800 or 0xDFFF < code < 0x110000 else "\ufffd" for code in codes)
    left, bottom, right, top = page.get_mediabox()
    turns, width, height = page.get_rotation() // 90, right - left, top - bottom
    box = pdfium.FS_RECTF()
    found: list[_Word] = []
    for word in _WORD.finditer(text):
        pdfium.FPDFText_GetLooseCharBox(raw, word.start(), box)
        x0, y0, x1, y1 = box.left, box.bottom, box.right, box.top
        if word.end() - word.start() > 1:
            pdfium.FPDFText_GetLooseCharBox(raw, word.end() - 1, box)
            x0, x1 = min(x0, box.left), max(x1, box.right)
            y0, y1 = min(y0, box.bottom), max(y1, box.top)
        place = (x0 - left, y0 - bottom, x1 - left, y1 - bottom)
        shown = word[0] if word[0].isprintable() else word[0].replace("\x02", "-").replace("\ufffe", "-")
        found.append((shown, *(_turned(*place, width, height, turns) if turns else place)))
    text_page.close()
    return found


def _turned(
    x0: float, y0: float, x1: float, y1: float, width: float, height: float, turns: int
) -> tuple[float, float, float, float]:
    """Return a box on a page that is turned clockwise by quarters."""
    for _ in range(turns):
        x0, y0, x1, y1 = y0, width - x1, y1, width - x0
        width, height = height, width
    return x0, y0, x1, y1


def _lines(words: list[_Word]) -> Iterator[Line]:
    """Put words together that follow one another on a base line."""
    current: list[_Word] = []
    for word in words:
        _, left, bottom, _, top = word
        if current:
            _, _, before_bottom, before_right, before_top = current[-1]
            height = max(top - bottom, before_top - before_bottom, 1.0)
            overlap = min(top, before_top) - max(bottom, before_bottom)
            is_far = not -_GAP_EMS * height < left - before_right < _GAP_EMS * height
            if overlap < _OVERLAP_SHARE * min(top - bottom, before_top - before_bottom) or is_far:
                yield _line(current)
                current = []
        current.append(word)
    if current:
        yield _line(current)


def _line(words: list[_Word]) -> Line:
    texts, lefts, bottoms, rights, tops = zip(*words, strict=True)
    # the box of most words: others are in another font, raised or lowered
    return Line(" ".join(texts), min(lefts), median_low(bottoms), max(rights), median_low(tops))


READER = Reader(_accepts, read)
