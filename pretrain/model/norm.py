"""Normalisation layers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pretrain.config import ModelConfig


class _RMSNorm(torch.autograd.Function):
    """By hand: on a CPU, autograd's version of it reads and writes the activations twice as often."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        x32 = x.float()  # the mean of squares loses its small terms in bf16
        norms = torch.linalg.vector_norm(x32, dim=-1, keepdim=True)
        inverse = norms.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x32 * inverse).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        size = x.shape[-1]
        normed = x.float() * inverse
        gradient = upstream[0].float()
        product = (gradient * normed).view(-1, size)
        weight32 = weight.float()
        along = (product @ weight32).div_(size).view(inverse.shape)
        of_x = (gradient * weight32).addcmul_(normed, along, value=-1).mul_(inverse)
        return of_x.to(x.dtype), product.sum(0).to(weight.dtype), None


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + epsilon) · weight, in fp32 inside.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, equation 4.
    """

    def __init__(self, hidden_size: int, epsilon: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size, dtype=dtype))
        self.epsilon = epsilon

    def forward(self, x_SBD: torch.Tensor) -> torch.Tensor:
        if x_SBD.is_cuda:
            return F.rms_norm(x_SBD, self.weight.shape, self.weight, self.epsilon)  # one kernel
        result: torch.Tensor = _RMSNorm.apply(x_SBD, self.weight, self.epsilon)
        return result


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) · weight + bias; torch computes it in fp32 inside.

    Source: Ba et al. 2016, arXiv:1607.06450, equation 4. PaLM leaves the bias out (arXiv:2204.02311, section 2).
    """

    def __init__(self, hidden_size: int, epsilon: float, dtype: torch.dtype, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(hidden_size, dtype=dtype)) if bias else None
        self.epsilon = epsilon

    def forward(self, x_SBD: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x_SBD, self.weight.shape, self.weight, self.bias, self.epsilon)


def make_norm(config: ModelConfig, dtype: torch.dtype) -> nn.Module:
    """The norm that the model's settings name."""
    if config.norm == "rms":
        return RMSNorm(config.hidden_size, config.norm_epsilon, dtype)
    return LayerNorm(config.hidden_size, config.norm_epsilon, dtype, bias=config.norm == "layer")
