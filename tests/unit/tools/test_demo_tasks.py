"""The tasks of the demo: each has the right answer, and none that is asked is trained on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.console import Console

from tools.demo_chat import Answered, summarise
from tools.demo_tasks import KINDS, Task, make_tasks

RIGHT: dict[str, Callable[[str], str]] = {
    "repeat": lambda words: words,
    "backwards": lambda words: " ".join(words.split()[::-1]),
    "first": lambda words: words.split()[0],
    "second": lambda words: words.split()[1],
    "last": lambda words: words.split()[-1],
    "add": lambda numbers: str(sum(map(int, numbers.split(" + ")))),
    "largest": lambda digits: str(max(map(int, digits))),
    "smallest": lambda digits: str(min(map(int, digits))),
}


def test_every_answer_is_right() -> None:
    train, asked = make_tasks(KINDS, 300, 20, seed=1)
    assert {task.kind for task in train} == {task.kind for task in asked} == RIGHT.keys()
    assert len(asked) == 20 * len(RIGHT)
    for task in [*train, *asked]:
        what, given = task.question.split(": ")
        assert what == task.kind and RIGHT[what](given) == task.answer, task


def test_what_is_asked_is_not_trained_on() -> None:
    train, asked = make_tasks(KINDS, 900, 40, seed=1)
    seen = {task.question for task in train}
    assert len(seen) == len(train) == 900 * len(RIGHT)
    assert not seen & {task.question for task in asked}
    assert make_tasks(KINDS, 900, 40, seed=1) == (train, asked)
    assert make_tasks(KINDS, 900, 40, seed=2)[1] != asked
    some, few = make_tasks(("add", "first"), 900, 40, seed=1)
    assert few == [task for task in asked if task.kind == "add"] + [task for task in asked if task.kind == "first"]
    assert {task.question for task in some} <= seen, "the tasks of a kind do not depend on the other kinds"


@pytest.mark.parametrize(("wrong", "code"), [(0, 0), (1, 0), (2, 1)])
def test_too_few_right_answers_fail_the_demo(wrong: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = [Answered(Task("first", "first: a b", "a"), "a" if place >= wrong else "b") for place in range(10)]
    assert summarise(Console(width=200), {"all weights": found}) == code
    out = capsys.readouterr().out
    assert f"{10 * (10 - wrong)}%" in out
    assert ("(right: a)" in out) == (wrong > 0)
    assert ("less than 90% of the answers are right" in out) == bool(code)
