"""Reading order, paragraphs, hyphens and running heads of pages whose lines have places but no structure.

Pure functions on lines in points, with y growing upwards as in PDF. Columns are found as white space that no line
crosses over a series of bands (after XY-cut, Nagy et al. 1984, and Breuel 2002, "Two Geometric Algorithms for Layout
Analysis": gutters are covers of white space).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

_GUTTER_EMS = 1.0
"""Least width of the space between columns, in heights of the lines beside it."""
_LEAST_COLUMN_LINES = 3
_MARGIN_SHARE = 0.15
"""Share of a page at its top and at its bottom in which running heads are looked for."""
_REPEATED_SHARE = 0.2
"""Least share of the pages that a running head is on: chapters and even pages have their own."""
_SLOT_POINTS = 4
"""Height of a place of running heads: these are at the same height on each page, up to rounding."""
_PARAGRAPH_GAP = 1.4
"""Distance of two lines, in usual distances of lines, from which they are two paragraphs."""
_HEIGHT_CHANGE = 1.15
_INDENT_EMS = 0.8
_SHORT_LINE = 0.85
_HYPHENS = "-\u00ad\u2010"

_ENDS_SENTENCE = re.compile(r"[.!?:;。！？…][\"'”’»)\]]*$")
_NUMBER = re.compile(r"\d+")
_ROMAN = re.compile(r"[ivxlc]{1,7}", re.IGNORECASE)
_WORD_END = re.compile(r"(?<![^\W\d_])[^\W\d_]{1,60}$")
_WORD_START = re.compile(r"[^\W\d_]+")
_LEADERS = re.compile(r"(?:[^\S\n]?\.){5,}")
_UNSPACED = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")
_BULLETS = "•▪‣◦●■"
_BULLET = re.compile(r"(?:[•▪‣◦–—*-]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s")


@dataclass(frozen=True)
class Line:
    """Text on one base line without a wide gap, and its box."""

    text: str
    left: float
    bottom: float
    right: float
    top: float

    @property
    def height(self) -> float:
        return self.top - self.bottom


@dataclass(frozen=True)
class Page:
    """Lines of a page in any order."""

    lines: tuple[Line, ...]
    bottom: float
    top: float


def text_of(pages: Sequence[Page]) -> tuple[str, int]:
    """Return the text of a document, paragraphs separated by empty lines, and the number of running heads removed."""
    heads = _running_heads(pages)
    kept = [[line for line in page.lines if not _is_head(line, page, heads)] for page in pages]
    removed = sum(len(page.lines) - len(lines) for page, lines in zip(pages, kept, strict=True))
    body = [_ordered(lines) for lines in kept]
    columns = [column for page in body for column in page]
    words = _words(columns)
    paragraphs: list[str] = []
    for column in columns:
        for number, lines in enumerate(_paragraphs(column)):
            text = _joined([line.text for line in lines], words)
            if number == 0 and paragraphs and _goes_on(paragraphs[-1], text):
                paragraphs[-1] = _joined([paragraphs[-1], text], words)
            else:
                paragraphs.append(text)
    return "\n\n".join(paragraphs), removed


def _goes_on(before: str, text: str) -> bool:
    """Return whether a paragraph goes on in the next column or on the next page."""
    return not _ENDS_SENTENCE.search(before) and (text[:1].islower() or before[-1:] in _HYPHENS)


# ---------------------------------------------------------------------------------------------------------------------
# running heads, and numbers of pages


_Head = tuple[bool, int, str]
"""Whether a line is at the top of its page, its height on the page, and its normalised text."""


def _running_heads(pages: Sequence[Page]) -> set[_Head]:
    """Return what is at the same height on several pages: the same text, or several texts of which most repeat.

    The second are the titles of chapters: each is on a few pages only.
    """
    counts: Counter[_Head] = Counter()
    for page in pages:
        counts.update({key for line in page.lines for key in _keys(line, page)})
    least = max(2.0, _REPEATED_SHARE * len(pages))
    lines_at: Counter[tuple[bool, int]] = Counter()
    repeated_at: Counter[tuple[bool, int]] = Counter()
    for (is_top, height, _), count in counts.items():
        lines_at[is_top, height] += count
        repeated_at[is_top, height] += count if count > 1 else 0
    slots = {slot for slot, count in lines_at.items() if count >= least and repeated_at[slot] >= 0.5 * count}
    return {key for key, count in counts.items() if count >= least or (count > 1 and key[:2] in slots)}


def _keys(line: Line, page: Page) -> list[_Head]:
    margin = _MARGIN_SHARE * (page.top - page.bottom)
    text, height = _normalised(line.text), round((line.bottom - page.bottom) / _SLOT_POINTS)
    is_top, is_bottom = line.bottom > page.top - margin, line.top < page.bottom + margin
    return [(is_top, height, text)] if is_top or is_bottom else []


def _normalised(text: str) -> str:
    text = " ".join(text.split()).casefold()
    return "0" if _ROMAN.fullmatch(text) else _NUMBER.sub("0", text)


def _is_head(line: Line, page: Page, heads: set[_Head]) -> bool:
    return any(key in heads for key in _keys(line, page))


# ---------------------------------------------------------------------------------------------------------------------
# order


def _ordered(lines: Sequence[Line], depth: int = 0) -> list[list[Line]]:
    """Return the columns of a page in reading order, each a list of lines."""
    if not lines:
        return []
    groups: list[tuple[list[Line], list[tuple[float, float]]]] = []
    for band in _bands(lines):
        gaps = _gaps(band, min(line.left for line in lines), max(line.right for line in lines))
        if groups:
            common = _common(groups[-1][1], gaps)
            if common and (_has_columns([*groups[-1][0], *band], common) or _may_have(groups[-1][0], common)):
                groups[-1] = ([*groups[-1][0], *band], common)
                continue
        groups.append((list(band), gaps))
    columns: list[list[Line]] = []
    for group, gaps in groups:
        gap = _has_columns(group, gaps) if depth < 4 else None
        if gap is None:
            found = [_rows(group)]
        else:
            sides = ([line for line in group if line.right <= gap], [line for line in group if line.right > gap])
            found = [column for side in sides for column in _ordered(side, depth + 1)]
        if gap is None and columns and groups and len(columns[-1]) and _is_simple(columns[-1], found[0]):
            columns[-1] = columns[-1] + found[0]
        else:
            columns += found
    return columns


def _is_simple(before: Sequence[Line], after: Sequence[Line]) -> bool:
    """Return whether lines follow others in one column: below them, and overlapping in width."""
    return after[0].top <= before[-1].bottom + before[-1].height and (
        min(line.left for line in after) < max(line.right for line in before)
        and max(line.right for line in after) > min(line.left for line in before)
    )


def _bands(lines: Iterable[Line]) -> list[list[Line]]:
    """Divide lines into bands, from the top, that no line crosses; boxes are shrunk, since lines may touch."""
    bands: list[list[Line]] = []
    bottom = 0.0
    for line in sorted(lines, key=lambda line: (-line.top, line.left)):
        if bands and line.top - 0.2 * line.height > bottom:
            bands[-1].append(line)
            bottom = min(bottom, line.bottom + 0.2 * line.height)
        else:
            bands.append([line])
            bottom = line.bottom + 0.2 * line.height
    return bands


def _gaps(band: Sequence[Line], left: float, right: float) -> list[tuple[float, float]]:
    """Return the ranges of [left, right] in which a band has no ink."""
    gaps, place = [], left
    for line in sorted(band, key=lambda line: line.left):
        if line.left > place:
            gaps.append((place, line.left))
        place = max(place, line.right)
    return [*gaps, (place, right)] if place < right else gaps


def _common(some: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    found = [(max(a, c), min(b, d)) for a, b in some for c, d in others]
    return [(start, stop) for start, stop in found if stop - start > 1]


def _has_columns(lines: Sequence[Line], gaps: Sequence[tuple[float, float]]) -> float | None:
    """Return the middle of a gutter with lines beside each other on both sides; None: there is none."""
    height = median(line.height for line in lines)
    for start, stop in gaps:
        middle = (start + stop) / 2
        left = [line for line in lines if line.right <= middle]
        right = [line for line in lines if line.left >= middle]
        if stop - start < _GUTTER_EMS * height or min(len(left), len(right)) < _LEAST_COLUMN_LINES:
            continue
        overlap = min(max(line.top for line in side) for side in (left, right)) - max(
            min(line.bottom for line in side) for side in (left, right)
        )
        if overlap > _LEAST_COLUMN_LINES * height and _is_prose(left) and _is_prose(right):
            return middle
    return None


def _is_prose(lines: Sequence[Line]) -> bool:
    """Return whether lines may be a column of text, and not one of a table."""
    return median(len(line.text) for line in lines) >= 12


def _may_have(lines: Sequence[Line], gaps: Sequence[tuple[float, float]]) -> bool:
    """Return whether too few lines have been seen to tell whether they are columns."""
    middles = [(start + stop) / 2 for start, stop in gaps]
    return any(
        any(line.right <= middle for line in lines) and any(line.left >= middle for line in lines) for middle in middles
    )


def _rows(lines: Sequence[Line]) -> list[Line]:
    """Return lines from top to bottom, and those of one base line from left to right, put together."""
    found: list[Line] = []
    for band in _bands(lines):
        row = sorted(band, key=lambda line: line.left)
        heights = [line.height for line in row]
        if len(row) > 1 and max(line.bottom for line in row) - min(line.bottom for line in row) < 0.6 * max(heights):
            text = " ".join(line.text for line in row)
            bottom, top = min(line.bottom for line in row), max(line.top for line in row)
            found.append(Line(text, row[0].left, bottom, max(line.right for line in row), top))
        else:
            found += sorted(band, key=lambda line: (-line.top, line.left))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# paragraphs


def _paragraphs(column: Sequence[Line]) -> list[list[Line]]:
    pitches = [above.bottom - below.bottom for above, below in pairwise(column)]
    pitch = median([one for one in pitches if one > 0] or [0.0])
    left, right = median(line.left for line in column), max(line.right for line in column)
    paragraphs = [[column[0]]]
    for above, below in pairwise(column):
        if _begins_paragraph(above, below, pitch, left, right):
            paragraphs.append([below])
        else:
            paragraphs[-1].append(below)
    return paragraphs


def _begins_paragraph(above: Line, below: Line, pitch: float, left: float, right: float) -> bool:
    if above.bottom - below.bottom > _PARAGRAPH_GAP * pitch or above.bottom < below.bottom - pitch / 2:
        return True
    ratio = above.height / below.height if below.height else 1.0
    if not 1 / _HEIGHT_CHANGE < ratio < _HEIGHT_CHANGE and abs(above.height - below.height) > 1:
        return True
    if above.text[-1:] in _HYPHENS:
        return False
    if below.text[0] in _BULLETS:
        return True
    if below.left - left > _INDENT_EMS * below.height and above.left - left < below.left - left - 1:
        return True
    is_short = above.right < left + _SHORT_LINE * (right - left)
    return is_short and bool(_ENDS_SENTENCE.search(above.text) or _BULLET.match(below.text) or below.text[:1].isupper())


def _words(columns: Iterable[Sequence[Line]]) -> Counter[str]:
    """Count the words within lines, in lower case, with their hyphens: they show how divided words are written."""
    counts: Counter[str] = Counter()
    for column in columns:
        for line in column:
            inside = line.text.split()
            counts.update(word.strip(".,;:!?()[]\"'“”‘’").casefold() for word in inside[1:-1])
    return counts


def _joined(texts: Sequence[str], words: Counter[str]) -> str:
    """Join the lines of a paragraph; a divided word is put together, as the rest of the document writes it."""
    result = texts[0].rstrip()
    for text in texts[1:]:
        text = text.strip()
        if result[-1:] in _HYPHENS:
            result = _put_together(result, text, words)
        elif _UNSPACED.match(result[-1:]) and _UNSPACED.match(text):
            result += text
        else:
            result = f"{result} {text}"
    return _LEADERS.sub(" ", result)


def _put_together(before: str, after: str, words: Counter[str]) -> str:
    first, second = _WORD_END.search(before[:-1]), _WORD_START.match(after)
    if first is None or second is None:
        return f"{before} {after}" if before[-2:-1].isspace() else f"{before[:-1]}-{after}"
    whole, compound = (first[0] + second[0]).casefold(), f"{first[0]}-{second[0]}".casefold()
    is_division = second[0][0].islower() and words[whole] >= words[compound]
    return f"{before[:-1]}{after}" if is_division else f"{before[:-1]}-{after}"
