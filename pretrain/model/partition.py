"""How a parameter is cut over the tensor axis, independent of any process group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Partition:
    """A tensor made of `blocks` that lie one after the other along `dim`, each cut evenly over the tensor axis.

    A fused projection keeps its parts apart: rows of query, key and value are three blocks, so a rank's shard is its
    queries, then its keys, then its values, and the whole is all queries, all keys, all values, under any degree.
    """

    dim: int
    blocks: tuple[int, ...]

    def check(self, name: str, degree: int) -> None:
        """Raise ValueError when a block does not divide by the degree."""
        for block in self.blocks:
            if block % degree:
                raise ValueError(
                    f"{name}: a block of {block} along dim {self.dim} does not divide by parallel.tensor={degree}"
                )

    def shard_shape(self, shape: Sequence[int], degree: int) -> tuple[int, ...]:
        shard = list(shape)
        shard[self.dim] //= degree
        return tuple(shard)

    def shard(self, whole: torch.Tensor, rank: int, degree: int) -> torch.Tensor:
        """This rank's part of the whole tensor."""
        parts = whole.split(self.blocks, self.dim)
        return torch.cat([part.chunk(degree, self.dim)[rank] for part in parts], self.dim)

    def overlaps(self, rank: int, degree: int, other_rank: int, other_degree: int) -> list[tuple[int, int, int]]:
        """What this rank's shard has in common with that of another degree: where a stretch begins along `dim` here,
        where it begins there, and how long it is."""
        found, first = [], 0
        for block in self.blocks:
            here, there = block // degree, block // other_degree
            start = max(rank * here, other_rank * there)
            length = min((rank + 1) * here, (other_rank + 1) * there) - start
            if length > 0:
                before = first // degree, first // other_degree
                found.append((before[0] + start - rank * here, before[1] + start - other_rank * there, length))
            first += block
        return found

    def merge(self, shards: Sequence[torch.Tensor]) -> torch.Tensor:
        """The whole tensor from the shards of all ranks in order; the inverse of `shard`."""
        degree = len(shards)
        local_blocks = [block // degree for block in self.blocks]
        split = [shard.split(local_blocks, self.dim) for shard in shards]
        return torch.cat([parts[block] for block in range(len(self.blocks)) for parts in split], self.dim)


def mark_sharded(parameter: torch.nn.Parameter, dim: int, blocks: tuple[int, ...]) -> None:
    """Record the partition on the parameter, where checkpoints find it, and tell DeepSpeed's gradient norm that every
    tensor rank holds another part: an unmarked parameter is counted on tensor rank 0 only."""
    parameter.partition = Partition(dim, blocks)  # type: ignore[attr-defined]
    parameter.tensor_model_parallel = True  # type: ignore[attr-defined]


def partition_of(parameter: torch.nn.Parameter) -> Partition | None:
    """The recorded partition; None for a parameter that every tensor rank holds whole."""
    return getattr(parameter, "partition", None)
