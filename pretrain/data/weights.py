"""Weights of the targets: the loss is one weighted mean over the targets of the whole global batch.

A mean of micro-batch means would make a token's weight depend on its neighbours, differently under each topology, and
would count a window without targets as a loss of zero. So the weights of a global batch are normalised together before
it is divided: every rank computes their sum from the masks and boundaries of all its samples. The weight of a target
depends on `objective.weighting`:

    token       1
    document    1 / n, with n the targets of its whole document
    sample      1 / n, with n the targets of its sample

A window without targets has the weight 0 in each case.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from data_prep.indexed_dataset.reader import IndexedDataset
from pretrain.data.objective import Objective
from pretrain.data.order import SampleLocations

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

_CHUNK = 1 << 24
_REMEMBERED_DOCUMENTS = 1 << 16


class TargetWeights:
    """Relative weights of the targets of any sample.

    Args:
        datasets: the reader's datasets, in its order.
        end_of_document: the token that ends documents, see `document_boundaries`.
        objective: its kind and weighting decide the weights.
    """

    def __init__(self, datasets: tuple[IndexedDataset, ...], end_of_document: int, objective: Objective) -> None:
        self._datasets = datasets
        self._end_of_document = end_of_document
        self._objective = objective
        self._weighting = objective.config.weighting
        self._separate = objective.config.separate_documents
        self.are_of_stream = objective.is_causal or all(dataset.is_packed for dataset in datasets)
        """Whether weights belong to tokens of the streams: each token, or each learnt one of a pack, is predicted at
        one place."""
        self._learnt_tokens = lru_cache(_REMEMBERED_DOCUMENTS)(self._count_learnt_tokens)

    @property
    def are_equal(self) -> bool:
        """Whether all targets of all samples have the same weight, so that none needs to be computed."""
        return (
            self._objective.is_causal
            and self._weighting != "document"
            and not self._separate
            and not any(dataset.has_loss_mask for dataset in self._datasets)
        )

    def of_window(self, dataset: int, window: int, length: int) -> Floats:
        """Weights of the targets of a sample whose weights are of the stream, fp64 [length]."""
        start = window * length + 1
        counted = self._counted(dataset, start, start + length)
        weights = counted.astype(np.float64)
        if self._weighting == "sample":
            weights /= max(int(counted.sum()), 1)
        elif self._weighting == "document":
            for first, stop, document in _parts(self._datasets[dataset], start, start + length):
                inside = slice(first - start, stop - start)
                if counted[inside].any():
                    weights[inside] /= self._learnt_tokens(dataset, document)
        return weights

    def sums(self, places: SampleLocations, samples: npt.NDArray[np.int64], length: int) -> Floats:
        """Sum of the weights of each sample, [N]."""
        return np.fromiter(self._sums(places, samples, length), np.float64, len(samples))

    def total(self, places: SampleLocations, samples: npt.NDArray[np.int64], length: int) -> tuple[float, int]:
        """Sum of the weights of all these samples, and the number of their targets."""
        if self.are_equal:
            targets = len(samples) * length
        elif self.are_of_stream:
            rows = zip(places.dataset.tolist(), places.window.tolist(), strict=True)
            targets = sum(int(np.count_nonzero(self.of_window(*row, length))) for row in rows)
        else:
            targets = sum(self._objective.predicted_tokens(sample, length) for sample in samples.tolist())
        return float(self.sums(places, samples, length).sum()), targets

    def any(self, places: SampleLocations, samples: npt.NDArray[np.int64], length: int) -> bool:
        """Whether any of these samples has a target that counts."""
        return self.are_equal or any(total > 0 for total in self._sums(places, samples, length))

    def _sums(self, places: SampleLocations, samples: npt.NDArray[np.int64], length: int) -> Iterator[float]:
        rows = zip(places.dataset.tolist(), places.window.tolist(), samples.tolist(), strict=True)
        for dataset, window, sample in rows:
            if self.are_equal:
                yield float(length if self._weighting == "token" else 1)
            elif self.are_of_stream:
                yield float(self.of_window(dataset, window, length).sum())
            else:
                yield float(self._objective.predicted_tokens(sample, length) if self._weighting == "token" else 1)

    def datasets_without_targets(self, length: int) -> list[int]:
        """Datasets whose loss mask leaves no target in any of their windows of `length` targets."""
        return [
            index
            for index, dataset in enumerate(self._datasets)
            if dataset.has_loss_mask and not _counts_any(dataset, 1, (dataset.token_count - 1) // length * length + 1)
        ]

    def _counted(self, dataset: int, start: int, stop: int) -> Booleans:
        """Whether each of the tokens [start, stop) of the stream counts as a target."""
        tokens = self._datasets[dataset]
        counted = tokens.loss_mask(start, stop)
        if not self._separate:
            return counted
        _, crosses = document_boundaries(tokens, start, stop, self._end_of_document)
        return counted & ~crosses

    def _count_learnt_tokens(self, dataset: int, document: int) -> int:
        return int(self._counted(dataset, *self._datasets[dataset].document_range(document)).sum())


def document_boundaries(
    dataset: IndexedDataset, start: int, stop: int, end_of_document: int
) -> tuple[Booleans, Booleans]:
    """Boundaries of documents among the tokens [start, stop), by the index and not by the tokens: a conversation whose
    turns end with the end-of-document token is one document.

    Returns:
        For each token, whether it opens a document as an input: the end-of-document token after the previous document,
        or the document's own first token where there is none. And whether it is a target across a boundary, which a
        separated document cannot predict: its first token, where no end-of-document token precedes it.
    """
    opens, crosses = np.zeros((2, stop - start), np.bool_)
    begins = dataset.document_starts(start, min(stop + 1, dataset.token_count))
    if dataset.is_packed:
        inside = begins[begins < stop] - start
        opens[inside] = crosses[inside] = True
        return opens, crosses
    for begin in begins.tolist():
        before = int(dataset.tokens(begin - 1, begin)[0]) if begin else end_of_document
        if before == end_of_document and begin:
            if begin > start:
                opens[begin - 1 - start] = True
            continue
        if begin < stop:
            opens[begin - start] = crosses[begin - start] = True
    return opens, crosses


def _parts(dataset: IndexedDataset, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Parts of documents in [start, stop) of the stream: (start, stop, document)."""
    while start < stop:
        document = dataset.document_at(start)
        end = min(dataset.document_range(document)[1], stop)
        yield start, end, document
        start = end


def _counts_any(dataset: IndexedDataset, start: int, stop: int) -> bool:
    return any(dataset.loss_mask(first, min(first + _CHUNK, stop)).any() for first in range(start, stop, _CHUNK))
