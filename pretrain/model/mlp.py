"""Feed-forward layers, the inner size split over the tensor axis."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pretrain.model.linear import TensorParallel

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "swiglu": F.silu,
    "geglu": F.gelu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


class _SwiGLU(torch.autograd.Function):
    """silu(gate) · up of [.., gate and up]. Keeps its input alone, and writes both gradients where they belong."""

    @staticmethod
    def forward(ctx: Any, gate_up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> torch.Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        gradient = torch.empty_like(gate_up)
        of_gate, of_up = gradient.chunk(2, dim=-1)
        torch.mul(upstream[0], F.silu(gate), out=of_up)
        of_gate.copy_(torch.ops.aten.silu_backward(upstream[0] * up, gate))
        return gradient


class GatedMLP(nn.Module):
    """down(activation(gate(x)) · up(x)), gate and up in one projection.

    Source: Shazeer 2020, arXiv:2002.05202, equation 6.
    """

    def __init__(
        self, hidden_size: int, feed_forward_size: int, activation: str, biases: bool, tensor_parallel: TensorParallel
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.gate_up = tensor_parallel.column(hidden_size, (feed_forward_size, feed_forward_size), biases)
        self.down = tensor_parallel.row(feed_forward_size, hidden_size, biases)

    def forward(self, x_SBD: torch.Tensor) -> torch.Tensor:
        gate_up, _ = self.gate_up(x_SBD)
        if self.activation is F.silu:
            x, _ = self.down(_SwiGLU.apply(gate_up))
            return x
        gate, up = gate_up.chunk(2, dim=-1)
        x, _ = self.down(self.activation(gate) * up)
        return x


class MLP(nn.Module):
    """down(activation(up(x)))."""

    def __init__(
        self, hidden_size: int, feed_forward_size: int, activation: str, biases: bool, tensor_parallel: TensorParallel
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.up = tensor_parallel.column(hidden_size, (feed_forward_size,), biases)
        self.down = tensor_parallel.row(feed_forward_size, hidden_size, biases)

    def forward(self, x_SBD: torch.Tensor) -> torch.Tensor:
        up, _ = self.up(x_SBD)
        x, _ = self.down(self.activation(up))
        return x
