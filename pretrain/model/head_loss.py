"""Head and loss in one operation, with the vocabulary split over the tensor axis, and the terms that keep logits small.

The logits of a whole micro-batch are the largest tensor of a small model, and their fp32 copies are larger still. So
they are computed for some tokens at a time, and overwritten with their own gradient: the forward pass computes the
head's three products, and the backward pass only scales the results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist

from pretrain.model.collectives import summed
from pretrain.model.plain import soft_capped

LOGITS_BYTES = {"cpu": 1 << 26, "cuda": 1 << 30}
"""Bytes of logits in memory at a time, by kind of device. Less slows the head's products down; more only costs memory.
A GPU needs thousands of rows at a time to fill its multiprocessors."""
ROW_MULTIPLE = 128
"""Rows at a time are a multiple of this, the rows of a tile of a product on a GPU."""
ROW_BYTES = 1 << 20
"""Bytes that the softmax processes at a time on a CPU, so that they stay in the cache between its operations."""


@dataclass(frozen=True)
class LossSettings:
    """Settings of the loss that is minimised: (1 - s) · nll + s · u + z · log_z² + m · largest², each averaged over the
    tokens.

    nll is the negative log-likelihood of the target, u its mean over all entries of the vocabulary, log_z the logarithm
    of the softmax's denominator, largest the largest logit.

    Attributes:
        vocabulary_size: real entries; padding rows beyond it take no probability.
        label_smoothing: s (Szegedy et al. 2015, arXiv:1512.00567, section 7).
        z_loss: z (Chowdhery et al. 2022, PaLM, arXiv:2204.02311, section 5).
        maximum_z_loss: m (Yang et al. 2023, Baichuan 2, arXiv:2309.10305, section 2.3.2).
        largest_logit: fp32 [], raised in place to the largest logit, of real entries and tokens that count, whenever
            gradients are computed; None: not recorded.
        is_compiled: whether the passes over the logits are compiled, see `losses_and_gradient_plain`.
        logit_soft_cap: bound of the logits, see `plain.soft_capped`; all terms are of the capped ones; None: none.
    """

    vocabulary_size: int
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    maximum_z_loss: float = 0.0
    largest_logit: torch.Tensor | None = field(default=None, compare=False)
    is_compiled: bool = False
    logit_soft_cap: float | None = None


class HeadLoss(torch.autograd.Function):
    """The loss and its gradients. N tokens; V is this rank's slice of the padded vocabulary."""

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        targets_N: torch.Tensor,
        shares_N: torch.Tensor,
        group: dist.ProcessGroup,
        settings: LossSettings,
        wants_grad: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # The head may be frozen, or all that is trained.
        wants_grad_x, wants_grad_weight = (wants_grad and needed for needed in ctx.needs_input_grad[:2])
        grad_x = torch.empty_like(x_ND) if wants_grad_x else None
        grad_weight: torch.Tensor | None = None
        totals = torch.zeros(2, dtype=torch.float32, device=x_ND.device)
        at_once = rows_at_once(x_ND.device.type, len(weight_VD) * x_ND.element_size())
        buffer = x_ND.new_empty(min(at_once, len(x_ND)), len(weight_VD))
        for start in range(0, len(x_ND), at_once):
            some = slice(start, start + at_once)
            logits = torch.mm(x_ND[some], weight_VD.T, out=buffer[: len(x_ND[some])])
            compute = _compiled_losses_and_gradient if settings.is_compiled else losses_and_gradient
            totals += compute(logits, targets_N[some], shares_N[some], group, settings, wants_grad=wants_grad)
            if grad_x is not None:
                torch.mm(logits, weight_VD, out=grad_x[some])
            if not wants_grad_weight:
                continue
            if grad_weight is None:
                grad_weight = logits.T @ x_ND[some]
            elif grad_weight.dtype == logits.dtype == torch.float32:
                grad_weight.addmm_(logits.T, x_ND[some])
            else:  # summed in fp32: in bf16 each sum would round again
                grad_weight = grad_weight.float().add_(logits.T @ x_ND[some])
        ctx.save_for_backward(grad_x, None if grad_weight is None else grad_weight.to(weight_VD.dtype))
        loss, nll = totals
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # In place: the pipeline runs each backward once.
        grad_x, grad_weight = (None if grad is None else grad.mul_(grad_outputs[0]) for grad in ctx.saved_tensors)
        return grad_x, grad_weight, None, None, None, None, None


def rows_at_once(device: str, row_bytes: int) -> int:
    """Number of tokens whose logits are computed at a time."""
    rows = max(1, LOGITS_BYTES[device] // row_bytes)
    return max(rows // ROW_MULTIPLE, 1) * ROW_MULTIPLE if device == "cuda" else rows


def _compiled_losses_and_gradient(
    logits_NV: torch.Tensor,
    targets_N: torch.Tensor,
    shares_N: torch.Tensor,
    group: dist.ProcessGroup,
    settings: LossSettings,
    *,
    wants_grad: bool,
) -> torch.Tensor:
    """`losses_and_gradient`, compiled. On a GPU the compiler reads the logits twice and writes their gradient once."""
    weights = settings.label_smoothing, settings.z_loss, settings.maximum_z_loss
    totals, gradient_NV, largest = _plain_graph()(
        logits_NV, targets_N, shares_N, group, settings.vocabulary_size, *weights, settings.logit_soft_cap
    )
    if wants_grad:
        logits_NV.copy_(gradient_NV)
        if settings.largest_logit is not None:
            torch.maximum(settings.largest_logit, largest, out=settings.largest_logit)
    return totals


@lru_cache(maxsize=1)
def _plain_graph() -> Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    return torch.compile(losses_and_gradient_plain, fullgraph=True, dynamic=False)


def losses_and_gradient_plain(
    logits_NV: torch.Tensor,
    targets_N: torch.Tensor,
    shares_N: torch.Tensor,
    group: dist.ProcessGroup,
    vocabulary_size: int,
    label_smoothing: float,
    z_loss: float,
    maximum_z_loss: float,
    logit_soft_cap: float | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The formulas of `losses_and_gradient` without anything in place: loss and negative log-likelihood [2], gradient
    of the logits, and the largest logit at tokens that count."""
    size = logits_NV.shape[1]
    first = group.rank() * size
    columns = torch.arange(first, first + size, device=logits_NV.device)
    is_real = columns < vocabulary_size
    logits = soft_capped(logits_NV.float(), logit_soft_cap)
    masked = logits.masked_fill(~is_real, float("-inf"))
    maximum_N = masked.amax(1)
    largest_N = summed(maximum_N, group, "max") if group.size() > 1 else maximum_N
    exponentials = (masked - largest_N[:, None]).exp()
    on_target = columns == targets_N[:, None]
    sums = torch.stack([
        exponentials.sum(1), logits.masked_fill(~on_target, 0.0).sum(1), logits.masked_fill(~is_real, 0.0).sum(1)
    ])  # fmt: skip
    sum_N, target_N, logit_sum_N = summed(sums, group) if group.size() > 1 else sums
    log_z_N = sum_N.log() + largest_N
    nll_N = log_z_N - target_N
    smoothed_N = (1 - label_smoothing) * nll_N + label_smoothing * (log_z_N - logit_sum_N / vocabulary_size)
    loss_N = smoothed_N + z_loss * log_z_N.square() + maximum_z_loss * largest_N.square()
    totals = torch.stack([(loss_N * shares_N).sum(), (nll_N * shares_N).sum()])

    gradient = exponentials * (shares_N * (1 + 2 * z_loss * log_z_N) / sum_N)[:, None]
    gradient = gradient - torch.where(on_target, (shares_N * (1 - label_smoothing))[:, None], 0.0)
    if label_smoothing:
        gradient = gradient - torch.where(is_real, (shares_N * (label_smoothing / vocabulary_size))[:, None], 0.0)
    if maximum_z_loss:  # among equal logits the first gets the gradient, under any degree
        beyond = torch.iinfo(torch.int64).max
        place_N = torch.where(masked == largest_N[:, None], columns, beyond).amin(1)
        place_N = summed(place_N, group, "min") if group.size() > 1 else place_N
        on_largest_N1 = (2 * maximum_z_loss * largest_N * shares_N)[:, None]
        gradient = gradient + torch.where(columns == place_N[:, None], on_largest_N1, 0.0)
    if logit_soft_cap is not None:
        gradient = gradient * (1 - torch.tanh(logits_NV.float() / logit_soft_cap).square())
    largest = largest_N.masked_fill(shares_N == 0, float("-inf")).max()
    return totals, gradient.to(logits_NV.dtype), largest


def losses_and_gradient(
    logits_NV: torch.Tensor,
    targets_N: torch.Tensor,
    shares_N: torch.Tensor,
    group: dist.ProcessGroup,
    settings: LossSettings,
    *,
    wants_grad: bool,
) -> torch.Tensor:
    """The loss that is minimised and the negative log-likelihood alone, fp32 [2], each a sum over the tokens weighted
    by their shares. Overwrites the logits with their gradient."""
    size = logits_NV.shape[1]
    first = group.rank() * size
    real = min(max(settings.vocabulary_size - first, 0), size)
    rows = len(logits_NV) if logits_NV.is_cuda else max(1, ROW_BYTES // (4 * size))
    blocks = [slice(start, start + rows) for start in range(0, len(logits_NV), rows)]
    is_here = (targets_N >= first) & (targets_N < first + size)
    local_N1 = (targets_N - first).masked_fill(~is_here, 0).unsqueeze(-1)
    cap = settings.logit_soft_cap
    target_N = soft_capped(logits_NV.gather(1, local_N1).squeeze(1).float(), cap)
    # fp32 from here on, relative to the rank's own maximum, on which the ranks need not agree first.
    exponentials = logits_NV if logits_NV.dtype == torch.float32 else torch.empty_like(logits_NV, dtype=torch.float32)
    derivative = torch.empty_like(exponentials) if wants_grad and cap is not None else None
    maximum_N, sum_N, logit_sum_N = torch.zeros(3, len(logits_NV), dtype=torch.float32, device=logits_NV.device)
    place_N = torch.zeros_like(targets_N)
    for block in blocks:
        part = exponentials[block]
        if part.data_ptr() != logits_NV[block].data_ptr():
            part.copy_(logits_NV[block])
        if cap is not None:
            _cap_in_place(part, cap, None if derivative is None else derivative[block])
        if settings.label_smoothing:
            logit_sum_N[block] = part[:, :real].sum(1)
        # Padding rows have no token; left in, they would take probability from the real ones.
        part[:, real:] = float("-inf")
        if settings.maximum_z_loss:
            torch.max(part, 1, out=(maximum_N[block], place_N[block]))
        else:
            torch.amax(part, 1, out=maximum_N[block])
        # A slice of padding rows alone has the maximum -infinity.
        part.sub_(maximum_N[block].clamp(min=torch.finfo(torch.float32).min).unsqueeze(1)).exp_()
        torch.sum(part, 1, out=sum_N[block])
    largest_N = maximum_N
    own_N = torch.ones_like(maximum_N)
    place_N += first
    if group.size() > 1:
        largest_N = maximum_N.clone()
        dist.all_reduce(largest_N, op=dist.ReduceOp.MAX, group=group)
        own_N = (maximum_N - largest_N).exp()
        sums = torch.stack([sum_N * own_N, target_N.masked_fill(~is_here, 0.0), logit_sum_N])
        dist.all_reduce(sums, group=group)
        sum_N, target_N, logit_sum_N = sums
        if settings.maximum_z_loss:  # among equal logits the first gets the gradient, under any degree
            place_N.masked_fill_(maximum_N < largest_N, torch.iinfo(torch.int64).max)
            dist.all_reduce(place_N, op=dist.ReduceOp.MIN, group=group)
    log_z_N = sum_N.log() + largest_N
    nll_N = log_z_N - target_N
    smoothing, real_size = settings.label_smoothing, settings.vocabulary_size
    loss_N = nll_N
    if smoothing:
        loss_N = (1 - smoothing) * nll_N + smoothing * (log_z_N - logit_sum_N / real_size)
    loss_N = loss_N + settings.z_loss * log_z_N.square() + settings.maximum_z_loss * largest_N.square()
    totals = torch.stack([(loss_N * shares_N).sum(), (nll_N * shares_N).sum()])
    if not wants_grad:
        return totals
    if settings.largest_logit is not None:
        seen = largest_N.masked_fill(shares_N == 0, float("-inf")).max()
        torch.maximum(settings.largest_logit, seen, out=settings.largest_logit)

    factor_N = own_N * shares_N * (1 + 2 * settings.z_loss * log_z_N) / sum_N
    on_target_N = (shares_N * (smoothing - 1)).masked_fill(~is_here, 0.0)
    on_every_N = shares_N * (smoothing / real_size)
    place_N -= first
    is_largest_here = (place_N >= 0) & (place_N < size)
    on_largest_N = (2 * settings.maximum_z_loss * largest_N * shares_N).masked_fill(~is_largest_here, 0.0)
    place_N1 = place_N.masked_fill(~is_largest_here, 0).unsqueeze(1)
    for block in blocks:
        part = exponentials[block]
        part.mul_(factor_N[block].unsqueeze(1))
        part.scatter_add_(1, local_N1[block], on_target_N[block].unsqueeze(1))
        if smoothing:
            part[:, :real].sub_(on_every_N[block].unsqueeze(1))
        if settings.maximum_z_loss:
            part.scatter_add_(1, place_N1[block], on_largest_N[block].unsqueeze(1))
        if derivative is not None:
            part.mul_(derivative[block])
        if part.data_ptr() != logits_NV[block].data_ptr():
            logits_NV[block].copy_(part)
    return totals


def _cap_in_place(logits: torch.Tensor, cap: float, derivative: torch.Tensor | None) -> None:
    """Overwrite fp32 logits with cap · tanh(logits / cap), and `derivative` with that function's derivative."""
    logits.div_(cap).tanh_()
    if derivative is not None:
        torch.mul(logits, logits, out=derivative).neg_().add_(1)
    logits.mul_(cap)
