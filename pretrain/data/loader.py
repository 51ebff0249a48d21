"""From sample numbers to batches of tokens.

Shape suffixes: B micro-batch size, S sequence length, N samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from data_prep.indexed_dataset.format import bin_path, idx_path
from data_prep.indexed_dataset.permutation import KeyedPermutation
from foundation.atomic_files import digest
from pretrain.data.mixture import MixtureFile, Split, fingerprint
from pretrain.data.order import SampleLocations, SampleOrder, tail_tokens, window_count

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

    Raises:
        ValueError: a train dataset, or the held-out part as a whole, is shorter than one window; or damaged files.
    """

    def __init__(self, mixture: MixtureFile, sequence_length: int, seed: int, split: Split = "train") -> None:
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
        for _, dataset in datasets:
            if not window_count(dataset.token_count, sequence_length):
                raise ValueError(
                    f"{bin_path(dataset.prefix)}: {dataset.token_count} tokens are fewer than one window of "
                    f"sequence_length {sequence_length} + 1; leave the dataset out of {mixture.path} or shorten "
                    "sequence_length"
                )
        self.datasets = tuple(dataset for _, dataset in datasets)
        self.names = tuple(entry.name for entry, _ in datasets)
        self._windows = [window_count(dataset.token_count, sequence_length) for dataset in self.datasets]
        self._first_samples = np.concatenate([[0], np.cumsum(self._windows)])
        self.order: SampleOrder | None = None
        """None for the held-out split, which ends."""
        if split == "train":
            self.order = SampleOrder(seed, self.names, self._windows, [entry.weight for entry, _ in datasets])

    @property
    def sample_count(self) -> int | None:
        """Number of held-out samples; None for train samples, which never end."""
        return None if self.order else int(self._first_samples[-1])

    def use(self) -> tuple[DatasetUse, ...]:
        """What one epoch of each dataset trains on and what it leaves out."""
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

    def samples(self, samples: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Tokens of these samples, [N, sequence_length + 1], int64."""
        places = self.locate(samples)
        length = self.sequence_length
        tokens = np.empty((len(places.dataset), length + 1), np.int64)
        rows = zip(tokens, places.dataset.tolist(), places.window.tolist(), strict=True)
        for row, dataset, window in rows:
            row[:] = self.datasets[dataset].tokens(window * length, (window + 1) * length + 1)
        return tokens

    def sample(self, i: int) -> npt.NDArray[np.int64]:
        """Tokens of sample `i`, [sequence_length + 1], int64."""
        return self.samples([i])[0]

    def describe(self, i: int) -> SampleDescription:
        """Where every token of sample `i` comes from."""
        places = self.locate([i])
        d, window = int(places.dataset[0]), int(places.window[0])
        dataset, start = self.datasets[d], window * self.sequence_length
        stop = start + self.sequence_length + 1
        parts = []
        token = start
        while token < stop:
            document = dataset.document_at(token)
            first, end = dataset.document_range(document)
            parts.append(DocumentPart(document, token - first, min(end, stop) - first, token - start))
            token = min(end, stop)
        return SampleDescription(i, self.names[d], int(places.epoch[0]), window, start, stop, tuple(parts))

    def plan(self) -> dict[str, Any]:
        """Everything that the content of the samples depends on, as JSON: order, window, vocabulary and files."""
        files = {}
        for entry in self.mixture.datasets:
            if entry.name in self.names:
                dataset = self.datasets[self.names.index(entry.name)]
                recorded = entry.sha256 if self.split == "train" else entry.heldout_sha256
                files[entry.name] = {
                    "recorded": recorded.model_dump() if recorded else None,
                    "bin": fingerprint(bin_path(dataset.prefix)),
                    "idx": fingerprint(idx_path(dataset.prefix)),
                }
        return {
            "split": self.split,
            "sequence_length": self.sequence_length,
            "vocabulary_size": self.mixture.vocabulary_size,
            "end_of_document": self.mixture.end_of_document,
            "order": self.order.plan() if self.order else HELD_OUT_KEY,
            "files": files,
        }

    def digest(self) -> str:
        """SHA-256 of the plan: the same digest means the same tokens in the same samples, wherever the files lie."""
        return digest(self.plan())


def micro_batches(
    reader: SampleReader,
    first_sample: int,
    global_batch_size: int,
    micro_batch_size: int,
    data_rank: int,
    data_size: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """This data-parallel rank's micro-batches, from `first_sample` on.

    A global batch takes the next `global_batch_size` samples. Row j of rank d's micro-batch k is sample
    first_sample + k * (micro_batch_size * data_size) + d * micro_batch_size + j; k runs on over the steps,
    global_batch_size / (micro_batch_size * data_size) micro-batches to each. So all ranks together see each sample
    once, and a global batch holds the same samples for any data_size and micro_batch_size.

    Train samples go on for ever. Held-out samples end with the last whole global batch, on all ranks alike.

    Yields:
        tokens_BS, labels_BS: int64; labels are the tokens one place later.

    Raises:
        ValueError: the global batch cannot be divided.
    """
    together = micro_batch_size * data_size
    if min(global_batch_size, micro_batch_size, data_size) < 1 or global_batch_size % together:
        raise ValueError(
            f"global_batch_size {global_batch_size} must be a multiple of micro_batch_size {micro_batch_size} "
            f"times the data-parallel degree {data_size}, {together}"
        )
    if not 0 <= data_rank < data_size:
        raise ValueError(f"data_rank {data_rank} must lie in [0, {data_size})")
    if first_sample < 0:
        raise ValueError(f"first_sample {first_sample} must not be negative")
    start = first_sample
    while reader.sample_count is None or start + global_batch_size <= reader.sample_count:
        for first in range(start + data_rank * micro_batch_size, start + global_batch_size, together):
            sample_BS1 = torch.from_numpy(reader.samples(np.arange(first, first + micro_batch_size)))
            yield sample_BS1[:, :-1].contiguous(), sample_BS1[:, 1:].contiguous()
        start += global_batch_size
