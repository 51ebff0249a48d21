"""Random samples with everything that an objective adds to tokens: layouts, loss masks, keys for dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pretrain.config import BLANK_TOKENS, TrainConfig
from pretrain.data.objective import Batch, Objective, Windows
from pretrain.topology import Topology

END_OF_DOCUMENT = len(BLANK_TOKENS)
"""Token that ends documents; those below are the objective's own."""
DOCUMENT_SHARE, COUNTED_SHARE = 1 / 20, 0.7
"""Share of tokens that end a document, and of targets that count in the loss."""


class RandomSamples:
    """Samples of one global batch, the same under every topology.

    Args:
        config: settings of the run that trains on them.
        number: of the batch; another number gives other samples.
    """

    def __init__(self, config: TrainConfig, number: int = 0) -> None:
        self.size = config.batch.global_batch_size
        self._micro_batch_size = config.batch.micro_batch_size
        length = config.data.sequence_length
        random = np.random.default_rng([config.seed, number])
        shape = self.size, length + 1
        self._tokens = random.integers(END_OF_DOCUMENT + 1, config.model.vocabulary_size, shape)
        self._tokens[random.random(shape) < DOCUMENT_SHARE] = END_OF_DOCUMENT
        self._samples = self.size * number + np.arange(self.size)
        self._objective = Objective(
            config.objective,
            config.seed,
            two_dimensional=config.model.positions == "learned_2d",
            dropout=config.has_dropout,
        )
        is_causal = self._objective.is_causal
        self._weights = (random.random((self.size, length)) < COUNTED_SHARE).astype(float) if is_causal else None
        self._opens = self._tokens[:, :-1] == END_OF_DOCUMENT if config.objective.separate_documents else None
        _, (_, weights) = self._built(np.arange(self.size))
        self._scale = self.size / float(weights.sum())

    def batch(self, rows: Sequence[int] | np.ndarray) -> Batch:
        """The samples of some rows of the global batch, over all of which the weights of targets sum to its size."""
        inputs, (targets, weights) = self._built(np.asarray(rows))
        return inputs, (targets, (weights * self._scale).float())

    def micro_batches(
        self, topology: Topology, data_rank: int, change: Callable[[Batch], Batch] = lambda batch: batch
    ) -> Iterator[Batch]:
        """Micro-batches of a data rank, each changed by `change`."""
        for rows in np.arange(self.size).reshape(-1, topology.data, self._micro_batch_size)[:, data_rank]:
            yield change(self.batch(rows))

    def _built(self, rows: np.ndarray) -> Batch:
        weights = None if self._weights is None else self._weights[rows]
        opens = None if self._opens is None else self._opens[rows]
        return self._objective.batch(Windows(self._tokens[rows], self._samples[rows], weights, opens))
