"""Which group of ranks is slower than others that do the same work."""

from __future__ import annotations

import pytest

from pretrain.monitor.stragglers import find_stragglers
from pretrain.topology import Topology


def test_a_slow_node_is_named_within_its_stage() -> None:
    topology = Topology(pipe=2, data=3, tensor=2)
    hosts = [f"n{rank // 2}" for rank in range(12)]
    seconds = [1.0] * 6 + [2.0] * 6  # the second stage has twice the work
    assert find_stragglers(seconds, topology, hosts, 0.25) == []
    seconds[8:10] = [2.8, 2.8]
    (found,) = find_stragglers(seconds, topology, hosts, 0.25)
    assert found.ranks == (8, 9) and found.hosts == ("n4",) and found.ratio == pytest.approx(1.4)
    assert str(found) == "n4 (ranks 8, 9) takes 1.40 times as long as the rest"
    assert find_stragglers(seconds, topology, hosts, 0.5) == []


def test_of_two_the_slower_one() -> None:
    (found,) = find_stragglers([1.0, 1.5], Topology(pipe=1, data=2, tensor=1), ["a", "b"], 0.25)
    assert found.hosts == ("b",)


def test_without_a_peer_each_is_held_to_its_own_first_pace() -> None:
    topology, hosts = Topology(pipe=4, data=1, tensor=1), list("abcd")
    first = [1.0, 2.0, 1.0, 3.0]
    assert find_stragglers([1.0, 2.0, 1.0, 3.0], topology, hosts, 0.25) == []  # nothing to hold them to
    assert find_stragglers([2.0, 4.0, 2.0, 6.0], topology, hosts, 0.25, first) == []  # all alike: a longer sequence
    (found,) = find_stragglers([1.0, 2.0, 1.6, 3.0], topology, hosts, 0.25, first)
    assert found.hosts == ("c",) and found.ratio == pytest.approx(1.6)


def test_one_process_has_nobody_to_be_compared_with() -> None:
    assert find_stragglers([9.0], Topology(pipe=1, data=1, tensor=1), ["a"], 0.25, [1.0]) == []
