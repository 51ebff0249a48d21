"""How much of each dataset a run has trained on: counted from the plan, not from what was asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pretrain.data.loader import SampleReader


@dataclass(frozen=True)
class Consumed:
    """Of one dataset.

    Attributes:
        tokens: targets.
        epochs: how often its tokens were gone through; windows of every sequence length together.
    """

    name: str
    samples: int
    tokens: int
    epochs: float


def consumed_by_dataset(reader: SampleReader, position: int) -> list[Consumed]:
    """What a run that has consumed `position` samples was trained on, skipped ranges left out. Train samples only."""
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
