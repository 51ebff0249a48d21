"""Samples, tokens and epochs of each dataset that a run has trained on, counted from the plan of the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pretrain.data.loader import SampleReader


@dataclass(frozen=True)
class Consumed:
    """Amount of one dataset that a run has trained on.

    Attributes:
        tokens: number of targets.
        epochs: targets relative to the dataset's tokens, over windows of every sequence length.
    """

    name: str
    samples: int
    tokens: int
    epochs: float


def consumed_by_dataset(reader: SampleReader, position: int) -> list[Consumed]:
    """Amount of each dataset that a run has trained on after `position` consumed samples, without skipped ranges.

    Raises:
        ValueError: the reader has held-out samples.
    """
    order = reader.order
    if order is None:
        raise ValueError("held-out samples are evaluated on, not trained on")
    end = reader.reached(position)
    samples = np.zeros(len(reader.names), np.int64)
    tokens = np.zeros(len(reader.names), np.int64)
    stops = [*(phase.first_sample for phase in order.phases[1:]), end]
    for phase, dealing, stop in zip(order.phases, order.dealings, stops, strict=True):
        for start, last in _kept(reader, phase.first_sample, min(stop, end)):
            drawn = np.subtract(dealing.drawn(last - phase.first_sample), dealing.drawn(start - phase.first_sample))
            samples += drawn
            tokens += drawn * phase.sequence_length
    sizes = [dataset.token_count for dataset in reader.datasets]
    return [
        Consumed(name, int(count), int(targets), int(targets) / size)
        for name, count, targets, size in zip(reader.names, samples, tokens, sizes, strict=True)
    ]


def _kept(reader: SampleReader, start: int, stop: int) -> list[tuple[int, int]]:
    """Half-open ranges of [start, stop) that are not skipped."""
    kept = []
    for first, last in reader.skipped.ranges:
        if start < min(first, stop):
            kept.append((start, min(first, stop)))
        start = max(start, last)
    if start < stop:
        kept.append((start, stop))
    return kept
