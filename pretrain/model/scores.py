"""Log-likelihoods of given tokens, with the vocabulary split over the tensor axis."""

from __future__ import annotations

import torch
import torch.distributed as dist

from pretrain.model.head_loss import rows_at_once
from pretrain.model.plain import soft_capped


def row_scores(
    x_SBD: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_SB: torch.Tensor,
    is_scored_SB: torch.Tensor,
    group: dist.ProcessGroup,
    vocabulary_size: int,
    logit_soft_cap: float | None,
) -> torch.Tensor:
    """Log-likelihood in nats of each row's scored targets, and the number of them that are not the likeliest token.

    Args:
        x_SBD: input of the head, the same on every tensor rank.
        weight_VD: this rank's rows of the head.
        targets_SB: global token ids.
        is_scored_SB: whether a target is scored; the logits of others are not computed.
        group: process group of the tensor axis.
        vocabulary_size: real entries; padding rows beyond it take no probability.
        logit_soft_cap: bound of the logits, see `plain.soft_capped`; None: none.

    Returns:
        fp64 [2, B], the same on every tensor rank.
    """
    scores = torch.zeros(2, *targets_SB.shape, dtype=torch.float64, device=x_SBD.device)
    likelihoods_N, is_likeliest_N = _token_scores(
        x_SBD[is_scored_SB], weight_VD, targets_SB[is_scored_SB], group, vocabulary_size, logit_soft_cap
    )
    scores[0, is_scored_SB] = likelihoods_N.double()
    scores[1, is_scored_SB] = (~is_likeliest_N).double()
    return scores.sum(1)


def _token_scores(
    x_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    group: dist.ProcessGroup,
    vocabulary_size: int,
    logit_soft_cap: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-likelihood of each target, fp32, and whether it is the likeliest token, the first one among equals.

    Source of the split: Shoeybi et al. 2019, arXiv:1909.08053, section 3.
    """
    size = len(weight_VD)
    first = group.rank() * size
    real = min(max(vocabulary_size - first, 0), size)
    likelihoods_N = torch.empty(len(x_ND), dtype=torch.float32, device=x_ND.device)
    is_likeliest_N = torch.empty(len(x_ND), dtype=torch.bool, device=x_ND.device)
    at_once = rows_at_once(x_ND.device.type, size * 4)
    for start in range(0, len(x_ND), at_once):
        some = slice(start, start + at_once)
        logits = soft_capped((x_ND[some] @ weight_VD.T).float(), logit_soft_cap)
        logits[:, real:] = float("-inf")
        own_maximum, likeliest = logits.max(1)
        likeliest += first
        maximum = own_maximum.clone()
        dist.all_reduce(maximum, op=dist.ReduceOp.MAX, group=group)
        likeliest.masked_fill_(own_maximum < maximum, torch.iinfo(torch.int64).max)
        dist.all_reduce(likeliest, op=dist.ReduceOp.MIN, group=group)
        targets = targets_N[some] - first
        is_here = (targets >= 0) & (targets < size)
        target = logits.gather(1, targets.masked_fill(~is_here, 0)[:, None])[:, 0].masked_fill(~is_here, 0.0)
        sums = torch.stack([(logits - maximum[:, None]).exp().sum(1), target])
        dist.all_reduce(sums, group=group)
        likelihoods_N[some] = sums[1] - sums[0].log() - maximum
        is_likeliest_N[some] = likeliest == targets_N[some]
    return likelihoods_N, is_likeliest_N
