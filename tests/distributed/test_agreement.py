"""What only some ranks observe becomes known on all of them."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed as dist

from pretrain.launch.agreement import agreed, attempt, by_rank, differing_ranks, from_first_rank, gathered
from pretrain.launch.node_check import NodeError
from tests.distributed.processes import run_processes


def test_every_rank_knows_what_the_others_have() -> None:
    first, second, third = run_processes(3, everything)
    assert (
        first
        == second
        == third
        == {
            "gathered": [0, 10, 20],
            "first": 0,
            "differing": [1, 2],
            "failures": {1: "no room", 2: "no room"},
            "as a line": "rank 1: no room; rank 2: no room",
            "one node": "NodeError: n1: no room",
            "the first node": "ValueError: no room",
            "all nodes": "ValueError: no room",
            "nobody": "fine",
        }
    )


def everything() -> dict[str, Any]:
    rank = dist.get_rank()
    os.environ["SLURMD_NODENAME"] = f"n{min(rank, 1)}"  # ranks 1 and 2 share a node
    found: dict[str, Any] = {
        "gathered": gathered(10 * rank),
        "first": from_first_rank(rank),
        "differing": differing_ranks(min(rank, 1)),
    }
    result, failures = attempt(lambda: fail_on(1, 2), (OSError,))
    assert result == ("fine" if rank == 0 else None)
    found |= {"failures": failures, "as a line": by_rank(failures)}
    for name, ranks in (("one node", (1,)), ("the first node", (0,)), ("all nodes", (0, 2)), ("nobody", ())):
        try:
            found[name] = agreed(lambda ranks=ranks: fail_on(*ranks))
        except (ValueError, NodeError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def fail_on(*ranks: int) -> str:
    if dist.get_rank() in ranks:
        raise OSError("no room")
    return "fine"
