"""Blocks of a web page: each paragraph, heading, list item, table cell or piece of code, with the element it is in.

The page is parsed by Resiliparse as browsers parse it. Its serialized tree, in which every element is closed and every
`<` and `>` of texts and attributes is escaped, is then read once from start to end.

Source of block elements and of serialization: WHATWG, HTML, sections 15.3 (rendering) and 13.3 (serializing).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple


def tags(names: str) -> frozenset[str]:
    """Return the set of tags that a text lists."""
    return frozenset(names.split())


_RAW = ("script", "style", "iframe", "noembed", "noframes", "xmp", "plaintext")
"""Elements whose content is serialized without escapes; none of it is text for readers."""
_INVISIBLE = re.compile(
    "<(?:"
    + "|".join(rf"{tag}[ >][^<]*(?:<(?!/{tag}>)[^<]*)*</{tag}>" for tag in _RAW)
    + r"|!--[^-]*(?:-(?!->)[^-]*)*-->)"
)
_BESIDE_TEXT = re.compile(r"<(nav|footer|aside)[ >][^<]*(?:<(?!/?\1[ >])[^<]*)*</\1>")
_LONG_TEXT = re.compile(r">\s*[^<\s][^<]{39}")
"""Text of 40 characters or more in one piece; navigation, footers and asides without it have nothing to read."""
_SKIPPED = tags(
    "annotation annotation-xml audio button canvas datalist dialog head noscript object rp rt select svg template "
    "textarea video"
)
"""Elements that are controls, or that browsers show otherwise than as text."""
_BLOCKS = tags(
    "address article aside blockquote body caption center dd details dir div dl dt fieldset figcaption figure footer "
    "form h1 h2 h3 h4 h5 h6 header hgroup html legend li main menu nav ol p pre search section summary table tbody td "
    "tfoot th thead tr ul"
)
_VOID = tags("area base br col embed hr img input link meta param source track wbr")
_HIDDEN = re.compile(r"(?:^| )hidden=|display: ?none|visibility: ?hidden", re.IGNORECASE)
_MARKS = ("headerlink", "permalink", "heading-anchor", "editsection", "lineno", "line-number")
_MARK = re.compile(r'class="[^"]*(?:' + "|".join(_MARKS) + ")")
"""Inline elements of documentation that are no text: links to their own place, and numbers of lines."""
_ENDS = {"/" + tag: tag for tag in _BLOCKS}
_BREAK = "\0"
"""Stands for `<br>`; no parsed page contains it, because parsers replace it."""
_EMPTY_LINES = re.compile(r"\n{3,}")
_LONGEST_CELL = 1000
"""Most characters of a cell of a table of data; others are columns of a page."""
_CELLS = tags("td th")
_CHANGES_AROUND = tags("li table tr blockquote")
_DEEPEST_LIST = 8
"""Lists inside more lists than this are indented like it, so that a page's text is not longer than the page."""


class Around(NamedTuple):
    """What an element is or is in."""

    item: Element | None = None
    """List item."""
    list_depth: int = 0
    """Number of list items."""
    table: Element | None = None
    row: Element | None = None
    """Row of a table."""
    is_quoted: bool = False


class Element:
    """Block element, with the half-open range of the blocks in it."""

    __slots__ = ("around", "attributes", "children", "is_of_lines", "parent", "start", "stop", "tag")

    def __init__(self, tag: str, attributes: str, parent: Element | None, start: int) -> None:
        self.tag = tag
        self.attributes = attributes
        self.parent = parent
        self.children: Sequence[Element] = ()
        """Block elements directly below that have blocks, and cells of tables."""
        self.start = start
        self.stop = start
        self.is_of_lines = True
        """Whether each cell of a row, or of all rows of a table, is a piece of a line: no column of a page."""
        self.around: Around = parent.around if parent is not None else Around()
        if tag in _CHANGES_AROUND:
            self.around = _around(self)

    def add_child(self, child: Element) -> None:
        if isinstance(self.children, list):
            self.children.append(child)
        else:  # most elements have none
            self.children = [child]


def _around(element: Element) -> Around:
    item, list_depth, table, row, is_quoted = element.around
    if element.tag == "li":
        return Around(element, min(list_depth + 1, _DEEPEST_LIST), table, row, is_quoted)
    if element.tag == "table":
        return Around(item, list_depth, element, row, is_quoted)
    if element.tag == "tr":
        return Around(item, list_depth, table, element, is_quoted)
    return Around(item, list_depth, table, row, True)


class Block:
    """Text between two borders of block elements. Its lines end at `<br>`, or are those of `<pre>`."""

    __slots__ = ("element", "link_share", "text")

    def __init__(self, text: str, link_share: float, element: Element) -> None:
        self.text = text
        self.link_share = link_share
        """Share of characters inside of links."""
        self.element = element


def read_blocks(html: str) -> tuple[list[Element], list[Block]]:
    """Return the block elements that have text, parents before children, and the blocks of a serialized page."""
    html = _BESIDE_TEXT.sub(_unless_short, _INVISIBLE.sub("", html))
    reader = _Reader(has_marks=any(mark in html for mark in _MARKS))
    reader.read(html)
    return reader.finish()


def _unless_short(part: re.Match[str]) -> str:
    return part[0] if _LONG_TEXT.search(part[0]) else ""


class _Reader:
    """Blocks so far, the open elements, and the parts of the block that is not finished."""

    def __init__(self, has_marks: bool) -> None:
        self._has_marks = has_marks
        self._open = [Element("", "", None, 0)]
        self._elements = list(self._open)
        self._blocks: list[Block] = []
        self._parts: list[str] = []
        self._link_characters = 0
        self._pre = 0
        """Number of open `<pre>`; other block elements in them only end lines."""

    def read(self, html: str) -> None:
        parts, has_marks = self._parts, self._has_marks
        skipped, depth, is_in_link = "", 0, False
        for piece in html.split("<"):
            head, _, text = piece.partition(">")
            if skipped:
                tag = head.partition(" ")[0]
                depth += (tag == skipped) - (tag == "/" + skipped)
                if depth:
                    continue
                skipped = ""
            elif head in _ENDS:
                if parts:
                    self._end_block_or_line()
                self._end(_ENDS[head])
            elif head == "/a":
                is_in_link = False
            elif head[:1] != "/":
                tag, _, attributes = head.partition(" ")
                if tag in _SKIPPED or (
                    attributes
                    and (has_marks or "hidden" in attributes or "none" in attributes)
                    and self._is_left_out(tag, attributes)
                ):
                    if parts and tag in _BLOCKS:
                        self._end_block_or_line()
                    skipped, depth = tag, 1
                    continue
                if tag == "a":
                    is_in_link = True
                elif tag in _BLOCKS:
                    if parts:
                        self._end_block_or_line()
                    self._begin(tag, attributes)
                elif tag == "br":
                    parts.append(_BREAK)
                elif tag == "hr" and parts:
                    self._end_block_or_line()
            if not text:
                continue
            if not text.isspace():
                parts.append(text)
                if is_in_link:
                    self._link_characters += len(text.strip())
            elif parts or self._pre:
                parts.append(text)

    def _is_left_out(self, tag: str, attributes: str) -> bool:
        """Return whether an element is not shown, or is a mark beside the text."""
        if tag in _VOID:
            return False
        if _HIDDEN.search(attributes) is not None:
            return True
        return self._has_marks and tag not in _BLOCKS and _MARK.search(attributes) is not None

    def _begin(self, tag: str, attributes: str) -> None:
        if tag == "pre":
            self._pre += 1
        if self._pre <= (tag == "pre"):
            element = Element(tag, attributes, self._open[-1], len(self._blocks))
            self._open.append(element)
            self._elements.append(element)

    def _end(self, tag: str) -> None:
        if self._pre:
            if tag != "pre":
                return
            self._pre -= 1
            if self._pre:
                return
            self._finish_block(_preformatted)
        element = self._open[-1]
        if element.tag == tag:
            del self._open[-1]
            if element.start < len(self._blocks) or tag in _CELLS:
                self._close(element)
            elif self._elements[-1] is element:
                del self._elements[-1]

    def _end_block_or_line(self) -> None:
        """End the block before or after a block element; in preformatted text, its line."""
        if not self._pre:
            self._finish_block(_collapsed)
        elif not self._parts[-1].endswith("\n"):
            self._parts.append("\n")

    def _finish_block(self, normalized: Callable[[str], str]) -> None:
        text = "".join(self._parts)
        if "&" in text:
            text = text.replace("&nbsp;", " ").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        text = normalized(text)
        if text:
            share = min(1.0, self._link_characters / len(text)) if self._link_characters else 0.0
            self._blocks.append(Block(text, share, self._open[-1]))
        self._parts.clear()
        self._link_characters = 0

    def _close(self, element: Element) -> None:
        element.stop = len(self._blocks)
        if element.parent is not None:
            element.parent.add_child(element)
        if element.tag == "tr" and not all(map(self._is_of_a_line, element.children)):
            element.is_of_lines = False
            if element.around.table is not None:
                element.around.table.is_of_lines = False

    def _is_of_a_line(self, cell: Element) -> bool:
        if cell.stop - cell.start > 1:
            return False
        texts = [block.text for block in self._blocks[cell.start : cell.stop]]
        return all(len(text) <= _LONGEST_CELL and "\n\n" not in text for text in texts)

    def finish(self) -> tuple[list[Element], list[Block]]:
        """Close what is open."""
        self._finish_block(_preformatted if self._pre else _collapsed)
        while self._open:
            self._close(self._open.pop())
        return [element for element in self._elements if element.stop > element.start], self._blocks


def _collapsed(text: str) -> str:
    """Collapse white space, except between lines that end at `<br>`."""
    if _BREAK not in text:
        return " ".join(text.split())
    return _EMPTY_LINES.sub("\n\n", "\n".join(" ".join(line.split()) for line in text.split(_BREAK))).strip("\n")


def _preformatted(text: str) -> str:
    """Remove empty lines at both ends, and spaces at the ends of lines."""
    return "\n".join(line.rstrip() for line in text.replace(_BREAK, "\n").split("\n")).strip("\n")
