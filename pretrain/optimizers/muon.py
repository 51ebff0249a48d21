"""Muon: steps of matrices along the nearest orthogonal ones, with ZeRO-1 and tensor parallelism.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks",
https://kellerjordan.github.io/posts/muon/; the size of its steps, with which it shares learning rate and weight decay
with AdamW: Liu et al. 2025, arXiv:2502.16982, section 2.2.

A step needs whole matrices, but ZeRO-1 gives each data rank a range of one flat buffer, and the tensor axis a part of
each matrix. So each data rank owns consecutive matrices, about as many elements as its range has. Ranges are exchanged
so that an owner has all of its matrices, which moves little, because most of them are in its range already. The owner's
tensor ranks gather each other's parts, compute the same steps, and keep their part. The momentum stays divided, as
AdamW's moments do. DeepSpeed's own Muon knows the data axis only: under tensor parallelism it would make the parts of a
matrix orthogonal, which is another optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist

from pretrain.model.partition import Partition

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of Newton-Schulz iterations that bring singular values close to one fast, not all the way (Jordan et al. 2024)."""
ITERATIONS = 5
STEP_RMS = 0.2
"""Root mean square of a step relative to the learning rate: about that of AdamW (arXiv:2502.16982, section 2.2)."""


def orthogonalised(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The orthogonal matrix nearest to this one, roughly, times the factor that gives it a root mean square of
    `STEP_RMS`; fp32.

    Args:
        dtype: data type of the products.
    """
    rows, columns = matrix.shape
    x = matrix / matrix.norm().clamp(min=torch.finfo(torch.float32).tiny)
    x = (x.T if rows > columns else x).to(dtype)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.float()
    return (x.T if rows > columns else x) * (STEP_RMS * max(rows, columns) ** 0.5)


@dataclass(frozen=True)
class Matrix:
    """A matrix of a group.

    Attributes:
        shape: shape of the whole matrix.
        partition: its split over the tensor axis; None: every tensor rank has all of it.
    """

    shape: tuple[int, ...]
    partition: Partition | None

    def shard_shape(self, rank: int, degree: int) -> tuple[int, ...]:
        """Shape of a tensor rank's part."""
        return self.shape if self.partition is None else self.partition.shard_shape(self.shape, rank, degree)

    def step(self, shards: Sequence[torch.Tensor], rank: int, dtype: torch.dtype) -> torch.Tensor:
        """A tensor rank's part of the step, from the parts of the direction. Blocks of a fused matrix, such as queries,
        keys and values, are matrices of their own."""
        if self.partition is None:
            return orthogonalised(shards[rank], dtype)
        whole = self.partition.merge(shards)
        blocks = [orthogonalised(block, dtype) for block in whole.split(self.partition.blocks, self.partition.dim)]
        return self.partition.shard(torch.cat(blocks, self.partition.dim), rank, len(shards))


class Exchange:
    """Brings the matrices of a group together, and their steps back. Collective over both axes.

    Args:
        matrices: matrices in the order of the flat buffer.
        part: elements of each data rank's range of the buffer, which is padded at its end.
    """

    def __init__(
        self, matrices: Sequence[Matrix], part: int, data_group: dist.ProcessGroup, tensor_group: dist.ProcessGroup
    ) -> None:
        self._data_group, self._tensor_group = data_group, tensor_group
        data, tensor, self._tensor_rank = data_group.size(), tensor_group.size(), tensor_group.rank()
        self._is_empty = not matrices
        owners = _owners([math.prod(matrix.shape) for matrix in matrices], data)
        self._own = [matrix for matrix, owner in zip(matrices, owners, strict=True) if owner == data_group.rank()]
        shapes = [[matrix.shard_shape(rank, tensor) for matrix in self._own] for rank in range(tensor)]
        self._shapes = shapes
        sizes = [math.prod(matrix.shard_shape(self._tensor_rank, tensor)) for matrix in matrices]
        owned = [sum(size for size, owner in zip(sizes, owners, strict=True) if owner == rank) for rank in range(data)]
        ends = list(accumulate(owned, initial=0))
        parts = [(min(rank * part, ends[-1]), min((rank + 1) * part, ends[-1])) for rank in range(data)]
        rank = data_group.rank()
        self._sent = [_overlap(parts[rank], (ends[other], ends[other + 1])) for other in range(data)]
        self._received = [_overlap(parts[other], (ends[rank], ends[rank + 1])) for other in range(data)]

    def steps(self, direction: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """This data rank's range of the matrices' steps, from its range of their directions; padding gets zeros."""
        if self._is_empty:
            return torch.zeros_like(direction)
        own = direction.new_empty(sum(self._received))
        count = sum(self._sent)
        self._exchange(own, direction[:count], self._received, self._sent)
        by_rank = self._shards_by_rank(own)
        steps = [
            matrix.step([shards[index] for shards in by_rank], self._tensor_rank, dtype).reshape(-1)
            for index, matrix in enumerate(self._own)
        ]
        found = torch.zeros_like(direction)
        self._exchange(found[:count], torch.cat([own[:0], *steps]), self._sent, self._received)
        return found

    def _exchange(
        self, output: torch.Tensor, given: torch.Tensor, output_sizes: list[int], given_sizes: list[int]
    ) -> None:
        if self._data_group.size() == 1:
            output.copy_(given)
        else:
            dist.all_to_all_single(output, given.contiguous(), output_sizes, given_sizes, group=self._data_group)

    def _shards_by_rank(self, own: torch.Tensor) -> list[list[torch.Tensor]]:
        """Each tensor rank's parts of the own matrices."""
        sizes = [[math.prod(shape) for shape in shapes] for shapes in self._shapes]
        if self._tensor_group.size() == 1 or not self._own:
            flats = [own] * len(sizes)
        else:
            longest = max(map(sum, sizes))  # parts differ where the degree does not divide the rows
            padded = torch.nn.functional.pad(own, (0, longest - len(own)))
            flats = [torch.empty_like(padded) for _ in sizes]
            dist.all_gather(flats, padded, group=self._tensor_group)
        return [
            [part.view(shape) for part, shape in zip(flat[: sum(some)].split(some), shapes, strict=True)]
            for flat, some, shapes in zip(flats, sizes, self._shapes, strict=True)
        ]


def _owners(sizes: Sequence[int], ranks: int) -> list[int]:
    """Owner of each matrix, ascending: the rank in whose equal share of all elements its middle is. By the sizes of
    whole matrices, so that all tensor ranks agree."""
    total, ends = sum(sizes), accumulate(sizes)
    return [(2 * end - size) * ranks // (2 * total) for end, size in zip(ends, sizes, strict=True)]


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> int:
    return max(0, min(one[1], other[1]) - max(one[0], other[0]))


class Muon(torch.optim.AdamW):
    """Muon for parameter groups with `is_orthogonalised`, AdamW for the others.

    Args:
        momentum: decay of the sum of gradients; the direction is Nesterov's.
        dtype: data type of the products of Muon's steps.
        adamw: settings of AdamW.

    Attributes:
        exchanges: by the flat buffer of the group.
    """

    def __init__(self, groups: Any, *, momentum: float, dtype: torch.dtype, **adamw: Any) -> None:
        super().__init__(groups, **adamw)
        self._momentum = momentum
        self._dtype = dtype
        self.exchanges: dict[torch.Tensor, Exchange] = {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["is_orthogonalised"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group["is_orthogonalised"]:
                self._step_of(group)

    def _step_of(self, group: dict[str, Any]) -> None:
        (weights,) = group["params"]
        gradient, state = weights.grad, self.state[weights]
        assert gradient is not None
        if not state:
            state["exp_avg"] = torch.zeros_like(weights, requires_grad=False)
        sums = state["exp_avg"]
        new_sums = gradient + self._momentum * sums
        step = self.exchanges[weights].steps(gradient + self._momentum * new_sums, self._dtype)
        rate = group["lr"]
        new_weights = weights * (1 - rate * group["weight_decay"]) - rate * step
        dropped = getattr(self, "found_inf", None)
        if dropped is not None:  # as AdamW's kernel does, without the host
            new_sums = torch.where(dropped > 0, sums, new_sums)
            new_weights = torch.where(dropped > 0, weights, new_weights)
        sums.copy_(new_sums)
        weights.copy_(new_weights)
