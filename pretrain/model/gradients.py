"""Operations whose gradient is written by hand: autograd's would keep more in memory, or none would be exact."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F


class SwiGLU(torch.autograd.Function):
    """silu(gate) · up of [.., gate and up]. Keeps its input alone, and writes both gradients where they belong."""

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
    """A rotation's gradient is turned back by the same angle; nothing of the input is kept."""

    @staticmethod
    def forward(
        ctx: Any, x_SBHE: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        return _turned(x_SBHE, cos, sin, interleaved)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(grad_outputs[0], cos, -sin, ctx.interleaved), None, None, None


def _turned(x_SBHE: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> torch.Tensor:
    x32 = x_SBHE.float()
    turned = torch.empty_like(x32, memory_format=torch.contiguous_format)
    first, second = _pairs(x32, interleaved)
    new_first, new_second = _pairs(turned, interleaved)
    torch.mul(first, cos, out=new_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=new_second).addcmul_(first, sin)
    return turned.to(x_SBHE.dtype)


def _pairs(x: torch.Tensor, interleaved: bool) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1) if interleaved else x.chunk(2, dim=-1)
    return first, second


class GatherShared(torch.autograd.Function):
    """Put the ranks' slices of the last dim, of these sizes, together; backward sums what all ranks send back and takes
    its slice."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sizes: list[int], group: dist.ProcessGroup) -> torch.Tensor:
        ctx.sizes, ctx.group = sizes, group
        longest = max(sizes)
        padded = F.pad(x, (0, longest - x.shape[-1])).contiguous()  # collectives want slices of one size
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[..., :size] for part, size in zip(parts, sizes, strict=True)], dim=-1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        grad_whole = grad_outputs[0].float()  # fp32: as many terms as ranks are summed
        dist.all_reduce(grad_whole, group=ctx.group)
        return grad_whole.split(ctx.sizes, dim=-1)[ctx.group.rank()].to(grad_outputs[0].dtype), None, None
