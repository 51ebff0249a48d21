"""Where sample i of a training run comes from: pure arithmetic on (seed, i, plan), nothing to build or to store.

A *window* of a dataset is `sequence_length + 1` consecutive tokens of its stream, `sequence_length` inputs and as many
targets, each one token later. Windows begin `sequence_length` tokens apart, so that each shares one token with the
next: the last target of one is the first input of the other. Of T tokens that makes W = (T - 1) // sequence_length
windows. In an epoch each token from 1 to W * sequence_length is a target exactly once, token 0 is an input only, and
the last (T - 1) % sequence_length tokens are left out: `tail_tokens` counts them.

*Which dataset* gives sample i is decided by a binary tree over the datasets. At each node a Bresenham line deals the
samples to the left and the right branch in the ratio of their weights. Weights are whole numbers; each block of
sum(weights) consecutive samples, counted from a multiple of it, holds exactly `weight` samples of each dataset, and any
prefix is as close to proportion as half a sample for each level of the tree.

*Which window* of the dataset it is, is decided by a permutation of its windows, another one for each epoch.

Everything takes arrays of sample numbers and costs O(log datasets) for each, however large the datasets are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.indexed_dataset.permutation import KeyedPermutation

Integers = npt.NDArray[np.int64]

_WEIGHT_RESOLUTION = 1_000_000
"""Weights that are no whole numbers are rounded to this many parts of the mixture."""


def window_count(tokens: int, sequence_length: int) -> int:
    """Windows of `sequence_length + 1` tokens in a stream of `tokens` tokens."""
    return max(0, (tokens - 1) // sequence_length)


def tail_tokens(tokens: int, sequence_length: int) -> int:
    """Tokens at the end of the stream that no window reaches."""
    windows = window_count(tokens, sequence_length)
    return tokens - (windows * sequence_length + 1) if windows else tokens


def whole_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """Positive weights as the smallest whole numbers in the same proportion.

    Whole numbers stay exact, up to a sum of a million. Others are rounded to millionths of the mixture by largest
    remainder, each at least one millionth.

    Raises:
        ValueError: no weights, or one that is not a positive number.
    """
    if not weights:
        raise ValueError("a mixture needs at least one weight")
    for i, weight in enumerate(weights):
        if not (weight > 0 and np.isfinite(weight)):
            raise ValueError(f"weight {weight} at place {i} must be a positive number")
    if all(float(weight).is_integer() for weight in weights) and sum(weights) <= _WEIGHT_RESOLUTION:
        parts = [int(weight) for weight in weights]
    else:
        exact = [weight / sum(weights) * _WEIGHT_RESOLUTION for weight in weights]
        parts = [max(1, int(share)) for share in exact]
        missing = _WEIGHT_RESOLUTION - sum(parts)
        by_remainder = sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))
        for i in by_remainder[: max(0, missing)]:
            parts[i] += 1
    divisor = int(np.gcd.reduce(parts))
    return tuple(part // divisor for part in parts)


@dataclass(frozen=True)
class _Node:
    """A half-open range of datasets, and how its samples are dealt to its two halves."""

    first: int
    stop: int
    weight: int
    left: _Node | None = None
    right: _Node | None = None


def _tree(weights: Sequence[int], first: int, stop: int) -> _Node:
    total = sum(weights[first:stop])
    if stop - first == 1:
        return _Node(first, stop, total)
    # Halves of about equal weight: few levels for the heavy datasets.
    running, middle = 0, first + 1
    for i in range(first, stop - 1):
        running += weights[i]
        if i == first or running * 2 <= total:
            middle = i + 1
    return _Node(first, stop, total, _tree(weights, first, middle), _tree(weights, middle, stop))


def _dealt_left(samples: Any, left_weight: int, weight: int) -> Any:
    """How many of the first `samples` samples of a node go left: samples * left_weight / weight, rounded half up."""
    blocks, rest = samples // weight, samples % weight
    return blocks * left_weight + (2 * rest * left_weight + weight) // (2 * weight)


@dataclass(frozen=True)
class SampleLocations:
    """Where samples come from, one entry for each: index of the dataset, epoch of that dataset, window in it."""

    dataset: Integers
    epoch: Integers
    window: Integers


class SampleOrder:
    """The order of the training samples: sample i as a function of (seed, i) and the plan below.

    Args:
        seed: of the whole run.
        names: of the datasets; they key the permutations, so that a dataset keeps its order when others come or go.
        windows: number of windows of each dataset, each at least 1.
        weights: of each dataset in the mixture, see `whole_weights`.
    """

    def __init__(self, seed: int, names: Sequence[str], windows: Sequence[int], weights: Sequence[float]) -> None:
        if not len(names) == len(windows) == len(weights):
            raise ValueError(f"{len(names)} names, {len(windows)} window counts, {len(weights)} weights: must be equal")
        if len(set(names)) < len(names):
            raise ValueError(f"dataset names must differ: {', '.join(names)}")
        for name, count in zip(names, windows, strict=True):
            if count < 1:
                raise ValueError(f"dataset {name!r} has no window; it needs at least one")
        self.seed = seed
        self.names = tuple(names)
        self.windows = tuple(windows)
        self.weights = whole_weights(weights)
        self.block_samples = sum(self.weights)
        """Each block of this many samples, from a multiple of it on, has exactly `weights[d]` samples of dataset d."""
        self._root = _tree(self.weights, 0, len(self.weights))
        self._permutation = lru_cache(maxsize=4 * len(names))(self._make_permutation)

    def locate(self, samples: npt.ArrayLike) -> SampleLocations:
        """Dataset, epoch and window of each of these samples, [samples]."""
        given = np.atleast_1d(np.asarray(samples, np.int64))
        if given.size and int(given.min()) < 0:
            raise ValueError(f"sample {int(given.min())} does not exist; samples count from 0")
        dataset = np.empty(given.shape, np.int64)
        drawn = np.empty(given.shape, np.int64)
        self._deal(self._root, given, np.arange(given.size), dataset, drawn)
        windows = np.array(self.windows, np.int64)[dataset]
        epoch, position = np.divmod(drawn, windows)
        window = np.empty(given.shape, np.int64)
        for d, e in np.unique(np.stack([dataset, epoch], axis=1), axis=0).tolist():
            chosen = (dataset == d) & (epoch == e)
            window[chosen] = self._permutation(d, e)(position[chosen])
        return SampleLocations(dataset, epoch, window)

    def drawn(self, samples: int) -> tuple[int, ...]:
        """How many of the first `samples` samples come from each dataset."""
        counts = [0] * len(self.names)

        def deal(node: _Node, count: int) -> None:
            if node.left is None or node.right is None:
                counts[node.first] = count
                return
            left = _dealt_left(count, node.left.weight, node.weight)
            deal(node.left, left)
            deal(node.right, count - left)

        deal(self._root, samples)
        return tuple(counts)

    def plan(self) -> dict[str, Any]:
        """Everything that the order depends on, as JSON."""
        return {
            "order": 1,
            "seed": self.seed,
            "names": list(self.names),
            "windows": list(self.windows),
            "weights": list(self.weights),
        }

    def _deal(self, node: _Node, ranks: Integers, places: Integers, dataset: Integers, drawn: Integers) -> None:
        """`ranks`: which of the node's samples these are; `places`: where their results belong."""
        if node.left is None or node.right is None:
            dataset[places], drawn[places] = node.first, ranks
            return
        before = _dealt_left(ranks, node.left.weight, node.weight)
        goes_left = _dealt_left(ranks + 1, node.left.weight, node.weight) > before
        if goes_left.any():
            self._deal(node.left, before[goes_left], places[goes_left], dataset, drawn)
        if not goes_left.all():
            goes_right = ~goes_left
            self._deal(node.right, (ranks - before)[goes_right], places[goes_right], dataset, drawn)

    def _make_permutation(self, dataset: int, epoch: int) -> KeyedPermutation:
        return KeyedPermutation(self.windows[dataset], f"{self.seed}/{self.names[dataset]}/{epoch}")
