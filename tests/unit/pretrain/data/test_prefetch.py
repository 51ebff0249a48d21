"""Batches made ahead: the same batches, in time, and no thread left running."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pretrain.data.prefetch import prefetch


def prefetching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("ahead", [1, 3, 1000])
def test_the_same_items_in_the_same_order(ahead: int) -> None:
    assert list(prefetch(iter(range(200)), ahead)) == list(range(200))
    assert not prefetching()


def test_the_next_items_are_made_while_nobody_asks_and_no_more() -> None:
    made: list[int] = []
    ready, released = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            if i == 5:
                ready.set()
                released.wait(60)
            yield i

    items = prefetch(source(), 4)
    assert next(items) == 0
    # 0 is taken, 1 to 4 lie in the queue, and 5 is being made: all of it without another call.
    assert ready.wait(60), f"only {made} were made"
    released.set()
    assert made == [0, 1, 2, 3, 4, 5]
    assert [next(items) for _ in range(5)] == [1, 2, 3, 4, 5]


def test_an_error_comes_at_its_place() -> None:
    def source() -> Iterator[int]:
        yield from range(3)
        raise ValueError("sample 3 is damaged")

    items = prefetch(source(), 10)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="sample 3 is damaged"):
        next(items)
    assert not prefetching()


def test_forgotten_or_closed_the_thread_ends() -> None:
    def source() -> Iterator[int]:
        i = 0
        while True:
            yield i
            i += 1

    items = prefetch(source(), 2)
    next(items)
    assert len(prefetching()) == 1
    del items
    assert not prefetching()
    with pytest.raises(ValueError, match="ahead 0 must be positive"):
        next(prefetch(source(), 0))
