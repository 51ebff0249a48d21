"""Feed-forward layers, the inner size split over the tensor axis."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from pretrain.model.gradients import SwiGLU
from pretrain.model.linear import TensorParallel, product
from pretrain.model.plain import swiglu, uses_plain

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "swiglu": F.silu,
    "geglu": F.gelu,
    "geglu_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


class GatedMLP(nn.Module):
    """down(activation(gate(x)) · up(x)), with gate and up in one projection.

    Source: Shazeer 2020, arXiv:2002.05202, equation 6.
    """

    def __init__(
        self, hidden_size: int, feed_forward_size: int, activation: str, biases: bool, tensor_parallel: TensorParallel
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.gate_up = tensor_parallel.column(hidden_size, (feed_forward_size, feed_forward_size), biases)
        self.down = tensor_parallel.row(feed_forward_size, hidden_size, biases)

    def forward(self, x_SBD: torch.Tensor, keys_B: torch.Tensor | None = None) -> torch.Tensor:
        gate_up = product(self.gate_up, x_SBD, keys_B)
        if self.activation is F.silu:
            inner = swiglu(gate_up) if uses_plain(gate_up) else SwiGLU.apply(gate_up)
            return product(self.down, inner, keys_B)
        gate, up = gate_up.chunk(2, dim=-1)
        return product(self.down, self.activation(gate) * up, keys_B)


class MLP(nn.Module):
    """down(activation(up(x)))."""

    def __init__(
        self, hidden_size: int, feed_forward_size: int, activation: str, biases: bool, tensor_parallel: TensorParallel
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.up = tensor_parallel.column(hidden_size, (feed_forward_size,), biases)
        self.down = tensor_parallel.row(feed_forward_size, hidden_size, biases)

    def forward(self, x_SBD: torch.Tensor, keys_B: torch.Tensor | None = None) -> torch.Tensor:
        return product(self.down, self.activation(product(self.up, x_SBD, keys_B)), keys_B)
