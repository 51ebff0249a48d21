"""Check that weights which are replicated on several processes are bitwise equal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from pretrain.launch.agreement import gathered
from pretrain.model.partition import partition_of

CHUNK_ELEMENTS = 1 << 22
"""Elements of a tensor that a fingerprint processes at a time, so that it needs 64 MiB and not eight times the largest
weight."""


class ReplicaDriftError(RuntimeError):
    """A replicated weight differs between processes."""


@dataclass(frozen=True)
class Replica:
    """One rank's copy of a weight, or of a shard of it.

    Attributes:
        shard: tensor rank of the shard; None for a weight that is replicated on every tensor rank.
    """

    name: str
    shard: int | None
    fingerprint: int


def fingerprint(tensor: torch.Tensor) -> int:
    """A 64-bit sum of the tensor's bits, weighted by position: a single changed bit changes the sum.

    Computed in integers on the tensor's device, so that equal bits give equal sums on any hardware.
    """
    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    flat = tensor.detach().reshape(-1).view(bits)
    total = 0
    for start in range(0, flat.numel(), CHUNK_ELEMENTS):
        chunk = flat[start : start + CHUNK_ELEMENTS].to(torch.int64)
        # Odd factors, so that the product of a single flipped bit is never zero modulo 2^64.
        positions = torch.arange(start, start + chunk.numel(), device=chunk.device) * 2 + 1
        total += int((chunk * positions * -0x61C8864680B583EB).sum())
    return total % (1 << 64)


def find_drift(replicas_by_rank: Mapping[int, Iterable[Replica]]) -> list[str]:
    """A sentence for every weight whose copies differ.

    Copies have the same name and shard: all weights over the data axis, unsharded ones over the tensor axis, tied ones
    over the stages.
    """
    ranks: dict[tuple[str, int | None], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for rank, replicas in sorted(replicas_by_rank.items()):
        for replica in replicas:
            ranks[replica.name, replica.shard][replica.fingerprint].append(rank)
    found = []
    for (name, shard), by_fingerprint in ranks.items():
        if len(by_fingerprint) > 1:
            part = "" if shard is None else f", shard of tensor rank {shard}"
            groups = " | ".join(", ".join(map(str, group)) for group in by_fingerprint.values())
            found.append(f"{name}{part}: ranks {groups}")
    return found


def check_replicas(parameters: Iterable[tuple[str, torch.nn.Parameter]], tensor_rank: int, step: int) -> None:
    """Compare the copies of every weight over all processes. Collective.

    Raises:
        ReplicaDriftError: on every rank; names the weights, and groups the ranks that agree.
    """
    mine = [
        Replica(name, None if partition_of(parameter) is None else tensor_rank, fingerprint(parameter))
        for name, parameter in parameters
    ]
    drift = find_drift(dict(enumerate(gathered(mine))))
    if drift:
        shown = "\n  ".join(drift[:10]) + (f"\n  and {len(drift) - 10} more" if len(drift) > 10 else "")
        raise ReplicaDriftError(
            f"step {step}: {len(drift)} weights differ between processes that must have the same; ranks that agree are "
            f"grouped:\n  {shown}\nNothing was saved since. Continue from the newest checkpoint; if it happens again "
            "on the same ranks, suspect their hardware"
        )
