"""Cross entropy with the vocabulary split over the tensor axis."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


class _VocabularyParallelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_SBV: torch.Tensor, targets_SB: torch.Tensor, group: dist.ProcessGroup, real_size: int
    ) -> torch.Tensor:
        # A copy, also of fp32 logits: what follows works in place, and the caller's logits must survive it.
        logits = logits_SBV.to(torch.float32, copy=True)
        local_size = logits.shape[-1]
        first = group.rank() * local_size
        # Padding rows hold no token; left in, their weights would take probability from the real ones.
        if first + local_size > real_size:
            logits[..., max(real_size - first, 0) :] = float("-inf")
        maximum = logits.amax(dim=-1)
        if group.size() > 1:
            dist.all_reduce(maximum, op=dist.ReduceOp.MAX, group=group)
        logits.sub_(maximum.unsqueeze(-1))
        local_targets = targets_SB - first
        elsewhere = (local_targets < 0) | (local_targets >= local_size)
        local_targets = local_targets.masked_fill(elsewhere, 0).unsqueeze(-1)
        target_logit = logits.gather(-1, local_targets).squeeze(-1).masked_fill(elsewhere, 0.0)
        probabilities = logits.exp_()
        sums = torch.stack([probabilities.sum(dim=-1), target_logit])
        if group.size() > 1:
            dist.all_reduce(sums, group=group)
        total, target_logit = sums
        probabilities.div_(total.unsqueeze(-1))
        ctx.save_for_backward(probabilities, local_targets, elsewhere)
        ctx.dtype = logits_SBV.dtype
        return total.log() - target_logit

    @staticmethod
    def backward(ctx: Any, *output_gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient_SB,) = output_gradients
        probabilities, local_targets, elsewhere = ctx.saved_tensors
        # In place: the pipeline runs each backward once, and a copy of the logits is the largest tensor there is.
        here = (~elsewhere).unsqueeze(-1).to(probabilities.dtype)
        probabilities.scatter_add_(-1, local_targets, -here)
        probabilities.mul_(gradient_SB.unsqueeze(-1))
        return probabilities.to(ctx.dtype), None, None, None


def vocabulary_parallel_cross_entropy(
    logits_SBV: torch.Tensor, targets_SB: torch.Tensor, group: dist.ProcessGroup, vocabulary_size: int
) -> torch.Tensor:
    """Negative log-likelihood of each token, in nats, with the vocabulary split over the tensor axis.

    Args:
        logits_SBV: this rank's slice of the padded vocabulary, any float dtype; reduced in fp32.
        targets_SB: global token ids, int64, the same on every tensor rank.
        group: the process group of the tensor axis.
        vocabulary_size: real entries; padding rows beyond it take no probability.

    Returns:
        fp32 [S, B], the same on every tensor rank; neither masked nor averaged.

    Raises:
        ValueError: a target lies outside the vocabulary.

    Source: Shoeybi et al. 2019, arXiv:1909.08053, section 3.
    """
    if not torch.cuda.is_available() and targets_SB.numel():  # on a GPU the look would stall the stream
        largest, smallest = int(targets_SB.max()), int(targets_SB.min())
        if smallest < 0 or largest >= vocabulary_size:
            raise ValueError(
                f"a target token is {smallest if smallest < 0 else largest}, "
                f"outside the vocabulary of {vocabulary_size} entries"
            )
    result: torch.Tensor = _VocabularyParallelCrossEntropy.apply(logits_SBV, targets_SB, group, vocabulary_size)
    return result
