"""Context parallelism: a sample's tokens are divided over ranks, and attention gathers the keys and values of all.

A rank's tokens are two chunks of 2C, its own and the same one counted from the end, so that under a causal mask every
rank computes as many scores (Llama 3, arXiv:2407.21783, section 3.3.2, which also gathers: with fewer key/value heads
than query heads they are the smallest tensors of a layer). Everything else in a layer is computed token by token.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from pretrain.model.collectives import gathered, scattered


class ContextParallel:
    """The share of a sample's tokens that this rank has.

    Args:
        group: process group of the context axis; None: each rank has whole samples.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.degree = 1 if group is None else group.size()
        self.rank = 0 if group is None else group.rank()

    def own(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """This rank's share of all positions along `dim`, whose number is a multiple of 2C."""
        if self.degree == 1:
            return x
        chunks = x.chunk(2 * self.degree, dim)
        return torch.cat([chunks[self.rank], chunks[-1 - self.rank]], dim)

    def places(self, length: int, device: torch.device) -> torch.Tensor:
        """Place in the sample of each of this rank's `length` tokens, int64."""
        places = torch.arange(length, device=device)
        if self.degree == 1:
            return places
        half = length // 2
        return places + torch.where(places < half, self.rank, 2 * (self.degree - 1) - self.rank) * half

    def whole(self, *parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tensors of all positions from the ranks' shares of them, in the sample's order; positions are dim 0."""
        if self.group is None or self.degree == 1:
            return parts
        sizes = [part.shape[-1] for part in parts]
        gathered_parts: tuple[torch.Tensor, ...] = _Gather.apply(torch.cat(parts, -1), self.group).split(sizes, -1)
        return gathered_parts


class _Gather(torch.autograd.Function):
    """All positions, in order, from the ranks' two chunks each; backward sums the gradients of all ranks, in fp32, and
    keeps this rank's chunks."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        chunks = gathered(x, group).chunk(2 * group.size())
        return torch.cat([*chunks[::2], *chunks[::-2]])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        degree = ctx.group.size()
        chunks = grad_outputs[0].float().chunk(2 * degree)
        by_rank = torch.cat([chunk for rank in range(degree) for chunk in (chunks[rank], chunks[-1 - rank])])
        return scattered(by_rank, ctx.group).to(grad_outputs[0].dtype), None
