"""Batches on the device before they are needed: from pinned memory, on a stream of their own.

A copy of ordinary memory makes the host wait for the GPU. On a CPU nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from pretrain.data.objective import Batch


class Copier(Protocol):
    """Copies batches to a device."""

    def start(self, batch: Batch) -> Batch:
        """Begin to copy; returns the copies, which must not be read yet."""

    def finish(self, batch: Batch) -> Batch:
        """Let later work wait for the copies; the host does not wait."""


class StreamCopier:
    """Copies on a CUDA stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def start(self, batch: Batch) -> Batch:
        """See `Copier`."""
        with torch.cuda.stream(self._stream):
            copied: Batch = mapped(lambda tensor: tensor.to(self._device, non_blocking=True), batch)
        return copied

    def finish(self, batch: Batch) -> Batch:
        """See `Copier`."""
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        mapped(lambda tensor: tensor.record_stream(current), batch)  # its memory is not reused before it is read
        return batch


def pinned(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches in memory that a GPU can copy by itself; unchanged for a CPU."""
    return batches if device.type == "cpu" else (mapped(torch.Tensor.pin_memory, batch) for batch in batches)


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches on a device; each copy begins before the batch before it is used. Unchanged for a CPU."""
    return batches if device.type == "cpu" else one_ahead(batches, StreamCopier(device))


def one_ahead(batches: Iterator[Batch], copier: Copier) -> Iterator[Batch]:
    """The copied batches, in order; the copy of the next one has begun when one is handed over."""
    ahead: Batch | None = None
    for batch in batches:
        ready, ahead = ahead, copier.start(batch)
        if ready is not None:
            yield copier.finish(ready)
    if ahead is not None:
        yield copier.finish(ahead)


def mapped(function: Callable[[torch.Tensor], Any], part: Any) -> Any:
    """A batch, or a part of one, with each tensor replaced by what the function makes of it."""
    return tuple(mapped(function, inner) for inner in part) if isinstance(part, tuple) else function(part)
