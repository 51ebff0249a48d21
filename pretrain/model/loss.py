"""The loss that a step minimises."""

from __future__ import annotations

import torch
import torch.distributed as dist

from pretrain.model.head_loss import HeadLoss, LossSettings

__all__ = ("LossSettings", "mean_loss")


def mean_loss(
    x_SBD: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_SB: torch.Tensor,
    weights_SB: torch.Tensor | None,
    group: dist.ProcessGroup,
    settings: LossSettings,
) -> torch.Tensor:
    """The loss that is minimised, for the logits x · weightᵀ; in evaluation, without gradients, the mean negative
    log-likelihood alone, in nats. fp32, the same on every tensor rank.

    Args:
        x_SBD: input of the head, the same on every tensor rank; its gradient is this rank's part of a sum.
        weight_VD: this rank's rows of the head.
        targets_SB: global token ids, int64, the same on every tensor rank.
        weights_SB: weight of each token, 0 where nothing is predicted. Over a global batch they sum to its number of
            samples, so that the mean over micro-batches and ranks is the mean over all targets that count, see
            `pretrain/data/weights.py`. None: every token has the weight 1 / S.
        group: the process group of the tensor axis.

    Raises:
        ValueError: a target is outside the vocabulary.

    Source of the split: Shoeybi et al. 2019, arXiv:1909.08053, section 3.
    """
    if not torch.cuda.is_available() and targets_SB.numel():  # on a GPU this check would stall the stream
        largest, smallest = int(targets_SB.max()), int(targets_SB.min())
        if smallest < 0 or largest >= settings.vocabulary_size:
            raise ValueError(
                f"a target token is {smallest if smallest < 0 else largest}, "
                f"outside the vocabulary of {settings.vocabulary_size} entries"
            )
    if weights_SB is None:
        shares_SB = torch.full(targets_SB.shape, 1 / targets_SB.numel(), dtype=torch.float32, device=x_SBD.device)
    else:
        shares_SB = weights_SB / targets_SB.shape[1]
    is_training = torch.is_grad_enabled()
    loss, nll = HeadLoss.apply(
        x_SBD.flatten(0, 1), weight_VD, targets_SB.flatten(), shares_SB.flatten(), group, settings, is_training
    )
    return loss if is_training else nll
