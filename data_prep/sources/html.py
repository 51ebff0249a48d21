"""Web pages: the main text of each HTML file, without navigation, scripts and footers; also `.gz` and `.zst`.

The extraction is Resiliparse's (Bevendorff et al. 2018, ECIR), with the main content only: DataComp-LM found models
trained on it as good as on trafilatura's, at several times the speed (Li et al. 2024, arXiv:2406.11794, section 4.2).
"""

from __future__ import annotations

import re

from data_prep.sources.compression import without_compression
from data_prep.sources.reading import Fault, excerpt_of, one_document_per_file
from data_prep.sources.web_encodings import decode_page

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


def _text_of(content: bytes, path: str) -> str | Fault:
    text = main_text(content)
    if text is None:
        detail = "its bytes are no text in the encoding that it declares, nor in one it looks like"
        return Fault("undecodable", detail, path, excerpt=excerpt_of(content))
    return text


def main_text(content: bytes, declared: str | None = None) -> str | None:
    """Extract the main text of a page; None if its bytes cannot be decoded, see `decode_page`."""
    page = decode_page(content, declared)
    if page is None:
        return None
    page = page.replace("\r\n", "\n")
    is_deep = page.count("<") - page.count("</") > _DEEPEST and _depth(page) > _DEEPEST
    from resiliparse.extract.html2text import extract_plain_text

    text: str = extract_plain_text(page, preserve_formatting=not is_deep, main_content=not is_deep, alt_texts=False)
    return _SPACES_AT_LINE_ENDS.sub("", text)


def _depth(page: str) -> int:
    """Return the depth of a page, by elements that end only at their own end tag or that of an enclosing one."""
    depth = deepest = 0
    for match in _NESTING.finditer(page):
        depth = max(0, depth - 1) if match[1] else depth + 1
        deepest = max(deepest, depth)
    return deepest


READER = one_document_per_file(_accepts, _text_of)
