"""Adafactor as PaLM used it: AdamW's two moments in full, with steps relative to the size of each weight tensor.

Chowdhery et al. 2022, arXiv:2204.02311, section 5 ("Optimizer"): Adafactor without factorization, first moment 0.9,
second moment 1 - k^-0.8 at update k, learning rate times the root mean square of the tensor, weight decay of the
learning rate squared. The rest is Shazeer and Stern 2018, arXiv:1804.04235, algorithm 5: a step is clipped by its own
root mean square; and the first moment is that of the scaled steps, as in T5X, with which PaLM was trained.

Both root mean squares are of whole tensors, of which a rank has a part: their sums of squares are added over the data
and the tensor axis, two numbers a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

DECAY_EXPONENT = -0.8
"""Of the second moment (arXiv:1804.04235, section 7.2; PaLM)."""
SQUARE_EPSILON = 1e-30
"""Added to squared gradients (arXiv:1804.04235, epsilon 1)."""
SMALLEST_RMS = 1e-3
"""Smallest root mean square of a weight tensor that its steps are relative to (arXiv:1804.04235, epsilon 2)."""
LARGEST_STEP_RMS = 1.0
"""Root mean square to which a step is clipped before it is scaled (arXiv:1804.04235, d)."""


@dataclass(frozen=True)
class Piece:
    """A tensor's elements in this data rank's range of the flat buffer.

    Attributes:
        start, stop: half-open range of the buffer's range; empty if other ranks have all of it.
        counted: elements up to here count in the root mean squares: not those of padding rows, and of a replicated
            tensor those of the first tensor rank only.
        size: elements of the whole tensor, without padding rows.
    """

    start: int
    stop: int
    counted: int
    size: int


class Adafactor(torch.optim.Optimizer):
    """See the top of this file. `lr` is PaLM's learning rate, relative to the size of each tensor.

    Args:
        beta1: decay of the first moment.

    Attributes:
        pieces: tensors of each flat buffer, the same number in the same order on every rank that shares them.
        axes: groups over which they are divided.
    """

    def __init__(self, groups: Any, *, lr: float, beta1: float) -> None:
        super().__init__(groups, {"lr": lr})
        self._beta1 = beta1
        self.pieces: dict[torch.Tensor, Sequence[Piece]] = {}
        self.axes: tuple[dist.ProcessGroup, ...] = ()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weights in group["params"]:
                self._step_of(weights, group)

    def _step_of(self, weights: torch.Tensor, group: dict[str, Any]) -> None:
        state, gradient, pieces = self.state[weights], weights.grad, self.pieces[weights]
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=weights.device)
            state["exp_avg"] = torch.zeros_like(weights, requires_grad=False)
            state["exp_avg_sq"] = torch.zeros_like(weights, requires_grad=False)
        dropped = getattr(self, "found_inf", torch.zeros((), device=weights.device)) > 0
        count = state["step"] + 1
        second_decay = 1 - count**DECAY_EXPONENT
        square = gradient.square() + SQUARE_EPSILON
        second = second_decay * state["exp_avg_sq"] + (1 - second_decay) * square
        step = gradient * second.rsqrt()
        rms_weight, rms_step = self._root_mean_squares((weights, step), pieces)
        factors = group["lr"] * rms_weight.clamp(min=SMALLEST_RMS) / (rms_step / LARGEST_STEP_RMS).clamp(min=1.0)
        for piece, factor in zip(pieces, factors, strict=True):
            step[piece.start : piece.stop] *= factor
        first = self._beta1 * state["exp_avg"] + (1 - self._beta1) * step
        decay = group["lr"] ** 2 if group["weight_decay"] else 0.0
        new = {"exp_avg": first, "exp_avg_sq": second, "step": count}
        weights.copy_(torch.where(dropped, weights, weights * (1 - decay) - first))
        for name, values in new.items():
            state[name].copy_(torch.where(dropped, state[name], values))

    def _root_mean_squares(self, tensors: Sequence[torch.Tensor], pieces: Sequence[Piece]) -> torch.Tensor:
        """Root mean square of the whole tensors, [number of given tensors, number of pieces]."""
        squares = torch.zeros(len(tensors), len(pieces), dtype=torch.float64, device=tensors[0].device)
        for row, tensor in enumerate(tensors):
            for column, piece in enumerate(pieces):
                if piece.start < piece.counted:
                    squares[row, column] = tensor[piece.start : piece.counted].double().square().sum()
        for axis in self.axes:
            dist.all_reduce(squares, group=axis)
        sizes = torch.tensor([piece.size for piece in pieces], dtype=torch.float64, device=squares.device)
        return (squares / sizes).sqrt().float()
