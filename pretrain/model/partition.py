"""How a parameter is split over the tensor axis, independent of any process group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Partition:
    """A tensor that consists of consecutive `blocks` along `dim`, each split over the tensor axis.

    The parts of a fused projection are separate blocks: a rank's shard of query, key and value is its queries, then its
    keys, then its values, and the whole is all queries, all keys, all values, under any degree.

    Rank r of n has rows [b r / n, b (r + 1) / n) of a block of b rows, rounded down: one more on some ranks than on
    others where n does not divide b, as in the keys of a single head over 12 ranks.
    """

    dim: int
    blocks: tuple[int, ...]

    def check(self, name: str, degree: int) -> None:
        """Raise ValueError when a block is not divisible by the degree."""
        for block in self.blocks:
            if block % degree:
                raise ValueError(
                    f"{name}: a block of {block} along dim {self.dim} is not divisible by parallel.tensor={degree}"
                )

    def sizes(self, rank: int, degree: int) -> list[int]:
        """Rows of each block on this rank."""
        return [stop - start for start, stop in (_range(block, rank, degree) for block in self.blocks)]

    def shard_shape(self, shape: Sequence[int], rank: int, degree: int) -> tuple[int, ...]:
        """Shape of this rank's part of a tensor whose whole shape is `shape`."""
        shard = list(shape)
        shard[self.dim] = sum(self.sizes(rank, degree))
        return tuple(shard)

    def shard(self, whole: torch.Tensor, rank: int, degree: int) -> torch.Tensor:
        """This rank's part of the whole tensor."""
        parts = []
        for part in whole.split(self.blocks, self.dim):
            start, stop = _range(part.shape[self.dim], rank, degree)
            parts.append(part.narrow(self.dim, start, stop - start))
        return torch.cat(parts, self.dim)

    def overlaps(
        self, rank: int, degree: int, other: Partition, other_rank: int, other_degree: int
    ) -> list[tuple[int, int, int]]:
        """Ranges along `dim` that this rank's shard has in common with the shard of a rank under another degree: start
        in this shard, start in the other, and length. Blocks of `other` may differ in length by rows of padding."""
        found, before, before_there = [], 0, 0
        for block, block_there in zip(self.blocks, other.blocks, strict=True):
            here, there = _range(block, rank, degree), _range(block_there, other_rank, other_degree)
            start, stop = max(here[0], there[0]), min(here[1], there[1])
            if start < stop:
                found.append((before + start - here[0], before_there + start - there[0], stop - start))
            before += here[1] - here[0]
            before_there += there[1] - there[0]
        return found

    def merge(self, shards: Sequence[torch.Tensor]) -> torch.Tensor:
        """The whole tensor from the shards of all ranks in order; the inverse of `shard`."""
        degree = len(shards)
        split = [shard.split(self.sizes(rank, degree), self.dim) for rank, shard in enumerate(shards)]
        return torch.cat([parts[block] for block in range(len(self.blocks)) for parts in split], self.dim)


def _range(block: int, rank: int, degree: int) -> tuple[int, int]:
    start, stop = (block * edge // degree for edge in (rank, rank + 1))
    return start, stop


def mark_sharded(parameter: torch.nn.Parameter, dim: int, blocks: tuple[int, ...]) -> None:
    """Record the partition on the parameter, for checkpoints, and mark it as sharded for DeepSpeed's gradient norm,
    which counts an unmarked parameter on tensor rank 0 only."""
    parameter.partition = Partition(dim, blocks)  # type: ignore[attr-defined]
    parameter.tensor_model_parallel = True  # type: ignore[attr-defined]


def mark_partial(parameter: torch.nn.Parameter) -> None:
    """Record that each tensor rank has a part of a replicated parameter's gradient, also without sequence
    parallelism."""
    parameter.has_partial_gradient = True  # type: ignore[attr-defined]


def partition_of(parameter: torch.nn.Parameter) -> Partition | None:
    """The recorded partition; None for a parameter that is replicated on every tensor rank."""
    return getattr(parameter, "partition", None)
