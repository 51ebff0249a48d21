"""The learning rate of each step."""

from __future__ import annotations

import math

from pretrain.data.batch_sizes import BatchSizes


def learning_rate(
    step: int, sizes: BatchSizes, *, peak: float, warmup_steps: int, total_steps: int, minimum_ratio: float
) -> float:
    """Learning rate of the update after `step` finished ones: linear warm-up, then half a cosine.

    Both count in samples, as BLOOM's do (`--lr-warmup-samples`, `--lr-decay-samples`): while the batch grows, a step of
    half the samples moves the rate half as far. With a batch of one size that is the same as counting in steps. Update
    number `warmup_steps` has `peak`, and number `total_steps`, as well as any after it, has `peak * minimum_ratio`.

    Args:
        step: updates done before this one, from 0.
        sizes: of the run's batches.

    Source: Touvron et al. 2023, arXiv:2302.13971, section 2.3 (2000 warm-up steps, final rate a tenth of the peak);
    Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5.
    """
    done, warmup, total = (sizes.after(steps) for steps in (step + 1, warmup_steps, total_steps))
    if done <= warmup:
        return peak * (done / warmup)
    share = min((done - warmup) / (total - warmup), 1.0)
    ratio = minimum_ratio + (1.0 - minimum_ratio) * 0.5 * (1.0 + math.cos(math.pi * share))
    return peak * ratio
