"""The schedule: what each step trains on, and its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pretrain.config import ScheduleConfig
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


def learning_rate(step: int, sizes: BatchSizes, peak: float, schedule: ScheduleConfig) -> float:
    """Learning rate of the update after `step` finished ones: linear warm-up, then the shape of `schedule.kind`.

    Steps are counted in samples, as in BLOOM's schedule (`--lr-warmup-samples`, `--lr-decay-samples`): while the batch
    grows, a step of half as many samples changes the rate half as much. With a constant batch size this equals counting
    steps. Update number `warmup_steps` has `peak`. Where the rate falls to a lowest one, update number `total_steps`,
    and any after it, has that.

    Args:
        step: number of finished updates.
        sizes: batch sizes of the run.
        peak: highest rate.

    Source: see the fields of `ScheduleConfig`.
    """
    total_steps = schedule.steps
    done, warmup, total = (sizes.after(steps) for steps in (step + 1, schedule.warmup, total_steps))
    if done <= warmup:
        return peak * (done / warmup)
    if schedule.kind == "constant":
        return peak
    if schedule.kind == "inverse_square_root":
        return peak * math.sqrt(warmup / done)
    start = warmup if schedule.decay_steps is None else sizes.after(total_steps - schedule.decay_steps)
    share = min(max(done - start, 0) / (total - start), 1.0)
    if schedule.kind == "cosine":
        height = 0.5 * (1.0 + math.cos(math.pi * share))
    elif schedule.decay_shape == "one_minus_square_root":
        height = 1.0 - math.sqrt(share)
    else:
        height = 1.0 - share
    assert schedule.minimum_learning_rate_ratio is not None
    return peak * (schedule.minimum_learning_rate_ratio + (1.0 - schedule.minimum_learning_rate_ratio) * height)
