"""Feed-forward layers, the inner size split over the tensor axis."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pretrain.model.linear import TensorParallel


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)), gate and up in one projection.

    Source: Shazeer 2020, arXiv:2002.05202, equation 6.
    """

    def __init__(self, hidden_size: int, feed_forward_size: int, tensor_parallel: TensorParallel) -> None:
        super().__init__()
        self.gate_up = tensor_parallel.column(hidden_size, (feed_forward_size, feed_forward_size))
        self.down = tensor_parallel.row(feed_forward_size, hidden_size)

    def forward(self, x_SBD: torch.Tensor) -> torch.Tensor:
        gate_up, _ = self.gate_up(x_SBD)
        gate, up = gate_up.chunk(2, dim=-1)
        x, _ = self.down(F.silu(gate) * up)
        return x
