"""Learning rate of each step."""

from __future__ import annotations

import math

from pretrain.data.batch_sizes import BatchSizes


def learning_rate(
    step: int, sizes: BatchSizes, *, peak: float, warmup_steps: int, total_steps: int, minimum_ratio: float
) -> float:
    """Learning rate of the update after `step` finished ones: linear warm-up, then half a cosine.

    Both count samples, as BLOOM's schedule does (`--lr-warmup-samples`, `--lr-decay-samples`): while the batch grows, a
    step of half as many samples changes the rate half as much. With a constant batch size this equals counting steps.
    Update number `warmup_steps` has `peak`; number `total_steps`, and any after it, has `peak * minimum_ratio`.

    Args:
        step: number of finished updates.
        sizes: batch sizes of the run.

    Source: Touvron et al. 2023, arXiv:2302.13971, section 2.3 (2000 warm-up steps, final rate a tenth of the peak);
    Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5.
    """
    done, warmup, total = (sizes.after(steps) for steps in (step + 1, warmup_steps, total_steps))
    if done <= warmup:
        return peak * (done / warmup)
    share = min((done - warmup) / (total - warmup), 1.0)
    ratio = minimum_ratio + (1.0 - minimum_ratio) * 0.5 * (1.0 + math.cos(math.pi * share))
    return peak * ratio
