"""Normalisation layers."""

from __future__ import annotations

import torch
from torch import nn


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + epsilon) · weight, in fp32 inside.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, equation 4.
    """

    def __init__(self, hidden_size: int, epsilon: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size, dtype=dtype))
        self.epsilon = epsilon

    def forward(self, x_SBD: torch.Tensor) -> torch.Tensor:
        x32 = x_SBD.float()  # the mean of squares loses its small terms in bf16
        x32 = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.epsilon)
        return x32.to(x_SBD.dtype) * self.weight
