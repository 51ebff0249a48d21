"""Web pages: the main text of each HTML file, without navigation, scripts and footers; also `.gz` and `.zst`.

Three extractors find it:

- `blocks`, ours: the blocks of Resiliparse's tree that are the main content, see `main_content.py`;
- `resiliparse`: Resiliparse's own (Bevendorff et al. 2018, ECIR), which keeps more. DataComp-LM found models trained on
  its text as good as on trafilatura's (Li et al. 2024, arXiv:2406.11794, section 4.2);
- `trafilatura` (Barbaresi 2021, ACL), `pip install 'altiplano[trafilatura]'`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from data_prep.sources import Extractor
from data_prep.sources.compression import without_compression
from data_prep.sources.main_content import main_blocks
from data_prep.sources.page_blocks import read_blocks
from data_prep.sources.page_text import text_of
from data_prep.sources.reading import Fault, Reader, excerpt_of, one_document_per_file
from data_prep.sources.web_encodings import decode_page

Extract = Callable[[str], str]
"""Returns the main text of a decoded page."""

_SUFFIXES = (".html", ".htm", ".xhtml")
_SPACES_AT_LINE_ENDS = re.compile(r"(?<![ \t])[ \t]+$", re.MULTILINE)  # each run is searched once, from its start


_DEEPEST = 512
"""Largest depth of nested elements, beyond which browsers flatten them (Blink, `kMaximumHTMLParserDOMTreeDepth`).
Finding the main content takes time in proportion to the square of the depth, so all text of a deeper page is extracted,
without layout, which would indent lists by their depth."""
_NESTING = re.compile(
    r"<(/?)(?:div|span|section|article|main|blockquote|table|ul|ol|dl|center|font|form|fieldset|figure|"
    r"aside|nav|header|footer|details|address|pre|b|i|u|em|strong|small|big|sub|sup)\b",
    re.IGNORECASE,
)


def _accepts(path: str) -> bool:
    return without_compression(path).lower().endswith(_SUFFIXES)


def main_text(content: bytes, declared: str | None = None, extract: Extract | None = None) -> str | None:
    """Extract the main text of a page; None if its bytes cannot be decoded, see `decode_page`.

    Args:
        extract: one of `extract_with`; None: `blocks`.
    """
    page = decode_page(content, declared)
    if page is None:
        return None
    return (extract or extract_blocks)(page.replace("\r\n", "\n"))


def extract_with(extractor: Extractor = "blocks", markdown: bool = False) -> Extract:
    """Return the function of an extractor.

    Raises:
        ValueError: it is not installed.
    """
    if extractor == "trafilatura":
        return _trafilatura(markdown)
    return _extract_resiliparse if extractor == "resiliparse" else partial(extract_blocks, markdown=markdown)


def extract_blocks(page: str, markdown: bool = False) -> str:
    """Return the text of the main content, with a line for each heading, list item, table row and line of code."""
    from resiliparse.parse.html import HTMLTree

    body = HTMLTree.parse(page).body
    return text_of(main_blocks(*read_blocks(body.html)), markdown) if body is not None else ""


def _extract_resiliparse(page: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    is_deep = page.count("<") - page.count("</") > _DEEPEST and _depth(page) > _DEEPEST
    text: str = extract_plain_text(page, preserve_formatting=not is_deep, main_content=not is_deep, alt_texts=False)
    return _SPACES_AT_LINE_ENDS.sub("", text)


def _depth(page: str) -> int:
    """Return the depth of a page, by elements that end only at their own end tag or that of an enclosing one."""
    depth = deepest = 0
    for match in _NESTING.finditer(page):
        depth = max(0, depth - 1) if match[1] else depth + 1
        deepest = max(deepest, depth)
    return deepest


def _trafilatura(markdown: bool) -> Extract:
    try:
        from trafilatura import extract
    except ImportError:
        raise ValueError("extractor 'trafilatura' needs trafilatura: pip install 'altiplano[trafilatura]'") from None
    form = "markdown" if markdown else "txt"
    return lambda page: extract(page, output_format=form, include_comments=False) or ""


def _text_of(content: bytes, path: str, extract: Extract) -> str | Fault:
    text = main_text(content, extract=extract)
    if text is None:
        detail = "its bytes are no text in the encoding that it declares, nor in one it looks like"
        return Fault("undecodable", detail, path, excerpt=excerpt_of(content))
    return text


def reader_with(options: Mapping[str, Any]) -> Reader:
    """Return the reader of a source with these settings."""
    return one_document_per_file(_accepts, partial(_text_of, extract=extract_with(**options)))


READER = reader_with({})
