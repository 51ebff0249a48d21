"""The learning rate of each step."""

from __future__ import annotations

import math


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int, minimum_ratio: float) -> float:
    """Learning rate of the update after `step` finished ones: linear warm-up, then half a cosine.

    The first update has `peak / warmup_steps`, update number `warmup_steps` has `peak`, and number `total_steps`, as
    well as any after it, has `peak * minimum_ratio`.

    Args:
        step: updates done before this one, from 0.

    Source: Touvron et al. 2023, arXiv:2302.13971, section 2.3 (2000 warm-up steps, final rate a tenth of the peak);
    Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5.
    """
    number = step + 1
    if number <= warmup_steps:
        return peak * number / warmup_steps
    share = min((number - warmup_steps) / (total_steps - warmup_steps), 1.0)
    ratio = minimum_ratio + (1.0 - minimum_ratio) * 0.5 * (1.0 + math.cos(math.pi * share))
    return peak * ratio
