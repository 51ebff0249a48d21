"""Prefetching: a thread prepares batches while the model computes.

One thread is enough, without a worker process: preparing a batch copies a few windows from the page cache, and torch
releases the interpreter lock while it computes.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


class _End:
    pass


@dataclass(frozen=True)
class _Failure:
    error: BaseException


def prefetch(source: Iterator[T], ahead: int) -> Iterator[T]:
    """The items of `source`, in order; up to `ahead` of them are prepared in advance.

    The thread starts with the first request for an item, and ends when the iterator is closed or deleted. An error of
    the source is raised in place of the item that failed.
    """
    if ahead < 1:
        raise ValueError(f"ahead {ahead} must be positive")
    made: queue.Queue[T | _End | _Failure] = queue.Queue(ahead)
    stopped = threading.Event()

    def make() -> None:
        try:
            for item in source:
                made.put(item)
                if stopped.is_set():
                    return
            made.put(_End())
        except BaseException as error:
            made.put(_Failure(error))

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = made.get()
            if isinstance(item, _End):
                return
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stopped.set()
        while thread.is_alive():  # it may be waiting for room in the queue
            with contextlib.suppress(queue.Empty):
                made.get_nowait()
            thread.join(0.01)
