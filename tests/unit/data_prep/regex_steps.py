"""Counts the steps of a backtracking matcher: Python's own does not report them, and a clock depends on the machine.

The pattern is parsed by Python's `re`; each step tries one element at one position, as the C matcher does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

try:
    from re import _constants as constants  # type: ignore[attr-defined]
    from re import _parser as parser
except ImportError:  # Python 3.10
    import sre_constants as constants  # type: ignore[no-redef]
    import sre_parse as parser  # type: ignore[no-redef]


class TooManyStepsError(Exception):
    """More steps than are allowed."""


class StepCounter:
    """Count the steps of searching a text with a pattern from every place, as `finditer` does."""

    def __init__(self, pattern: re.Pattern[Any], most: int = 10**9) -> None:
        self.most = most
        self._pattern = pattern
        self._parsed = parser.parse(pattern.pattern, pattern.flags)
        self.steps = 0

    def search(self, text: str | bytes) -> int:
        """Steps of all searches, each from where the one before ended."""
        self.steps, place = 0, 0
        self._text = text
        self._one: dict[Any, Callable[[int], bool]] = {}
        while place <= len(text):
            found = next(self._match(list(self._parsed), 0, place, {}), None)
            place = max(place + 1, found or 0)
        return self.steps

    def _match(self, items: list[Any], index: int, place: int, groups: dict[int, tuple[int, int]]) -> Iterator[int]:
        """Ends of matches of items[index:] at a place, in the order in which they are tried."""
        if index == len(items):
            yield place
            return
        self.steps += 1
        if self.steps > self.most:
            raise TooManyStepsError
        operation, argument = items[index]
        name = str(operation)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, inner = argument
            ends = self._repeat(list(inner), least, int(most), place, groups, name == "MAX_REPEAT")
        elif name == "SUBPATTERN":
            number, _, _, inner = argument
            ends = self._group(number, list(inner), place, groups)
        elif name == "BRANCH":
            ends = (end for branch in argument[1] for end in self._match(list(branch), 0, place, groups))
        elif name in ("ASSERT", "ASSERT_NOT"):
            direction, inner = argument
            starts = [place] if direction > 0 else [place - inner.getwidth()[0]]
            found = any(
                next(self._match(list(inner), 0, start, groups), None) is not None for start in starts if start >= 0
            )
            ends = iter([place] if found == (name == "ASSERT") else [])
        elif name == "GROUPREF":
            start, stop = groups.get(argument, (0, 0))
            part = self._text[start:stop]
            ends = iter([place + len(part)] if self._text[place : place + len(part)] == part else [])
        elif name == "AT":
            ends = iter([place] if self._holds(items[index], place) else [])
        else:
            ends = iter([place + 1] if place < len(self._text) and self._fits(items[index], place) else [])
        for end in ends:
            yield from self._match(items, index + 1, end, groups)

    def _group(
        self, number: int | None, inner: list[Any], place: int, groups: dict[int, tuple[int, int]]
    ) -> Iterator[int]:
        for end in self._match(inner, 0, place, groups):
            if number is not None:
                groups[number] = (place, end)
            yield end

    def _repeat(
        self, inner: list[Any], least: int, most: int, place: int, groups: dict[int, tuple[int, int]], is_greedy: bool
    ) -> Iterator[int]:
        if len(inner) == 1 and str(inner[0][0]) in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            if not is_greedy:
                count = 0
                while count <= most:
                    if count >= least:
                        yield place + count
                    self.steps += 1
                    if place + count >= len(self._text) or not self._fits(inner[0], place + count):
                        return
                    count += 1
                return
            count = 0
            while count < most and place + count < len(self._text) and self._fits(inner[0], place + count):
                self.steps += 1
                count += 1
            for back in range(count, least - 1, -1):
                self.steps += 1
                yield place + back
            return
        if least <= 0 and not is_greedy:
            yield place
        if most > 0:
            for end in self._match(inner, 0, place, groups):
                if end > place or least > 0:
                    yield from self._repeat(inner, least - 1, most - 1, end, groups, is_greedy)
        if least <= 0 and is_greedy:
            yield place

    def _fits(self, item: Any, place: int) -> bool:
        key = repr(item)
        if key not in self._one:
            self._one[key] = self._compiled(item)
        return self._one[key](place)

    def _compiled(self, item: Any) -> Callable[[int], bool]:
        """Whether the character at a position matches, from a table of what `re` answered."""
        answers: dict[Any, bool] = {}
        name, argument = str(item[0]), item[1]
        flags = self._pattern.flags

        def fits(place: int) -> bool:
            unit = self._text[place : place + 1]
            if unit not in answers:
                code = ord(unit)
                if name == "ANY":
                    answers[unit] = bool(flags & re.DOTALL) or code != 10
                elif name in ("LITERAL", "NOT_LITERAL"):
                    same = chr(code).lower() == chr(argument).lower() if flags & re.I else code == argument
                    answers[unit] = same == (name == "LITERAL")
                else:
                    answers[unit] = _in_class(argument, unit, flags)
            return answers[unit]

        return fits

    def _holds(self, item: Any, place: int) -> bool:
        where, text, newline = str(item[1]), self._text, "\n" if isinstance(self._text, str) else b"\n"
        is_multiline = bool(self._pattern.flags & re.MULTILINE)
        if where in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
            return place == 0 or (is_multiline and where == "AT_BEGINNING" and text[place - 1 : place] == newline)
        if where == "AT_END_STRING":
            return place == len(text)
        if where == "AT_END":
            return (
                place == len(text) or text[place:] == newline or (is_multiline and text[place : place + 1] == newline)
            )
        around = [
            unit.isalnum() or unit in ("_", b"_") for unit in (text[max(place - 1, 0) : place], text[place : place + 1])
        ]
        return (around[0] != around[1]) == (where == "AT_BOUNDARY")


def _in_class(items: list[Any], unit: Any, flags: int) -> bool:
    code, found, is_negated = ord(unit), False, False
    for operation, argument in items:
        name = str(operation)
        if name == "NEGATE":
            is_negated = True
        elif name == "LITERAL":
            found |= code == argument or (bool(flags & re.I) and chr(code).lower() == chr(argument).lower())
        elif name == "RANGE":
            codes = {code, ord(chr(code).lower()), ord(chr(code).upper()[:1])} if flags & re.I else {code}
            found |= any(argument[0] <= one <= argument[1] for one in codes)
        else:
            category = {"SPACE": r"\s", "DIGIT": r"\d", "WORD": r"\w"}[name_of(argument)]
            pattern = category if isinstance(unit, str) else category.encode()
            matches = re.match(pattern, unit) is not None
            found |= matches != ("NOT" in str(argument))
    return found != is_negated


def name_of(category: Any) -> str:
    return str(category).rpartition("_")[2]


assert constants  # the parser's names come from there
