"""Agreement between the ranks of a run: the same value, the same decision and the same error everywhere.

A rank that fails, stops or decides alone leaves the others waiting in their next collective. Every function here is a
collective: all ranks of the group call it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import torch.distributed as dist

from pretrain.launch.node_check import NodeError
from pretrain.launch.rendezvous import node_name

T = TypeVar("T")


def gathered(value: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """Each rank's value, in the order of the ranks.

    Args:
        group: the ranks that take part; None: all.
    """
    values: list[T | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return cast(list[T], values)


def from_first_rank(value: T) -> T:
    """Rank 0's value, on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def differing_ranks(value: object) -> list[int]:
    """Ranks whose value is not that of rank 0."""
    values = gathered(value)
    return [rank for rank, other in enumerate(values) if other != values[0]]


def require_equal(what: str, value: object) -> None:
    """Refuse to train when a rank was started with something else than rank 0.

    Raises:
        ValueError: on every rank; names the ranks and `what` differs.
    """
    different = differing_ranks(value)
    if different:
        raise ValueError(f"ranks {different} have another {what} than rank 0: give every node the same files")


def attempt(
    action: Callable[[], T], errors: tuple[type[Exception], ...], group: dist.ProcessGroup | None = None
) -> tuple[T, dict[int, str]]:
    """Run an action that can fail on some of the ranks only.

    Args:
        errors: the exceptions that count as failures; any other is raised at once.

    Returns:
        The action's result on this rank, and the error message of each rank on which it failed. The result is None
        where it failed, so check the failures first.
    """
    result: T | None = None
    failure: str | None = None
    try:
        result = action()
    except errors as error:
        failure = str(error)
    failures = {rank: message for rank, message in enumerate(gathered(failure, group)) if message is not None}
    return cast(T, result), failures


def by_rank(failures: Mapping[int, str]) -> str:
    """The failures of an `attempt` as one line."""
    return "; ".join(f"rank {rank}: {message}" for rank, message in failures.items())


def agreed(action: Callable[[], T]) -> T:
    """The action's result; when it fails on any rank, an error on all, so that none waits in vain.

    Raises:
        ValueError: the action raised a ValueError or OSError on some rank.
        NodeError: it failed on some nodes and not on that of rank 0, so that those nodes are at fault.
    """
    result, failures = attempt(action, (ValueError, OSError))
    if not failures:
        return result
    nodes = gathered(node_name())
    failed = {nodes[rank] for rank in failures}
    reason = "; ".join(sorted(set(failures.values())))
    # What one rank does for all, rank 0 does: a failure on its node alone does not mean that the node is at fault.
    if nodes[0] not in failed:
        raise NodeError(sorted(failed), reason)
    raise ValueError(reason)
