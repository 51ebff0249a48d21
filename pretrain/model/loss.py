"""Cross entropy with the vocabulary split over the tensor axis, and the terms that keep logits small."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist


class TokenLosses(NamedTuple):
    """Of each token, fp32 [S, B], the same on every tensor rank.

    Attributes:
        nll: negative log-likelihood, nats.
        log_z: logarithm of the softmax's denominator.
        largest_logit: over the real entries of the vocabulary.
    """

    nll: torch.Tensor
    log_z: torch.Tensor
    largest_logit: torch.Tensor


class _VocabularyParallelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits_SBV: torch.Tensor,
        targets_SB: torch.Tensor,
        group: dist.ProcessGroup,
        real_size: int,
        wants_largest: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ctx.set_materialize_grads(False)
        # A copy, also of fp32 logits: what follows works in place, and the caller's logits must survive it.
        logits = logits_SBV.to(torch.float32, copy=True)
        local_size = logits.shape[-1]
        first = group.rank() * local_size
        # Padding rows hold no token; left in, their weights would take probability from the real ones.
        if first + local_size > real_size:
            logits[..., max(real_size - first, 0) :] = float("-inf")
        maximum = logits.amax(dim=-1)
        place = logits.argmax(dim=-1) + first if wants_largest else None
        if group.size() > 1:
            own_maximum = maximum.clone()
            dist.all_reduce(maximum, op=dist.ReduceOp.MAX, group=group)
            if place is not None:  # of equal ones the first gets the gradient, under any degree
                place.masked_fill_(own_maximum < maximum, torch.iinfo(torch.int64).max)
                dist.all_reduce(place, op=dist.ReduceOp.MIN, group=group)
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
        ctx.save_for_backward(probabilities, local_targets, elsewhere, place)
        ctx.first, ctx.dtype = first, logits_SBV.dtype
        log_total = total.log()
        return log_total - target_logit, log_total + maximum, maximum

    @staticmethod
    def backward(ctx: Any, *output_gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        nll_SB, log_z_SB, largest_SB = output_gradients
        probabilities, local_targets, elsewhere, place = ctx.saved_tensors
        # In place: the pipeline runs each backward once, and a copy of the logits is the largest tensor there is.
        here = (~elsewhere).unsqueeze(-1).to(probabilities.dtype)
        if log_z_SB is None:
            probabilities.scatter_add_(-1, local_targets, -here)
            probabilities.mul_(nll_SB.unsqueeze(-1))
        else:
            probabilities.mul_((nll_SB + log_z_SB).unsqueeze(-1))
            probabilities.scatter_add_(-1, local_targets, -here * nll_SB.unsqueeze(-1))
        if largest_SB is not None:
            local_place = place - ctx.first
            is_elsewhere = (local_place < 0) | (local_place >= probabilities.shape[-1])
            gradient = largest_SB.masked_fill(is_elsewhere, 0.0).unsqueeze(-1)
            probabilities.scatter_add_(-1, local_place.masked_fill(is_elsewhere, 0).unsqueeze(-1), gradient)
        return probabilities.to(ctx.dtype), None, None, None, None


def token_losses(
    logits_SBV: torch.Tensor,
    targets_SB: torch.Tensor,
    group: dist.ProcessGroup,
    vocabulary_size: int,
    *,
    wants_largest: bool = True,
) -> TokenLosses:
    """What the losses are made of, with the vocabulary split over the tensor axis.

    Args:
        logits_SBV: this rank's slice of the padded vocabulary, any float dtype; reduced in fp32.
        targets_SB: global token ids, int64, the same on every tensor rank.
        group: the process group of the tensor axis.
        vocabulary_size: real entries; padding rows beyond it take no probability.
        wants_largest: the largest logit will be differentiated.

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
    return TokenLosses(
        *_VocabularyParallelCrossEntropy.apply(logits_SBV, targets_SB, group, vocabulary_size, wants_largest)
    )


def vocabulary_parallel_cross_entropy(
    logits_SBV: torch.Tensor, targets_SB: torch.Tensor, group: dist.ProcessGroup, vocabulary_size: int
) -> torch.Tensor:
    """Negative log-likelihood of each token, in nats, fp32 [S, B], the same on every tensor rank; neither masked nor
    averaged. Arguments and errors as of `token_losses`."""
    return token_losses(logits_SBV, targets_SB, group, vocabulary_size, wants_largest=False).nll


def mean_loss(
    logits_SBV: torch.Tensor,
    targets_SB: torch.Tensor,
    weights_SB: torch.Tensor | None,
    group: dist.ProcessGroup,
    vocabulary_size: int,
    z_loss: float = 0.0,
    maximum_z_loss: float = 0.0,
) -> torch.Tensor:
    """The number that is minimised: mean negative log-likelihood, plus z_loss · mean(log_z²) as in PaLM and
    maximum_z_loss · mean(largest_logit²) as in Baichuan 2. Without gradients, in evaluation, the first term alone.

    Args:
        weights_SB: of each token; 0 where nothing is predicted. They sum to one in each sample, and the mean is over
            samples: a sum of token losses divided by their number in a micro-batch would weigh a token by its
            neighbours, differently under each topology. All tokens alike when left out.

    Sources: Chowdhery et al. 2022, arXiv:2204.02311, section 5; Yang et al. 2023, arXiv:2309.10305, section 2.3.2.
    """

    def mean(values_SB: torch.Tensor) -> torch.Tensor:
        if weights_SB is None:
            return values_SB.mean()
        return (values_SB * weights_SB).sum() / values_SB.shape[1]

    parts = token_losses(logits_SBV, targets_SB, group, vocabulary_size, wants_largest=maximum_z_loss > 0)
    loss = mean(parts.nll)
    if torch.is_grad_enabled():
        if z_loss:
            loss = loss + z_loss * mean(parts.log_z.square())
        if maximum_z_loss:
            loss = loss + maximum_z_loss * mean(parts.largest_logit.square())
    return loss
