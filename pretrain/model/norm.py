"""Normalisation layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pretrain.config import ModelConfig
from pretrain.model.collectives import Sum, SumGradients
from pretrain.model.cpu.rms_norm import FewPassesRMSNorm
from pretrain.model.linear import TensorParallel
from pretrain.model.partition import Partition, mark_partial, mark_sharded
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


class SplitRMSNorm(nn.Module):
    """RMSNorm over a width that is split over the tensor axis, each rank with its part of the weight."""

    def __init__(self, width: int, epsilon: float, tensor_parallel: TensorParallel) -> None:
        super().__init__()
        (own,) = Partition(0, (width,)).sizes(tensor_parallel.rank, tensor_parallel.degree)
        self.weight = nn.Parameter(torch.empty(own, dtype=tensor_parallel.dtype))
        mark_sharded(self.weight, 0, (width,))
        self.width, self.epsilon, self.group = width, epsilon, tensor_parallel.group

    def forward(self, x_SBD: torch.Tensor) -> torch.Tensor:
        x32 = x_SBD.float()
        squares = x32.square().sum(-1, keepdim=True)
        if self.group.size() > 1:  # every rank uses the sum, so its gradient is a sum over the ranks too
            squares = SumGradients.apply(Sum.apply(squares, self.group), self.group)
        return (x32 * (squares / self.width + self.epsilon).rsqrt()).to(x_SBD.dtype) * self.weight


def make_head_norm(config: ModelConfig, heads: int, tensor_parallel: TensorParallel) -> nn.Module:
    """The norm of queries or keys that `model.query_key_norm` names."""
    if config.query_key_norm == "none":
        return nn.Identity()
    if config.query_key_norm == "all_heads":
        return SplitRMSNorm(heads * config.head_size, config.norm_epsilon, tensor_parallel)
    norm = RMSNorm(config.head_size, config.norm_epsilon, tensor_parallel.dtype)
    mark_partial(norm.weight)  # a rank applies it to its own heads only
    return norm


def make_norm(config: ModelConfig, dtype: torch.dtype) -> nn.Module:
    """The norm that `model.norm` names."""
    if config.norm == "rms":
        return RMSNorm(config.hidden_size, config.norm_epsilon, dtype)
    return LayerNorm(config.hidden_size, config.norm_epsilon, dtype, bias=config.norm == "layer")
