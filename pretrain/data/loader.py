"""From sample numbers to the tokens of their windows. Shape suffix: N samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.indexed_dataset.format import TokenFileError, bin_path, idx_path, loss_mask_path
from data_prep.indexed_dataset.permutation import KeyedPermutation
from data_prep.indexed_dataset.reader import IndexedDataset
from data_prep.indexed_dataset.withdrawn import withdrawn_path
from foundation.atomic_files import digest, fingerprint
from pretrain.config import TrainConfig
from pretrain.data.mixture import MixtureFile, Split, load_mixture
from pretrain.data.order import SampleLocations, SampleOrder, window_count
from pretrain.data.phases import PhaseChange, build_phases
from pretrain.data.skips import SkippedRanges

HELD_OUT_KEY = "held-out"
"""Key of the held-out order. Not the run's seed, so that runs with different seeds are evaluated on the same text."""


@dataclass(frozen=True)
class DocumentPart:
    """Tokens [start, stop) of one document, and their place [offset, offset + stop - start) in the sample."""

    document: int
    start: int
    stop: int
    offset: int


@dataclass(frozen=True)
class SampleDescription:
    """Origin of a sample: tokens [start, stop) of a dataset's stream, and the documents that they belong to."""

    sample: int
    dataset: str
    epoch: int
    window: int
    start: int
    stop: int
    parts: tuple[DocumentPart, ...]


class SampleReader:
    """Samples of a mixture by number.

    There is no last train sample, see `pretrain.data.order`. Held-out samples are the windows of all held-out files,
    each once, in a random order that is the same in every run, so that the first few represent all sources. A dataset
    whose held-out part is shorter than a window has none.

    Args:
        mixture: the token files.
        sequence_length: targets of a sample, which has one token more.
        seed: seed of the order of the train samples.
        split: train or held-out samples.
        weights: weights that the run begins with, by dataset; None: those of the mixture. Train samples only.
        phases: changes of weights and sequence length; train samples only.
        skipped: half-open ranges of train samples that are not trained on, see `pretrain.data.skips`.

    Raises:
        ValueError: a train dataset, or the held-out part as a whole, is shorter than one window; files are damaged, or
            packed to another length.
    """

    def __init__(
        self,
        mixture: MixtureFile,
        sequence_length: int,
        seed: int,
        split: Split = "train",
        *,
        weights: Mapping[str, float] | None = None,
        phases: Sequence[PhaseChange] = (),
        skipped: Sequence[tuple[int, int]] = (),
    ) -> None:
        if split == "heldout" and (weights or phases or skipped):
            raise ValueError("weights, phases and skipped ranges are for train samples; held-out samples have none")
        if sequence_length < 1:
            raise ValueError(f"sequence_length {sequence_length} must be positive")
        self.mixture = mixture
        self.sequence_length = sequence_length
        self.split = split
        self._refuse_other_packs({sequence_length, *(phase.sequence_length or sequence_length for phase in phases)})
        opened = [(entry, mixture.open(entry, split)) for entry in mixture.datasets]
        datasets = [(entry, dataset) for entry, dataset in opened if dataset is not None]
        if split == "heldout":
            datasets = [pair for pair in datasets if window_count(pair[1].token_count, sequence_length)]
            if not datasets:
                raise ValueError(
                    f"{mixture.path}: no held-out part fills a window of sequence_length {sequence_length} + 1 "
                    "tokens; raise tokens.heldout_share and tokenize again, or shorten sequence_length"
                )
        self.datasets = tuple(dataset for _, dataset in datasets)
        self.names = tuple(entry.name for entry, _ in datasets)
        windows = [window_count(dataset.token_count, sequence_length) for dataset in self.datasets]
        self._first_samples = np.concatenate([[0], np.cumsum(windows)])
        self.order: SampleOrder | None = None
        """Order of the train samples; None for the held-out split."""
        self.skipped = SkippedRanges(skipped)
        """Skipped samples; replace it to skip more, see `SkippedRanges.and_then`."""
        if split == "train":
            begun = weights or {entry.name: entry.weight for entry, _ in datasets}
            token_counts = [dataset.token_count for dataset in self.datasets]
            try:
                built = build_phases(self.names, begun, sequence_length, phases)
                self.order = SampleOrder(seed, self.names, token_counts, built)
            except ValueError as error:
                raise ValueError(f"{mixture.path}: {error}") from None

    def _refuse_other_packs(self, lengths: set[int]) -> None:
        for entry in self.mixture.datasets:
            for length in sorted(lengths):
                if entry.packed is not None and length != entry.packed:
                    raise ValueError(
                        f"{self.mixture.path}: dataset {entry.name!r} is packed to {entry.packed} tokens, but "
                        f"data.sequence_length is {length}, or that of a phase: use {entry.packed}, or tokenize again "
                        f"with tokens.pack={length}"
                    )

    @property
    def is_packed(self) -> bool:
        """Whether each dataset is packed."""
        return all(dataset.is_packed for dataset in self.datasets)

    @property
    def sample_count(self) -> int | None:
        """Number of held-out samples; None for train samples, of which there is no last one."""
        return None if self.order else int(self._first_samples[-1])

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
        """Number of the sample after the last one that a run has trained on after `position` consumed samples."""
        return int(self.skipped.samples_at(position - 1)) + 1 if position else 0

    def phase_at(self, sample: int) -> int:
        """Index of the phase that a sample belongs to."""
        return int(self.order.phase_at(np.array([sample]))[0]) if self.order else 0

    def lengths(self, samples: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Sequence length of each of these samples."""
        given = np.atleast_1d(np.asarray(samples, np.int64))
        if not self.order:
            return np.full(given.shape, self.sequence_length)
        return np.array([phase.sequence_length for phase in self.order.phases])[self.order.phase_at(given)]

    def tokens_before(self, position: int) -> int:
        """Number of targets that a run has trained on after `position` consumed samples."""
        if not self.order:
            return position * self.sequence_length
        starts = [min(position, self.skipped.position_of(phase.first_sample)) for phase in self.order.phases]
        counts = np.diff([*starts, position]).tolist()
        return sum(n * phase.sequence_length for n, phase in zip(counts, self.order.phases, strict=True))

    def samples(self, samples: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Tokens of these samples, [N, sequence_length + 1], int64.

        Raises:
            ValueError: their sequence lengths differ.
        """
        lengths = np.unique(self.lengths(samples))
        if len(lengths) > 1:
            raise ValueError(f"samples of lengths {', '.join(map(str, lengths))} do not fit into one array")
        return self.read(self.locate(samples), int(lengths[0]) if len(lengths) else self.sequence_length)

    def read(self, places: SampleLocations, length: int) -> npt.NDArray[np.int64]:
        """Tokens of samples of sequence length `length` at places found by `locate`, [N, length + 1], int64."""
        tokens = np.empty((len(places.dataset), length + 1), np.int64)
        rows = zip(tokens, places.dataset.tolist(), places.window.tolist(), strict=True)
        for row, dataset, window in rows:
            row[:] = self.datasets[dataset].tokens(window * length, (window + 1) * length + 1)
        return tokens

    @property
    def has_mask_files(self) -> bool:
        """Whether some datasets have a loss mask."""
        return any(dataset.has_mask_file for dataset in self.datasets)

    @property
    def withdrawn(self) -> dict[str, tuple[int, int]]:
        """Number of documents that were taken out, and of their tokens, by dataset."""
        return {
            name: (len(dataset.withdrawn.documents), dataset.withdrawn.tokens)
            for name, dataset in zip(self.names, self.datasets, strict=True)
            if dataset.withdrawn is not None
        }

    def sample(self, i: int) -> npt.NDArray[np.int64]:
        """Tokens of sample `i`, [sequence_length + 1], int64."""
        return self.samples([i])[0]

    def describe(self, i: int) -> SampleDescription:
        """Origin of every token of sample `i`."""
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

        Skipped ranges are not included: they decide which samples are trained on, not what is in them. Neither are
        documents that were taken out: their files count as they were before, so that a run goes on without them.

        Args:
            before: omit phases that begin at this sample or later, for the plan of the samples before it.
        """
        order = self.order.plan(before) if self.order else None
        used = order["names"] if order else self.names
        return {
            "split": self.split,
            "sequence_length": self.sequence_length,
            "vocabulary_size": self.mixture.vocabulary_size,
            "end_of_document": self.mixture.end_of_document,
            "order": order or HELD_OUT_KEY,
            "files": {name: self._files[name] for name in used},
        }

    @cached_property
    def _files(self) -> dict[str, Any]:
        files = {}
        for entry in self.mixture.datasets:
            if entry.name in self.names:
                dataset = self.datasets[self.names.index(entry.name)]
                recorded = entry.sha256 if self.split == "train" else entry.heldout_sha256
                checksums = recorded.model_dump(exclude_none=True) if recorded else None
                found = fingerprint(bin_path(dataset.prefix))
                if dataset.withdrawn is not None and checksums is not None:
                    _check_withdrawn(dataset, found)
                    found = dataset.withdrawn.original_fingerprint
                    checksums |= {"bin": dataset.withdrawn.original_sha256}
                    del checksums["withdrawn"]
                files[entry.name] = {
                    "recorded": checksums,
                    "bin": found,
                    "idx": fingerprint(idx_path(dataset.prefix)),
                }
                if dataset.has_mask_file:
                    files[entry.name]["loss_mask"] = fingerprint(loss_mask_path(dataset.prefix))
        return files

    def digest(self, before: int | None = None) -> str:
        """SHA-256 of the plan: the same digest means the same tokens in the same samples, wherever the files are, but
        for documents that were taken out."""
        return digest(self.plan(before))


def _check_withdrawn(dataset: IndexedDataset, found: str) -> None:
    assert dataset.withdrawn is not None
    if dataset.withdrawn.fingerprint != found:
        raise TokenFileError(
            f"{bin_path(dataset.prefix)}: not the file from which the documents in {withdrawn_path(dataset.prefix)} "
            "were taken out: restore it, or run `altiplano data run` on its configuration again"
        )


def training_samples(
    config: TrainConfig, mixture: Path | None = None, *, skipped: Sequence[tuple[int, int]] = ()
) -> SampleReader:
    """Train samples of a run.

    Args:
        mixture: where its token files are now; None: where the configuration says.
        skipped: half-open ranges of samples that are left out.

    Raises:
        ValueError: the token files are missing, damaged, or too short.
    """
    found, data = load_mixture(mixture or config.data.mixture), config.data
    return SampleReader(
        found, data.sequence_length, config.seed, weights=data.weights, phases=data.phases, skipped=skipped
    )
