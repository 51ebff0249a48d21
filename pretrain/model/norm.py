"""Normalisation layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pretrain.config import ModelConfig
from pretrain.model.cpu.rms_norm import FewPassesRMSNorm
from pretrain.model.plain import uses_plain


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + epsilon) · weight, computed in fp32.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, equation 4.
    """

    def __init__(self, hidden_size: int, epsilon: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size, dtype=dtype))
        self.epsilon = epsilon

    def forward(self, x_SBD: torch.Tensor) -> torch.Tensor:
        if uses_plain(x_SBD):
            return F.rms_norm(x_SBD, self.weight.shape, self.weight, self.epsilon)  # one kernel
        result: torch.Tensor = FewPassesRMSNorm.apply(x_SBD, self.weight, self.epsilon)
        return result


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) · weight + bias; torch computes it in fp32.

    Source: Ba et al. 2016, arXiv:1607.06450, equation 4. PaLM has no bias (arXiv:2204.02311, section 2).
    """

    def __init__(self, hidden_size: int, epsilon: float, dtype: torch.dtype, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(hidden_size, dtype=dtype)) if bias else None
        self.epsilon = epsilon

    def forward(self, x_SBD: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x_SBD, self.weight.shape, self.weight, self.bias, self.epsilon)


def make_norm(config: ModelConfig, dtype: torch.dtype) -> nn.Module:
    """The norm that `model.norm` names."""
    if config.norm == "rms":
        return RMSNorm(config.hidden_size, config.norm_epsilon, dtype)
    return LayerNorm(config.hidden_size, config.norm_epsilon, dtype, bias=config.norm == "layer")
