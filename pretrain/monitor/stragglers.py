"""Detection of nodes that are slower than the others.

In a synchronous run every rank has the same step time, because all wait for the slowest. Ranks differ in the time that
they spend in their own forward and backward passes. Ranks that do the same work are compared: those of one pipeline
stage over the data axis. With a data-parallel degree of one no other rank does the same work; then each rank is
compared with its own time at the first checks, so that a machine that becomes slow is found.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pretrain.launch.agreement import gathered
from pretrain.topology import Topology


class PassClock:
    """Measures the time that this rank spends in forward and backward passes."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with its time measured; on a GPU by events in the stream, as the call returns before the work is
        done."""

        def on_cpu(*arguments: Any, **settings: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **settings)
            finally:
                self._seconds += time.perf_counter() - started

        def on_gpu(*arguments: Any, **settings: Any) -> Any:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            try:
                return function(*arguments, **settings)
            finally:
                end.record()
                self._events.append((start, end))

        return on_gpu if torch.cuda.is_available() else on_cpu

    def take(self) -> float:
        """Seconds since the last call."""
        if self._events:
            torch.cuda.synchronize()
            self._seconds += sum(start.elapsed_time(end) for start, end in self._events) / 1000
            self._events.clear()
        seconds, self._seconds = self._seconds, 0.0
        return seconds


@dataclass(frozen=True)
class Straggler:
    """A tensor group, whose ranks share their pace, that is slower than the others.

    Attributes:
        hosts: nodes of the ranks.
        ratio: time of these ranks relative to that of the others.
    """

    ranks: tuple[int, ...]
    hosts: tuple[str, ...]
    ratio: float

    def __str__(self) -> str:
        nodes = " and ".join(self.hosts)
        return f"{nodes} (ranks {', '.join(map(str, self.ranks))}) takes {self.ratio:.2f} times as long as the rest"


def find_stragglers(
    seconds: Sequence[float],
    topology: Topology,
    hosts: Sequence[str],
    share: float,
    first: Sequence[float] | None = None,
) -> list[Straggler]:
    """Tensor groups that are slower than the others by more than `share`, slowest first.

    Args:
        seconds: time in passes, by rank.
        hosts: node of each rank.
        first: time in passes at the beginning, by rank; needed when the data-parallel degree is 1.
    """
    paces: dict[tuple[int, int], float] = {}
    members: dict[tuple[int, int], list[int]] = {}
    for rank in range(topology.world_size):
        coordinate = topology.coordinate(rank)
        members.setdefault((coordinate.pipe, coordinate.data), []).append(rank)
    for group, ranks in members.items():
        now = statistics.mean(seconds[rank] for rank in ranks)
        if topology.data == 1:
            if first is None:
                return []
            now /= max(statistics.mean(first[rank] for rank in ranks), 1e-9)
        paces[group] = now
    found = []
    for group, pace in paces.items():
        others = [
            value for other, value in paces.items() if other != group and (topology.data == 1 or other[0] == group[0])
        ]
        rest = statistics.median(others) if others else 0.0
        if rest > 0 and pace > (1 + share) * rest:
            slow = tuple(members[group])
            found.append(Straggler(slow, tuple(sorted({hosts[rank] for rank in slow})), pace / rest))
    return sorted(found, key=lambda straggler: -straggler.ratio)


EARLY_CHECKS = 3
"""Number of first checks whose median time a rank is compared with when no other rank does the same work."""


class StragglerWatch:
    """Compares the ranks from time to time, with the same result on every rank.

    A group is reported when it is slow at two checks in a row, so that short disturbances are ignored.
    """

    def __init__(self, clock: PassClock, topology: Topology, hosts: Sequence[str], share: float) -> None:
        self._clock = clock
        self._topology = topology
        self._hosts = hosts
        self._share = share
        self._early: list[list[float]] = []
        self._slow_before: set[tuple[int, ...]] = set()

    def check(self, steps: int) -> tuple[list[float], list[Straggler]]:
        """Seconds in passes per step, by rank, over the last `steps` steps, and the slow tensor groups. Collective."""
        seconds = gathered(self._clock.take() / max(steps, 1))
        found = []
        if self._topology.data > 1 or len(self._early) == EARLY_CHECKS:
            first = [statistics.median(values) for values in zip(*self._early, strict=True)]
            found = find_stragglers(seconds, self._topology, self._hosts, self._share, first)
        if len(self._early) < EARLY_CHECKS:
            self._early.append(seconds)
        again = [straggler for straggler in found if straggler.ranks in self._slow_before]
        self._slow_before = {straggler.ranks for straggler in found}
        return seconds, again
