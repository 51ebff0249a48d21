"""Text of the blocks of a web page, with a line for each heading, list item, table row and line of code; or Markdown.

In both forms, items of lists begin with `-` or their number, and lists in lists are indented. Markdown also marks
headings, quotations, code and tables (CommonMark 0.31.2, sections 4 and 5; GitHub Flavored Markdown 0.29, section
4.10). It has no emphasis and no addresses of links, and characters with a meaning in Markdown are not escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from data_prep.sources.page_blocks import Block, Element, tags

_CLOSE = tags("address article body center dd div dt footer header html li main section td th")
"""Elements whose texts follow one another without an empty line."""
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_START = re.compile(r'\bstart="(\d{1,9})"')
_TICKS = re.compile("`{3,}")
_INDENT = " " * 4
"""Enough for a list in an item of any list (CommonMark, section 5.2)."""


@dataclass(frozen=True)
class _Part:
    """Lines of a text, and what they come from."""

    text: str
    element: Element
    begins_item: bool = False


def text_of(blocks: list[Block], markdown: bool = False) -> str:
    """Return the text of blocks in the order of their page."""
    texts: list[str] = []
    last: _Part | None = None
    for part in _parts(blocks, markdown):
        if last is not None:
            texts.append("\n" if _is_close(last, part) else "\n\n")
        texts.append(part.text)
        last = part
    return "".join(texts)


def _parts(blocks: list[Block], markdown: bool) -> Iterator[_Part]:
    items: set[Element] = set()  # that have begun
    numbers: dict[Element, int] = {}
    table: Element | None = None
    for row, in_row in groupby(blocks, _row_of):
        if row is None:
            yield from (_part(block, items, numbers, markdown) for block in in_row)
            continue
        cells = _cells(row, in_row)
        yield _Part(_markdown_row(cells, row.around.table is not table) if markdown else "\t".join(cells).rstrip(), row)
        table = row.around.table


def _row_of(block: Block) -> Element | None:
    """Return the row of a table that becomes one line; None: the block is in none."""
    row = block.element.around.row
    return row if row is not None and row.around.table is not None and row.around.table.is_of_lines else None


def _cells(row: Element, blocks: Iterator[Block]) -> list[str]:
    texts = dict.fromkeys(row.children, "")
    for block in blocks:
        cell = block.element
        while cell.parent is not None and cell.parent is not row:
            cell = cell.parent
        texts[cell] = " ".join(block.text.split())
    return list(texts.values())


def _markdown_row(cells: list[str], is_first: bool) -> str:
    if len(cells) < 2:
        return "".join(cells)
    line = "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    return line + "\n|" + " --- |" * len(cells) if is_first else line


def _part(block: Block, items: set[Element], numbers: dict[Element, int], markdown: bool) -> _Part:
    element, text = block.element, block.text
    if markdown:
        text = _marked(text, element)
    item = element.around.item
    if item is None or (element.tag == "pre" and not markdown):
        return _Part(text, element)
    marker = ""
    if item not in items:
        items.add(item)
        marker = _marker(item.parent, numbers)
    indent = _INDENT * (element.around.list_depth - 1)
    lines = text.split("\n")
    lines[0] = indent + (marker or (_INDENT if markdown else "")) + lines[0]
    lines[1:] = [indent + _INDENT + line if line else line for line in lines[1:]]
    return _Part("\n".join(lines), element, bool(marker))


def _marked(text: str, element: Element) -> str:
    if element.tag == "pre":
        fence = "`" * max([3, *(len(ticks) + 1 for ticks in _TICKS.findall(text))])
        text = f"{fence}\n{text}\n{fence}"
    elif element.tag in _HEADINGS:
        text = _HEADINGS[element.tag] + " ".join(text.split())
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n")) if element.around.is_quoted else text


def _marker(parent: Element | None, numbers: dict[Element, int]) -> str:
    if parent is None or parent.tag != "ol":
        return "- "
    if parent not in numbers:
        start = _START.search(parent.attributes)
        numbers[parent] = int(start[1]) if start else 1
    number = numbers[parent]
    numbers[parent] += 1
    return f"{number}. "


def _is_close(last: _Part, part: _Part) -> bool:
    """Return whether no empty line is between two parts."""
    before, after = last.element, part.element
    if before.tag == after.tag == "tr":
        return before.around.table is after.around.table
    if before.around.item is not None and after.around.item is not None:
        return part.begins_item or not before.tag == after.tag == "p"
    is_same_level = before.around.item is after.around.item
    return is_same_level and before.tag in _CLOSE and after.tag in _CLOSE
