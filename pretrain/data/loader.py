"""From sample numbers to batches of tokens.

Shape suffixes: B micro-batch size, S sequence length, N samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from data_prep.indexed_dataset.format import bin_path, idx_path, loss_mask_path
from data_prep.indexed_dataset.permutation import KeyedPermutation
from foundation.atomic_files import digest
from pretrain.data.batch_sizes import BatchSizes
from pretrain.data.mixture import MixtureFile, Split, fingerprint
from pretrain.data.objective import NEXT_TOKEN, Arrange, Batch
from pretrain.data.order import SampleLocations, SampleOrder, tail_tokens, window_count
from pretrain.data.phases import PhaseChange, build_phases
from pretrain.data.skips import SkippedRanges

HELD_OUT_KEY = "held-out"
"""Key of the held-out order; not the run's seed, so that runs with different seeds are measured on the same text."""


@dataclass(frozen=True)
class DocumentPart:
    """Tokens [start, stop) of one document, and their place [offset, offset + stop - start) in the sample."""

    document: int
    start: int
    stop: int
    offset: int


@dataclass(frozen=True)
class SampleDescription:
    """Where every token of a sample comes from: tokens [start, stop) of a dataset's stream, document by document."""

    sample: int
    dataset: str
    epoch: int
    window: int
    start: int
    stop: int
    parts: tuple[DocumentPart, ...]


@dataclass(frozen=True)
class DatasetUse:
    """What an epoch of a dataset trains on, in tokens; see `pretrain.data.order` on windows and tails."""

    name: str
    tokens: int
    windows: int
    target_tokens: int
    tail_tokens: int


class SampleReader:
    """Samples of a mixture by number.

    Train samples go on for ever, see `pretrain.data.order`. Held-out samples are the windows of all held-out files,
    each once, in a random order that is the same in every run: the first few are a fair sample of all sources. A
    dataset whose held-out part is shorter than a window gives none.

    Args:
        mixture: the token files.
        sequence_length: targets of a sample; it has one token more.
        seed: of the order of the train samples.
        split: which of the two.
        phases: how weights and sequence length change, train samples only.
        skipped: half-open ranges of train samples that are not trained on, see `pretrain.data.skips`.

    Raises:
        ValueError: a train dataset, or the held-out part as a whole, is shorter than one window; or damaged files.
    """

    def __init__(
        self,
        mixture: MixtureFile,
        sequence_length: int,
        seed: int,
        split: Split = "train",
        *,
        phases: Sequence[PhaseChange] = (),
        skipped: Sequence[tuple[int, int]] = (),
    ) -> None:
        if split == "heldout" and (phases or skipped):
            raise ValueError("phases and skipped ranges are for train samples; held-out samples have neither")
        if sequence_length < 1:
            raise ValueError(f"sequence_length {sequence_length} must be positive")
        self.mixture = mixture
        self.sequence_length = sequence_length
        self.split = split
        opened = [(entry, mixture.open(entry, split)) for entry in mixture.datasets]
        datasets = [(entry, dataset) for entry, dataset in opened if dataset is not None]
        if split == "heldout":
            datasets = [pair for pair in datasets if window_count(pair[1].token_count, sequence_length)]
            if not datasets:
                raise ValueError(
                    f"{mixture.path}: nothing is held out that fills a window of sequence_length {sequence_length} + 1 "
                    "tokens; raise tokens.heldout_share and tokenize again, or shorten sequence_length"
                )
        self.datasets = tuple(dataset for _, dataset in datasets)
        self.names = tuple(entry.name for entry, _ in datasets)
        self._windows = [window_count(dataset.token_count, sequence_length) for dataset in self.datasets]
        self._first_samples = np.concatenate([[0], np.cumsum(self._windows)])
        self.order: SampleOrder | None = None
        """None for the held-out split, which ends."""
        self.skipped = SkippedRanges(skipped)
        """Replace it to skip more: see `SkippedRanges.and_then`."""
        if split == "train":
            weights = {entry.name: entry.weight for entry, _ in datasets}
            token_counts = [dataset.token_count for dataset in self.datasets]
            try:
                built = build_phases(weights, sequence_length, phases)
                self.order = SampleOrder(seed, self.names, token_counts, built)
            except ValueError as error:
                raise ValueError(f"{mixture.path}: {error}") from None

    @property
    def sample_count(self) -> int | None:
        """Number of held-out samples; None for train samples, which never end."""
        return None if self.order else int(self._first_samples[-1])

    def use(self) -> tuple[DatasetUse, ...]:
        """What one epoch of each dataset at the first sequence length trains on and what it leaves out."""
        return tuple(
            DatasetUse(
                name,
                dataset.token_count,
                windows,
                windows * self.sequence_length,
                tail_tokens(dataset.token_count, self.sequence_length),
            )
            for name, dataset, windows in zip(self.names, self.datasets, self._windows, strict=True)
        )

    def locate(self, samples: npt.ArrayLike) -> SampleLocations:
        """Dataset, epoch and window of each sample, [N]."""
        if self.order:
            return self.order.locate(samples)
        given = np.atleast_1d(np.asarray(samples, np.int64))
        if given.size and not (int(given.min()) >= 0 and int(given.max()) < self._first_samples[-1]):
            raise ValueError(
                f"held-out samples {given.min()} to {given.max()}: there are only [0, {self._first_samples[-1]})"
            )
        window = KeyedPermutation(int(self._first_samples[-1]), HELD_OUT_KEY)(given)
        dataset = np.searchsorted(self._first_samples, window, "right") - 1
        return SampleLocations(dataset, np.zeros_like(given), window - self._first_samples[dataset])

    def reached(self, position: int) -> int:
        """The sample after the last one that a run has trained on when it has consumed `position` samples."""
        return int(self.skipped.samples_at(position - 1)) + 1 if position else 0

    def phase_at(self, sample: int) -> int:
        """Number of the phase that this sample belongs to."""
        return int(self.order.phase_at(np.array([sample]))[0]) if self.order else 0

    def lengths(self, samples: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Sequence length of each of these samples."""
        given = np.atleast_1d(np.asarray(samples, np.int64))
        if not self.order:
            return np.full(given.shape, self.sequence_length)
        return np.array([phase.sequence_length for phase in self.order.phases])[self.order.phase_at(given)]

    def tokens_before(self, position: int) -> int:
        """Targets that a run has trained on when it has consumed `position` samples."""
        if not self.order:
            return position * self.sequence_length
        starts = [min(position, self.skipped.position_of(phase.first_sample)) for phase in self.order.phases]
        counts = np.diff([*starts, position]).tolist()
        return sum(n * phase.sequence_length for n, phase in zip(counts, self.order.phases, strict=True))

    def samples(self, samples: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Tokens of these samples, [N, sequence_length + 1], int64.

        Raises:
            ValueError: they are not all of one sequence length.
        """
        lengths = np.unique(self.lengths(samples))
        if len(lengths) > 1:
            raise ValueError(f"samples of lengths {', '.join(map(str, lengths))} do not fit into one array")
        return self.read(self.locate(samples), int(lengths[0]) if len(lengths) else self.sequence_length)

    def read(self, places: SampleLocations, length: int) -> npt.NDArray[np.int64]:
        """Tokens of samples of sequence length `length` that `locate` has found, [N, length + 1], int64."""
        tokens = np.empty((len(places.dataset), length + 1), np.int64)
        rows = zip(tokens, places.dataset.tolist(), places.window.tolist(), strict=True)
        for row, dataset, window in rows:
            row[:] = self.datasets[dataset].tokens(window * length, (window + 1) * length + 1)
        return tokens

    @property
    def has_loss_masks(self) -> bool:
        """Whether some tokens of some datasets may not count in the loss."""
        return any(dataset.has_loss_mask for dataset in self.datasets)

    def read_loss_mask(self, places: SampleLocations, length: int) -> npt.NDArray[np.bool_] | None:
        """Whether the loss counts each of the tokens that `read` gives, [N, length + 1]; None when it counts all."""
        if not self.has_loss_masks:
            return None
        counted = np.empty((len(places.dataset), length + 1), np.bool_)
        rows = zip(counted, places.dataset.tolist(), places.window.tolist(), strict=True)
        for row, dataset, window in rows:
            row[:] = self.datasets[dataset].loss_mask(window * length, (window + 1) * length + 1)
        return counted

    def sample(self, i: int) -> npt.NDArray[np.int64]:
        """Tokens of sample `i`, [sequence_length + 1], int64."""
        return self.samples([i])[0]

    def describe(self, i: int) -> SampleDescription:
        """Where every token of sample `i` comes from."""
        places = self.locate([i])
        d, window = int(places.dataset[0]), int(places.window[0])
        length = int(self.lengths([i])[0])
        dataset, start = self.datasets[d], window * length
        stop = start + length + 1
        parts = []
        token = start
        while token < stop:
            document = dataset.document_at(token)
            first, end = dataset.document_range(document)
            parts.append(DocumentPart(document, token - first, min(end, stop) - first, token - start))
            token = min(end, stop)
        return SampleDescription(i, self.names[d], int(places.epoch[0]), window, start, stop, tuple(parts))

    def plan(self, before: int | None = None) -> dict[str, Any]:
        """Everything that the content of the samples depends on, as JSON: order, window, vocabulary and files.

        What is skipped is no part of it: it decides which samples are trained on and not what is in them.

        Args:
            before: the plan of the samples before this one: phases that begin later are left out.
        """
        return {
            "split": self.split,
            "sequence_length": self.sequence_length,
            "vocabulary_size": self.mixture.vocabulary_size,
            "end_of_document": self.mixture.end_of_document,
            "order": self.order.plan(before) if self.order else HELD_OUT_KEY,
            "files": self._files,
        }

    @cached_property
    def _files(self) -> dict[str, Any]:
        files = {}
        for entry in self.mixture.datasets:
            if entry.name in self.names:
                dataset = self.datasets[self.names.index(entry.name)]
                recorded = entry.sha256 if self.split == "train" else entry.heldout_sha256
                files[entry.name] = {
                    "recorded": recorded.model_dump(exclude_none=True) if recorded else None,
                    "bin": fingerprint(bin_path(dataset.prefix)),
                    "idx": fingerprint(idx_path(dataset.prefix)),
                }
                if dataset.has_loss_mask:
                    files[entry.name]["loss_mask"] = fingerprint(loss_mask_path(dataset.prefix))
        return files

    def digest(self, before: int | None = None) -> str:
        """SHA-256 of the plan: the same digest means the same tokens in the same samples, wherever the files lie."""
        return digest(self.plan(before))


def micro_batches(
    reader: SampleReader,
    first_position: int,
    sizes: BatchSizes,
    micro_batch_size: int,
    data_rank: int,
    data_size: int,
    arrange: Arrange = NEXT_TOKEN,
) -> Iterator[Batch]:
    """This data-parallel rank's micro-batches, for a run that has consumed `first_position` samples.

    A global batch takes the next samples that are not skipped, `sizes.at` its first position. Row j of rank d's
    micro-batch k is at position first_position + k * (micro_batch_size * data_size) + d * micro_batch_size + j; k runs
    on over the steps, size / (micro_batch_size * data_size) micro-batches to each. So all ranks together see each
    sample once, and a global batch holds the same samples for any data_size and micro_batch_size.

    Train samples go on for ever. The last global batch of held-out samples is filled up with repetitions of the last
    one, whose predictions have the weight 0.

    Args:
        sizes: samples of each global batch.
        arrange: what is made of the windows, see `pretrain/data/objective.py`; when left out, each token predicts the
            next one.

    Yields:
        What `arrange` makes: tokens_BS and targets_BS, int64, with a layout and with weights where there are any.

    Raises:
        ValueError: the global batch cannot be divided, or the sequence length would change in the middle of one.
    """
    together = micro_batch_size * data_size
    for size in sizes.all:
        if min(size, micro_batch_size, data_size) < 1 or size % together:
            raise ValueError(
                f"a global batch of {size} samples must be a multiple of micro_batch_size {micro_batch_size} times the "
                f"data-parallel degree {data_size}, {together}"
            )
    if not 0 <= data_rank < data_size:
        raise ValueError(f"data_rank {data_rank} must lie in [0, {data_size})")
    if first_position < 0:
        raise ValueError(f"first_position {first_position} must not be negative")
    start = first_position
    while reader.sample_count is None or start < reader.sample_count:
        size = sizes.at(start)
        # Rows of this rank in a global batch, micro-batch by micro-batch.
        rows = np.arange(size).reshape(-1, data_size, micro_batch_size)[:, data_rank]
        positions = np.arange(start, start + size)
        is_real = np.full(size, fill_value=True)
        if reader.sample_count is not None:
            is_real = positions < reader.sample_count
            positions = np.minimum(positions, reader.sample_count - 1)
        samples = reader.skipped.samples_at(positions)
        lengths = reader.lengths(samples)
        if np.any(lengths != lengths[0]):
            changes = int(np.flatnonzero(lengths != lengths[0])[0])
            raise ValueError(
                f"the sequence length changes from {lengths[0]} to {lengths[changes]} at sample {samples[changes]}, "
                f"in the middle of the global batch of samples {samples[0]} to {samples[-1]}: let the phase begin at "
                f"sample {samples[0]}, and skip whole batches"
            )
        places = reader.locate(samples[rows.ravel()])
        for first in range(0, rows.size, micro_batch_size):
            some = slice(first, first + micro_batch_size)
            chosen = SampleLocations(places.dataset[some], places.epoch[some], places.window[some])
            length = int(lengths[0])
            row = rows[first // micro_batch_size]
            batch = arrange(reader.read(chosen, length), samples[row], reader.read_loss_mask(chosen, length))
            yield batch if is_real.all() else _without_weight(batch, ~is_real[row])
        start += size


def _without_weight(batch: Batch, rows: npt.NDArray[np.bool_]) -> Batch:
    """The same batch, of which these rows predict nothing."""
    inputs, labels = batch
    targets, weights = labels if isinstance(labels, tuple) else (labels, torch.full(labels.shape, 1 / labels.shape[1]))
    return inputs, (targets, weights.masked_fill(torch.from_numpy(rows)[:, None], 0.0))
