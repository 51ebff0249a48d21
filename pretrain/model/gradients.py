"""Operations with hand-written gradients, where autograd's would need more memory or would not be exact."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F


class SwiGLU(torch.autograd.Function):
    """silu(gate) · up of [.., gate and up]. Saves only its input, and writes both gradients into one tensor."""

    @staticmethod
    def forward(ctx: Any, gate_up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
        torch.mul(grad_outputs[0], F.silu(gate), out=grad_up)
        grad_gate.copy_(torch.ops.aten.silu_backward(grad_outputs[0] * up, gate))
        return grad_gate_up


class Rotation(torch.autograd.Function):
    """Rotation of pairs; its gradient is rotated back by the same angle, and the input is not saved."""

    @staticmethod
    def forward(
        ctx: Any, x_SBHE: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        return _rotated(x_SBHE, cos, sin, interleaved)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _rotated(grad_outputs[0], cos, -sin, ctx.interleaved), None, None, None


def _rotated(x_SBHE: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> torch.Tensor:
    x32 = x_SBHE.float()
    rotated = torch.empty_like(x32, memory_format=torch.contiguous_format)
    first, second = _pairs(x32, interleaved)
    new_first, new_second = _pairs(rotated, interleaved)
    torch.mul(first, cos, out=new_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=new_second).addcmul_(first, sin)
    return rotated.to(x_SBHE.dtype)


def _pairs(x: torch.Tensor, interleaved: bool) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1) if interleaved else x.chunk(2, dim=-1)
    return first, second


class GatherShared(torch.autograd.Function):
    """Gather the ranks' slices of the last dim, of the given sizes; backward sums the gradients of all ranks and takes
    this rank's slice."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sizes: list[int], group: dist.ProcessGroup) -> torch.Tensor:
        ctx.sizes, ctx.group = sizes, group
        longest = max(sizes)
        padded = F.pad(x, (0, longest - x.shape[-1])).contiguous()  # collectives need slices of one size
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[..., :size] for part, size in zip(parts, sizes, strict=True)], dim=-1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        # fp32: the sum has a term for every rank. A copy, because it is written to, and without gaps, because the
        # collective would read and write what is between the rows of a view.
        grad_whole = grad_outputs[0].to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        dist.all_reduce(grad_whole, group=ctx.group)
        return grad_whole.split(ctx.sizes, dim=-1)[ctx.group.rank()].to(grad_outputs[0].dtype), None, None
