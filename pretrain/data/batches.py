"""From samples to the micro-batches of one data-parallel rank.

Shape suffixes: B micro-batch size, S sequence length, N samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pretrain.config import ObjectiveConfig
from pretrain.data.batch_sizes import BatchSizes
from pretrain.data.loader import SampleReader
from pretrain.data.objective import Batch, Objective, Windows
from pretrain.data.weights import TargetWeights, document_boundaries


@dataclass(frozen=True)
class HeldOutPart:
    """The evaluated samples of one dataset.

    Attributes:
        dataset: its name.
        samples: numbers of the held-out samples, [N].
        targets: number of targets that count.
        weight: sum of the targets' weights, by which the dataset's loss enters the loss over all datasets.
    """

    dataset: str
    samples: npt.NDArray[np.int64]
    targets: int
    weight: float


class Batches:
    """Micro-batches of this data-parallel rank.

    Args:
        reader: train or held-out samples.
        objective: turns windows into samples; None: each token predicts the next one.

    Raises:
        ValueError: the rank does not exist, or a dataset has no target in any of its samples; names the dataset.
    """

    def __init__(
        self,
        reader: SampleReader,
        micro_batch_size: int,
        data_rank: int = 0,
        data_size: int = 1,
        objective: Objective | None = None,
    ) -> None:
        if min(micro_batch_size, data_size) < 1:
            raise ValueError(f"micro_batch_size {micro_batch_size} and data_size {data_size} must be positive")
        if not 0 <= data_rank < data_size:
            raise ValueError(f"data_rank {data_rank} must be in [0, {data_size})")
        self.reader = reader
        self._micro_batch_size = micro_batch_size
        self._data_rank = data_rank
        self._data_size = data_size
        self._objective = objective or Objective(ObjectiveConfig(), split=reader.split)
        self._weights = TargetWeights(reader.datasets, reader.mixture.end_of_document, self._objective)
        self._check_targets()

    @property
    def _together(self) -> int:
        """Samples of one micro-batch of all data-parallel ranks."""
        return self._micro_batch_size * self._data_size

    def training(self, first_position: int, sizes: BatchSizes) -> Iterator[Batch]:
        """Micro-batches of a run that has consumed `first_position` train samples, without end.

        A global batch consists of the next samples that are not skipped, as many as `sizes.at` gives for its first
        position. Row j of rank d's micro-batch k is at position first_position + k * (micro_batch_size * data_size) +
        d * micro_batch_size + j; k counts on over the steps, size / (micro_batch_size * data_size) micro-batches per
        step. So each sample goes to one rank, and a global batch has the same samples for any data_size and
        micro_batch_size. A global batch without targets has no micro-batches, see `has_targets`.

        Yields:
            Tokens and targets, int64 [B, S] each, with a layout and with weights, fp32 [B, S], where there are any.

        Raises:
            ValueError: the global batch cannot be divided, or the sequence length would change in the middle of one.
        """
        if first_position < 0:
            raise ValueError(f"first_position {first_position} must not be negative")
        for size in sizes.all:
            if size < 1 or size % self._together:
                raise ValueError(
                    f"a global batch of {size} samples must be a multiple of micro_batch_size "
                    f"{self._micro_batch_size} times the data-parallel degree {self._data_size}, {self._together}"
                )
        start = first_position
        while True:
            size = sizes.at(start)
            samples, length = self._global_batch(start, size)
            yield from self._divided(samples, length)
            start += size

    def has_targets(self, first_position: int, size: int) -> bool:
        """Whether the global batch of `size` samples from `first_position` on has any target that counts."""
        if self._weights.are_equal:
            return True
        samples, length = self._global_batch(first_position, size)
        return self._weights.any(self.reader.locate(samples), samples, length)

    def held_out_parts(self, count: int) -> list[HeldOutPart]:
        """The first `count` held-out samples, or all when there are fewer, by dataset; datasets without targets that
        count are omitted.

        Raises:
            ValueError: no target in these samples counts.
        """
        assert self.reader.sample_count is not None, "train samples have no end"
        samples, length = np.arange(min(count, self.reader.sample_count)), self.reader.sequence_length
        places = self.reader.locate(samples)
        parts = []
        for index, name in enumerate(self.reader.names):
            mine = samples[places.dataset == index]
            weight, targets = self._weights.total(self.reader.locate(mine), mine, length)
            if weight > 0:
                parts.append(HeldOutPart(name, mine, targets, weight))
        if not parts:
            raise ValueError(
                f"{self.reader.mixture.path}: no token of the first {len(samples)} held-out samples counts in the "
                "loss: raise evaluation.batches, or hold out more text whose tokens count"
            )
        return parts

    def evaluation(self, part: HeldOutPart) -> tuple[Iterator[Batch], int]:
        """Micro-batches over the samples of a part, and their number. The last ones are padded with repetitions of a
        sample, which have no weight."""
        rows = -(-len(part.samples) // self._together) * self._together
        batches = self._divided(part.samples, self.reader.sequence_length, rows)
        return batches, rows // self._together

    def _global_batch(self, start: int, size: int) -> tuple[npt.NDArray[np.int64], int]:
        """Numbers of the train samples at positions [start, start + size), and their sequence length."""
        samples = self.reader.skipped.samples_at(np.arange(start, start + size))
        lengths = self.reader.lengths(samples)
        if np.any(lengths != lengths[0]):
            changes = int(np.flatnonzero(lengths != lengths[0])[0])
            raise ValueError(
                f"the sequence length changes from {lengths[0]} to {lengths[changes]} at sample {samples[changes]}, "
                f"in the middle of the global batch of samples {samples[0]} to {samples[-1]}: begin the phase at "
                f"sample {samples[0]}, and skip whole batches"
            )
        return samples, int(lengths[0])

    def _divided(self, samples: npt.NDArray[np.int64], length: int, rows: int | None = None) -> Iterator[Batch]:
        """This rank's micro-batches of the samples, whose weights sum to the number of rows over all ranks.

        Args:
            rows: number of rows to pad to; None: one for each sample.
        """
        rows = rows or len(samples)
        scale = None
        if not (self._weights.are_equal and rows == len(samples)):
            total = float(self._weights.sums(self.reader.locate(samples), samples, length).sum())
            if total == 0:
                return
            scale = rows / total
        mine = np.arange(rows).reshape(-1, self._data_size, self._micro_batch_size)[:, self._data_rank]
        for row in mine:
            chosen = samples[np.minimum(row, len(samples) - 1)]
            inputs, labels = self._objective.batch(self._windows(chosen, length, with_weights=scale is not None))
            if scale is not None:
                targets, weights = labels
                weights[row >= len(samples)] = 0.0
                labels = targets, (weights * scale).float()
            yield inputs, labels

    def _windows(self, samples: npt.NDArray[np.int64], length: int, *, with_weights: bool) -> Windows:
        places = self.reader.locate(samples)
        rows = list(zip(places.dataset.tolist(), places.window.tolist(), strict=True))
        weights = opens = None
        if with_weights and self._weights.are_of_stream:
            weights = np.stack([self._weights.of_window(dataset, window, length) for dataset, window in rows])
        if self._objective.config.separate_documents or self.reader.is_packed:
            end_of_document = self.reader.mixture.end_of_document
            opens = np.stack(
                [
                    document_boundaries(self.reader.datasets[d], w * length, (w + 1) * length, end_of_document)[0]
                    for d, w in rows
                ]
            )
        return Windows(self.reader.read(places, length), samples, weights, opens)

    def _check_targets(self) -> None:
        reader = self.reader
        lengths = [phase.sequence_length for phase in reader.order.phases] if reader.order else [reader.sequence_length]
        for length in dict.fromkeys(lengths):
            empty = [reader.names[index] for index in self._weights.datasets_without_targets(length)]
            # A held-out part is small and may lack targets by chance: one dataset that has some is enough.
            if reader.split == "heldout" and len(empty) < len(reader.names):
                continue
            if empty:
                split = "held-out samples" if reader.split == "heldout" else "samples"
                raise ValueError(
                    f"{reader.mixture.path}: dataset {', '.join(map(repr, empty))}: by its loss mask no token in any "
                    f"of its {split} counts, so that there is no loss to compute: check `no_loss` of its source in "
                    "data preparation, or leave the dataset out of the mixture"
                )
