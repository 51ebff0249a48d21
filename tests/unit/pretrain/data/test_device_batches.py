"""Batches go to the device in order, each copy before the batch before it is used."""

from __future__ import annotations

import torch

from pretrain.data.device_batches import on_device, one_ahead, pinned
from pretrain.data.objective import Batch


class Copier:
    """Records what it is asked to do; a copy holds the batch's number plus a hundred."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def start(self, batch: Batch) -> Batch:
        self.done.append(f"copy {int(batch[0])}")
        return batch[0] + 100, batch[1]

    def finish(self, batch: Batch) -> Batch:
        self.done.append(f"use {int(batch[0]) - 100}")
        return batch


def batches(count: int) -> list[Batch]:
    return [(torch.tensor(number), torch.tensor(0)) for number in range(count)]


def test_each_copy_begins_before_the_batch_before_it_is_used() -> None:
    copier = Copier()
    used = [int(batch[0]) for batch in one_ahead(iter(batches(3)), copier)]
    assert used == [100, 101, 102]
    assert copier.done == ["copy 0", "copy 1", "use 0", "copy 2", "use 1", "use 2"]


def test_no_batches_and_one() -> None:
    for count in (0, 1):
        assert len(list(one_ahead(iter(batches(count)), Copier()))) == count


def test_a_cpu_gets_the_batches_themselves() -> None:
    source = iter(batches(2))
    assert on_device(pinned(source, torch.device("cpu")), torch.device("cpu")) is source
