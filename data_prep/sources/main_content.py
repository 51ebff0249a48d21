"""Main content of a web page: which of its blocks are the text that readers came for.

Three facts decide, none of them about a language:

- **Links.** Blocks of navigation are mostly links, blocks of text are mostly not (Kohlschütter et al. 2010, Boilerplate
  Detection using Shallow Text Features, WSDM).
- **Place.** The sentences of a text are near each other: its container is the deepest element with most of them.
- **Names.** HTML has elements for navigation and asides, and the classes of others are named in English by those who
  write pages in any language: `sidebar`, `related-posts`, `share`. A name counts only if enough text remains.

Where no block reads like sentences, as in a table or a list of links, all is kept that no name excludes.

Rules and constants without a source come from one half of 90 marked pages of news, and from the test pages of Mozilla's
readability; of the other half, only scores were looked at. `docs/sources/web_pages.md` has the figures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import accumulate, compress
from operator import and_, mul
from typing import TypeVar

from data_prep.sources.page_blocks import Block, Element, tags
from data_prep.sources.page_names import ASIDE, BAR, CAPTION, COMMENTS, DETAIL, FOOTER, class_of, kind_of

SENTENCE_CHARACTERS, PARAGRAPH_CHARACTERS = 60, 40
"""Least weight of a block that reads like sentences, and of one in a `<p>`."""
MOST_LINKS_IN_SENTENCES = 1 / 3
"""Largest share of linked characters of such a block, as in the classifiers of Kohlschütter et al. 2010."""
MOST_LINKS, MOST_LINKS_IN_TABLE = 0.5, 0.8
"""Share of linked characters from which a block or list is navigation, and a table, whose names may all be links."""
CONTAINER_SHARE = 0.8
"""Share of an element's sentences that a child has if the others are not text."""
ENOUGH = 200
"""Weight of sentences that are a text of their own: about two sentences."""
SHORT = 500
"""Weight of sentences of a text that needs what is around it, such as the description of a product."""
SOME_DATA = 100
"""Weight of code, definitions and rows of tables that a container may not leave out."""
MOST_IN_BAR, MOST_IN_CAPTION, MOST_IN_DETAIL = 1000, 600, 150
"""Largest weight of what such parts of a page say."""

_WIDE = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u9fff\ua000-\ua4cf\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
"""Letters of which one says as much as about three Latin ones: of East Asia, and of scripts without spaces."""
_PUNCTUATION = re.compile("[.!?,;:…·。、，！？；：\u037e،؛؟۔।॥།။។።፣։]")
_LEVELS = {f"h{level}": level for level in range(1, 7)}
_LEVELS_AND_CODE = _LEVELS.keys() | {"pre"}
_LISTS = tags("ul ol dl")
_NO_CONTAINERS = tags("p li dd td tr tbody table ul ol dl blockquote pre")
_PARTS_OF_PAGE = tags("article main table tbody tr td")
"""Elements that are more than a detail, whatever their name."""


def main_blocks(elements: list[Element], blocks: list[Block]) -> list[Block]:
    """Return the blocks of the main content, in the order of the page; if there are any blocks, so are there here."""
    if not blocks:
        return []
    page = _Page(elements, blocks)
    page.drop_named_parts()
    page.drop_outside_of_container()
    page.drop_links()
    page.drop_headings_of_dropped()
    return page.kept() or blocks


class _Page:
    """Blocks of a page, what they weigh, and which are still kept."""

    def __init__(self, elements: list[Element], blocks: list[Block]) -> None:
        self.elements, self.blocks = elements, blocks
        self.weights = [_weight(block.text) for block in blocks]
        self.sentences = [
            weight if _reads_like_sentences(block, weight) else 0
            for block, weight in zip(blocks, self.weights, strict=True)
        ]
        self.is_kept = [True] * len(blocks)

    def kept(self) -> list[Block]:
        return list(compress(self.blocks, self.is_kept))

    def _kept_sentences(self) -> list[int]:
        return _sums(map(mul, self.sentences, self.is_kept))

    def drop_named_parts(self) -> None:
        """Drop what a tag or a class says is no main content, if it is not most of the page."""
        text, weight = self._kept_sentences(), _sums(self.weights)
        named = list(self._named_parts(text))
        self._drop(element for element, kind in named if _has_nothing(element, kind, text))
        for kind in range(DETAIL + 1):
            parts = _of_kind(kind, [element for element, its in named if its == kind], text, weight)
            if not parts:
                continue
            before = self.is_kept.copy()
            self._drop(parts)
            left = self._kept_sentences()
            if left[-1] >= min(ENOUGH, text[-1] / 2):
                text = left
            else:
                self.is_kept = before  # together they are the page, as the comments of a forum

    def _named_parts(self, text: list[int]) -> Iterator[tuple[Element, int]]:
        """Yield elements and the kinds that they name, without those inside of one that is dropped in any case."""
        done = 0
        for element in self.elements:
            if element.start >= done and (kind := kind_of(element.tag, element.attributes)) is not None:
                yield element, kind
                if _has_nothing(element, kind, text):
                    done = element.stop

    def drop_outside_of_container(self) -> None:
        text = self._kept_sentences()
        is_data = map(_is_code_or_data, self.blocks)
        data = _sums(map(mul, self.weights, map(and_, self.is_kept, is_data)))
        container = _container(self.elements[0], text, data)
        if _within(container, text) < SHORT:
            container = _main_around(container) or container
        self.is_inside = [False] * len(self.blocks)
        for element in (container, *_long_texts_beside(container, text)):
            self.is_inside[element.start : element.stop] = [True] * (element.stop - element.start)
        self.is_kept = list(map(and_, self.is_kept, self.is_inside))

    def drop_links(self) -> None:
        """Drop lists, tables and other blocks that are mostly links, but no headings.

        Lists are kept if there is more in them than in the rest, and all of it if there are hardly any sentences."""
        if self._kept_sentences()[-1] < ENOUGH:
            return
        in_list = [False] * len(self.blocks)
        is_link = [b.link_share > MOST_LINKS and b.element.tag not in _LEVELS_AND_CODE for b in self.blocks]
        for unit, is_navigation in self._lists_and_tables():
            size = unit.stop - unit.start
            in_list[unit.start : unit.stop] = [True] * size
            is_link[unit.start : unit.stop] = [is_navigation] * size
        text = links = 0
        for weight, kept, listed, link in zip(self.weights, self.is_kept, in_list, is_link, strict=True):
            text += weight if kept and not link else 0
            links += weight if kept and link and listed else 0
        self.is_kept = [
            kept and not (link and (not listed or links <= text))
            for kept, listed, link in zip(self.is_kept, in_list, is_link, strict=True)
        ]

    def _lists_and_tables(self) -> Iterator[tuple[Element, bool]]:
        """Yield outermost lists and tables, and whether they are navigation; others have texts among their links.

        A list among paragraphs, as of rivers or of what to see next, is a part of the text."""
        paragraphs_in = {
            block.element.parent
            for block, weight in zip(self.blocks, self.sentences, strict=True)
            if weight and block.element.tag == "p"
        }
        text, weight = _sums(self.sentences), _sums(self.weights)
        linked = _sums(map(mul, self.weights, [block.link_share for block in self.blocks]))
        done = 0
        for element in self.elements:
            is_table = element.tag == "table" and element.is_of_lines
            if element.start < done or not (is_table or element.tag in _LISTS):
                continue
            largest = MOST_LINKS_IN_TABLE if is_table else MOST_LINKS
            is_mostly_links = _within(element, linked) > largest * _within(element, weight)
            if not (is_mostly_links and _within(element, text)):
                done = element.stop
                is_among_paragraphs = not is_table and element.parent in paragraphs_in
                yield element, is_mostly_links and not is_among_paragraphs

    def drop_headings_of_dropped(self) -> None:
        """Drop headings if all that is below them, before the next one of the same or a higher level, was dropped."""
        had_text, has_text = [False] * 7, [False] * 7
        for place in range(len(self.blocks) - 1, -1, -1):
            if not self.is_inside[place]:
                continue
            level = _LEVELS.get(self.blocks[place].element.tag)
            if level is None:
                had_text = [True] * 7
                has_text = [True] * 7 if self.is_kept[place] else has_text
            else:
                self.is_kept[place] &= has_text[level] or not had_text[level]
                had_text[level:] = has_text[level:] = [False] * (7 - level)

    def _drop(self, elements: Iterable[Element]) -> None:
        done = 0
        for element in elements:
            if element.start >= done:  # not in one that was dropped
                self.is_kept[element.start : element.stop] = [False] * (element.stop - element.start)
                done = element.stop


def _container(root: Element, text: list[int], data: list[int]) -> Element:
    """Return the deepest element that has most sentences of each element around it, and nearly all code and data."""
    found = root
    while _within(found, text) >= ENOUGH:
        candidates = [child for child in found.children if child.tag not in _NO_CONTAINERS]
        best = max(candidates, key=lambda child: _within(child, text), default=None)
        if best is None or _within(best, text) < CONTAINER_SHARE * _within(found, text):
            break
        if _within(found, data) - _within(best, data) >= SOME_DATA:
            break
        if _is_one_of_several(best, candidates, text):
            break
        found = best
    return found


def _is_one_of_several(longest: Element, candidates: list[Element], text: list[int]) -> bool:
    """Return whether an element is one of several posts, by the class that they share."""
    name = class_of(longest.attributes)
    if not name:
        return False
    others = [
        weight
        for other in candidates
        if other is not longest and other.tag == longest.tag and class_of(other.attributes) == name
        if (weight := _within(other, text))
    ]
    return len(others) > 1 or sum(others) >= ENOUGH


def _main_around(element: Element) -> Element | None:
    """Return the deepest `<main>` or `<article>` that an element is or is in."""
    around: Element | None = element
    while around is not None and around.tag not in ("main", "article") and 'role="main"' not in around.attributes:
        around = around.parent
    return around


def _long_texts_beside(container: Element, text: list[int]) -> list[Element]:
    """Return what else has sentences in the `<main>` or `<article>` around the container."""
    found: list[Element] = []
    inner, outer, in_article = container, container.parent, 0
    while outer is not None and inner.tag != "main":
        found += [child for child in outer.children if child is not inner and _within(child, text) >= ENOUGH]
        inner, outer = outer, outer.parent
        if inner.tag in ("main", "article"):
            in_article = len(found)
    return found[:in_article]


def _weight(text: str) -> int:
    return len(text) if text.isascii() else len(text) + 2 * len(_WIDE.findall(text))


def _reads_like_sentences(block: Block, weight: int) -> bool:
    tag = block.element.tag
    return (
        weight >= (PARAGRAPH_CHARACTERS if tag == "p" else SENTENCE_CHARACTERS)
        and block.link_share <= MOST_LINKS_IN_SENTENCES
        and tag not in ("figcaption", "pre")
        and (weight >= ENOUGH or _PUNCTUATION.search(block.text) is not None)
    )


def _is_code_or_data(block: Block) -> bool:
    element = block.element
    if element.tag == "pre":
        return True
    is_data = element.tag in ("dt", "dd") or (element.around.table is not None and element.around.table.is_of_lines)
    return is_data and block.link_share <= MOST_LINKS


def _has_nothing(element: Element, kind: int, text: list[int]) -> bool:
    """Return whether an element is dropped in any case, because it names itself so and no sentences are in it."""
    return kind in (FOOTER, ASIDE, BAR) and not _within(element, text)


def _of_kind(kind: int, elements: list[Element], text: list[int], weight: list[int]) -> list[Element]:
    """Return the elements that may be of the kind that they name."""
    found = [element for element in elements if _may_be(kind, element, text, weight)]
    if kind != COMMENTS or len(found) == len(elements):
        return found
    # the first post of a thread is a comment too, and as long as all others
    posts = {class_of(element.attributes) for element in elements if not _may_be(kind, element, text, weight)}
    return [element for element in found if class_of(element.attributes) not in posts]


def _may_be(kind: int, element: Element, text: list[int], weight: list[int]) -> bool:
    """Return whether an element may be of the kind that its name says, by what is in it."""
    sentences = _within(element, text)
    if kind in (FOOTER, COMMENTS):  # they may be longer than the text
        return text[-1] - sentences >= min(ENOUGH, text[-1] / 2)
    if kind in (ASIDE, BAR):
        return 2 * sentences <= text[-1] and (kind == ASIDE or sentences <= MOST_IN_BAR)
    return (
        element.tag not in _PARTS_OF_PAGE
        and 5 * sentences <= text[-1]
        and _within(element, weight) <= MOST_IN_CAPTION
        and (kind == CAPTION or sentences <= MOST_IN_DETAIL)
    )


Number = TypeVar("Number", int, float)


def _sums(values: Iterable[Number]) -> list[Number]:
    """Return sums of the first n values, for all n."""
    return list(accumulate(values, initial=0))


def _within(element: Element, sums: list[Number]) -> Number:
    return sums[element.stop] - sums[element.start]
