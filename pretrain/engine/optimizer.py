"""The optimizer inside DeepSpeed's ZeRO-1, its state, and what it has to know of the flat buffers that it updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from pretrain.checkpoint.read import BY_TOKEN
from pretrain.model.partition import Partition
from pretrain.optimizers.adafactor import Adafactor, Piece
from pretrain.optimizers.muon import Exchange, Matrix, Muon
from pretrain.optimizers.settings import OptimizerConfig


@dataclass(frozen=True)
class BufferedWeight:
    """A weight in a flat buffer.

    Attributes:
        name: global name; None: a placeholder.
        whole_shape: shape of the whole weight, padding rows included.
        shape: shape of this tensor rank's part.
        partition: its split over the tensor axis; None: replicated.
    """

    name: str | None
    whole_shape: tuple[int, ...]
    shape: tuple[int, ...]
    partition: Partition | None


def make_optimizer(settings: OptimizerConfig, groups: Any, dtype: torch.dtype) -> torch.optim.Optimizer:
    """The optimizer of a run; the learning rate is set before each step.

    Args:
        dtype: data type of the forward pass.
    """
    if settings.kind == "adafactor":
        return Adafactor(groups, lr=0.0, beta1=settings.beta1)
    adamw: dict[str, Any] = {
        "lr": 0.0,
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.epsilon,
        "fused": True,
    }
    if settings.kind == "muon":
        return Muon(groups, momentum=settings.momentum, dtype=dtype, **adamw)
    return torch.optim.AdamW(groups, **adamw)


def first_state(flat: torch.Tensor, group: dict[str, Any]) -> dict[str, torch.Tensor]:
    """State of a flat buffer before the first update."""
    state = {"exp_avg": torch.zeros_like(flat, requires_grad=False)}
    if not group["is_orthogonalised"]:
        state["exp_avg_sq"] = torch.zeros_like(flat, requires_grad=False)
        # fp32 on the parameter's device, as the fused implementation of AdamW requires
        state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
    return state


def tell_of_buffer(
    optimizer: torch.optim.Optimizer,
    group: dict[str, Any],
    contents: Sequence[BufferedWeight],
    vocabulary_size: int,
    data_group: dist.ProcessGroup,
    tensor_group: dist.ProcessGroup,
) -> None:
    """Tell the optimizer which weights are in a group's flat buffer, of which each data rank has an equal range.

    Args:
        contents: weights in the order of the buffer.
        vocabulary_size: real rows of weights with a row for each token.
    """
    (flat,) = group["params"]
    if isinstance(optimizer, Muon) and group["is_orthogonalised"]:
        matrices = [Matrix(weight.whole_shape, weight.partition) for weight in contents if weight.name is not None]
        optimizer.exchanges[flat] = Exchange(matrices, len(flat), data_group, tensor_group)
    elif isinstance(optimizer, Adafactor):
        optimizer.axes = data_group, tensor_group
        optimizer.pieces[flat] = _pieces(
            contents,
            vocabulary_size,
            data_group.rank() * len(flat),
            len(flat),
            tensor_group.rank(),
            tensor_group.size(),
        )


def _pieces(
    contents: Sequence[BufferedWeight], vocabulary_size: int, first: int, length: int, rank: int, degree: int
) -> list[Piece]:
    """The weights in the range [first, first + length) of the buffer."""
    found, offset = [], 0
    for weight in contents:
        size, real, whole = math.prod(weight.shape), math.prod(weight.shape), math.prod(weight.whole_shape)
        if weight.name in BY_TOKEN:
            width = math.prod(weight.shape[1:])
            whole = vocabulary_size * width
            real = min(max(vocabulary_size - rank * weight.shape[0], 0), weight.shape[0]) * width
        if weight.partition is None and rank:
            real = 0
        start, stop, counted = (min(max(offset + edge - first, 0), length) for edge in (0, size, real))
        found.append(Piece(start, stop, counted, whole))
        offset += size
    return found
