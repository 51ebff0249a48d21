"""Epochs turned into steps, once it is known how many samples there are."""

from __future__ import annotations

import math

from pretrain.config import TrainConfig
from pretrain.data.mixture import MixtureFile, load_mixture
from pretrain.data.order import window_count


def with_steps(config: TrainConfig) -> TrainConfig:
    """The configuration with `schedule.total_steps` and `warmup_steps` in place of `epochs` and `warmup_ratio`.

    An epoch has as many samples as the train parts of all datasets together. How often each of them is seen is up to
    their weights; those that data preparation writes are proportional to their tokens.

    Raises:
        ValueError: the mixture is missing, or the resulting steps do not fit other settings.
    """
    schedule = config.schedule
    total = schedule.total_steps
    if schedule.epochs is not None:
        samples = samples_of_an_epoch(load_mixture(config.data.mixture), config.data.sequence_length)
        total = config.batch.sizes.steps_to(math.ceil(samples * schedule.epochs))
    if total is None or (schedule.epochs is None and schedule.warmup_ratio is None):
        return config
    values = config.model_dump(mode="json")
    values["schedule"] |= {"total_steps": total, "epochs": None}
    given = type(config).model_validate(values)
    values["schedule"] |= {"warmup_steps": given.schedule.warmup, "warmup_ratio": None}
    return type(config).model_validate(values)


def samples_of_an_epoch(mixture: MixtureFile, sequence_length: int) -> int:
    """Number of train samples of all datasets; of packed ones, the packs.

    Raises:
        ValueError: there is none.
    """
    count = sum(window_count(entry.tokens, sequence_length) for entry in mixture.datasets)
    if not count:
        raise ValueError(
            f"{mixture.path}: no dataset fills a window of data.sequence_length {sequence_length} + 1 tokens"
        )
    return count
