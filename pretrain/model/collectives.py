"""Collectives of the tensor and context axes that torch's compiler can follow, with their gradients.

megatron-core's own break a graph in two. These compute the same: Shoeybi et al. 2019, arXiv:1909.08053, section 3, and
with sequence parallelism Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.2. Positions are dim 0.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional


def summed(x: torch.Tensor, group: dist.ProcessGroup, operation: str = "sum") -> torch.Tensor:
    """The sum over the group, or "max" or "min", without a gradient."""
    return functional.wait_tensor(functional.all_reduce(x.contiguous(), operation, group))


def gathered(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The ranks' tensors one after the other along dim 0, without a gradient."""
    return functional.wait_tensor(functional.all_gather_tensor(x.contiguous(), 0, group))


def scattered(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """This rank's equal part along dim 0 of the sum over the group, without a gradient."""
    return functional.wait_tensor(functional.reduce_scatter_tensor(x.contiguous(), "sum", 0, group))


class SumGradients(torch.autograd.Function):
    """Input of a product whose outputs are split: unchanged; backward sums over the group."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        return summed(grad_outputs[0], ctx.group), None


class Sum(torch.autograd.Function):
    """Output of a product whose inputs are split: summed over the group."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        return summed(x, group)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad_outputs[0], None


class GatherPositions(torch.autograd.Function):
    """All positions from the ranks' shares; backward sums, and keeps this rank's share."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return gathered(x, group)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        return scattered(grad_outputs[0], ctx.group), None


class SumAndSplitPositions(torch.autograd.Function):
    """The sum over the group, of which a rank keeps its share of the positions; backward gathers them."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return scattered(x, group)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gathered(grad_outputs[0], ctx.group), None


class GatherHeads(torch.autograd.Function):
    """`gradients.GatherShared`, which does the same where nothing is compiled."""

    @staticmethod
    def forward(ctx: Any, x_SBE: torch.Tensor, sizes: list[int], group: dist.ProcessGroup) -> torch.Tensor:
        ctx.sizes, ctx.group = sizes, group
        padded = torch.nn.functional.pad(x_SBE, (0, max(sizes) - x_SBE.shape[-1]))
        parts = gathered(padded.unsqueeze(0), group).unbind(0)
        return torch.cat([part[..., :size] for part, size in zip(parts, sizes, strict=True)], dim=-1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        total = summed(grad_outputs[0].float(), ctx.group)
        return total.split(ctx.sizes, dim=-1)[ctx.group.rank()].to(grad_outputs[0].dtype), None, None
