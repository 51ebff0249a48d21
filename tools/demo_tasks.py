"""Instructions with one right answer, made by rule, for the chat model of the demo: it is asked others than it saw."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_WORDS = """
apple bird boat book bread cloud door field fish flower fruit garden glass green hill horse house island lake leaf light
moon mountain music orange paper rain river road salt sand sea silver snow star stone street sugar table tree
"""
WORDS = _WORDS.split()


@dataclass(frozen=True)
class Task:
    """A question of a kind, and its only right answer."""

    kind: str
    question: str
    answer: str


def _words(source: random.Random) -> list[str]:
    return source.sample(WORDS, source.randint(2, 3))


def _addends(source: random.Random) -> tuple[str, str]:
    """Two numbers of three digits whose sum has no carry."""
    sums = [source.randint(2, 9), source.randint(0, 9), source.randint(0, 9)]
    one = [source.randint(1, sums[0] - 1), *(source.randint(0, digit) for digit in sums[1:])]
    return "".join(map(str, one)), "".join(str(total - digit) for total, digit in zip(sums, one, strict=True))


def _repeat(source: random.Random) -> tuple[str, str]:
    words = " ".join(_words(source))
    return words, words


def _backwards(source: random.Random) -> tuple[str, str]:
    words = _words(source)
    return " ".join(words), " ".join(reversed(words))


def _first(source: random.Random) -> tuple[str, str]:
    words = _words(source)
    return " ".join(words), words[0]


def _second(source: random.Random) -> tuple[str, str]:
    words = _words(source)
    return " ".join(words), words[1]


def _last(source: random.Random) -> tuple[str, str]:
    words = _words(source)
    return " ".join(words), words[-1]


def _add(source: random.Random) -> tuple[str, str]:
    one, other = _addends(source)
    return f"{one} + {other}", str(int(one) + int(other))


def _largest(source: random.Random) -> tuple[str, str]:
    digits = f"{source.randint(0, 9999):04}"
    return digits, max(digits)


def _smallest(source: random.Random) -> tuple[str, str]:
    digits = f"{source.randint(0, 9999):04}"
    return digits, min(digits)


KINDS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "repeat": _repeat,
    "backwards": _backwards,
    "first": _first,
    "last": _last,
    "add": _add,
    "largest": _largest,
    "second": _second,
    "smallest": _smallest,
}
"""Kinds of tasks by name, with the function that draws what is given and the answer."""


def make_tasks(kinds: Iterable[str], count: int, asked: int, seed: int) -> tuple[list[Task], list[Task]]:
    """Draw tasks to train on, and others to ask.

    Args:
        count: of each kind to train on; fewer where a kind has not as many different ones.
        asked: of each kind to ask; none of their questions is trained on.
    """
    train: list[Task] = []
    held_out: list[Task] = []
    for kind in kinds:
        source = random.Random(f"{seed} {kind}")  # a kind's tasks do not depend on the other kinds
        drawn = (KINDS[kind](source) for _ in range(4 * (count + asked)))
        different = {given: Task(kind, f"{kind}: {given}", answer) for given, answer in drawn}
        tasks = list(different.values())
        held_out += tasks[:asked]
        train += tasks[asked : asked + count]
    random.Random(seed).shuffle(train)
    return train, held_out
