"""The schedule: what each step trains on, and its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pretrain.data.batch_sizes import BatchSizes


@dataclass(frozen=True)
class StepPlan:
    """A step before it is done.

    Attributes:
        step: its number; the first is 1.
        first_sample: number of its first sample in the plan of the data.
        batch_size: samples of its global batch.
        sequence_length: targets of each sample.
        phase: index of the phase of the data plan that its first sample belongs to.
        has_targets: whether any of its targets counts in the loss.
        learning_rate: learning rate of its update.
        consumed_samples: consumed samples after it.
        consumed_tokens: consumed targets after it.
    """

    step: int
    first_sample: int
    batch_size: int
    sequence_length: int
    phase: int
    has_targets: bool
    learning_rate: float
    consumed_samples: int
    consumed_tokens: int


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
