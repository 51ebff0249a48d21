"""The order of the train samples: sample i is pure arithmetic on (seed, i, plan), with no index to build or store.

A *window* of a dataset is `sequence_length + 1` consecutive tokens of its stream, `sequence_length` inputs and as many
targets, each one token later. Windows begin `sequence_length` tokens apart, so that each shares one token with the
next: the last target of one is the first input of the other. Of T tokens that makes W = (T - 1) // sequence_length
windows. In an epoch each token from 1 to W * sequence_length is a target exactly once, token 0 is an input only, and
the last (T - 1) % sequence_length tokens are left out.

*Which dataset* sample i comes from is decided by a binary tree over the datasets. At each node a Bresenham line deals
the samples to the left and the right branch in the ratio of their weights. Weights are whole numbers; each block of
sum(weights) consecutive samples, counted from a multiple of it, has exactly `weight` samples of each dataset, and any
prefix deviates from proportion by at most half a sample for each level of the tree.

*Which window* of the dataset it is, is decided by a permutation of its windows, a different one in each epoch.

A *phase* changes weights or sequence length from some sample on; its blocks count from its first sample. New weights do
not change the windows: each dataset continues in its own order, so that no window is repeated or lost. Another sequence
length cuts a dataset into other windows, which are used from the beginning; a phase that returns to an earlier length
continues where that pass ended.

All functions take arrays of sample numbers and cost O(log datasets) per sample, however large the datasets are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.indexed_dataset.permutation import KeyedPermutation

Integers = npt.NDArray[np.int64]

_WEIGHT_RESOLUTION = 1_000_000
"""Number of parts of the mixture to which weights are rounded that are not whole numbers."""


def window_count(tokens: int, sequence_length: int) -> int:
    """Number of windows of `sequence_length + 1` tokens in a stream of `tokens` tokens."""
    return max(0, (tokens - 1) // sequence_length)


def whole_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """Positive weights as the smallest whole numbers in the same proportion.

    Whole numbers are exact, up to a sum of a million. Others are rounded to millionths of the mixture by largest
    remainder, each to at least one millionth.

    Raises:
        ValueError: there are no weights, or one is not a positive number.
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
    """Number of the first `samples` samples of a node that go left: samples * left_weight / weight, rounded half up."""
    blocks, rest = samples // weight, samples % weight
    return blocks * left_weight + (2 * rest * left_weight + weight) // (2 * weight)


@dataclass(frozen=True)
class SampleLocations:
    """Places of samples, one entry for each: index of the dataset, epoch of that dataset, window in it."""

    dataset: Integers
    epoch: Integers
    window: Integers


class Dealing:
    """Assignment of samples to datasets, see the top of this file.

    Args:
        weights: weight of each dataset, see `whole_weights`; 0: no samples of this dataset.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._given = [d for d, weight in enumerate(weights) if weight != 0]
        whole = whole_weights([weights[d] for d in self._given])
        self.weights = tuple(whole[self._given.index(d)] if d in self._given else 0 for d in range(len(weights)))
        self.block_samples = sum(whole)
        self._root = _tree(whole, 0, len(whole))

    def __call__(self, samples: Integers) -> tuple[Integers, Integers]:
        """Dataset of each sample, and number of earlier samples of that dataset."""
        dataset = np.empty(samples.shape, np.int64)
        drawn = np.empty(samples.shape, np.int64)
        self._deal(self._root, samples, np.arange(samples.size), dataset, drawn)
        return np.array(self._given, np.int64)[dataset], drawn

    def drawn(self, samples: int) -> tuple[int, ...]:
        """Number of the first `samples` samples that come from each dataset."""
        counts = [0] * len(self.weights)

        def deal(node: _Node, count: int) -> None:
            if node.left is None or node.right is None:
                counts[self._given[node.first]] = count
                return
            left = _dealt_left(count, node.left.weight, node.weight)
            deal(node.left, left)
            deal(node.right, count - left)

        deal(self._root, samples)
        return tuple(counts)

    def _deal(self, node: _Node, ranks: Integers, places: Integers, dataset: Integers, drawn: Integers) -> None:
        """Deal samples to the datasets of a node.

        Args:
            ranks: indices of the samples among those of the node.
            places: indices of their results in `dataset` and `drawn`.
        """
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


@dataclass(frozen=True)
class Phase:
    """Weights and sequence length from `first_sample` on, until the next phase begins."""

    first_sample: int
    sequence_length: int
    weights: tuple[float, ...]
    """Weight of each dataset, see `whole_weights`; 0: no samples of this dataset."""


class SampleOrder:
    """The order of the training samples: sample i as a function of (seed, i) and the plan below.

    Args:
        seed: seed of the run.
        names: names of the datasets. They are part of the permutations' keys, so that a dataset keeps its order when
            others are added or removed.
        tokens: number of tokens of each dataset.
        phases: at least one; the first begins at sample 0.

    Raises:
        ValueError: phases are out of order, or a dataset with a weight is shorter than a window.
    """

    def __init__(self, seed: int, names: Sequence[str], tokens: Sequence[int], phases: Sequence[Phase]) -> None:
        if len(names) != len(tokens) or any(len(names) != len(phase.weights) for phase in phases):
            raise ValueError(
                f"{len(names)} names, {len(tokens)} token counts and {[len(phase.weights) for phase in phases]} "
                "weights in the phases: must be equal"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"dataset names must differ: {', '.join(names)}")
        if not phases or phases[0].first_sample != 0:
            raise ValueError("the first phase must begin at sample 0")
        for one, other in pairwise(phases):
            if other.first_sample <= one.first_sample:
                raise ValueError(
                    f"a phase from sample {other.first_sample} cannot follow one from sample {one.first_sample}; "
                    "phases must ascend"
                )
        for phase in phases:
            for name, count, weight in zip(names, tokens, phase.weights, strict=True):
                if weight and not window_count(count, phase.sequence_length):
                    raise ValueError(
                        f"dataset {name!r} has {count} tokens, fewer than one window of sequence_length "
                        f"{phase.sequence_length} + 1; leave it out or shorten sequence_length"
                    )
        self.seed = seed
        self.names = tuple(names)
        self.tokens = tuple(tokens)
        self.phases = tuple(phases)
        self.dealings = tuple(Dealing(phase.weights) for phase in phases)
        self._first_samples = np.array([phase.first_sample for phase in phases], np.int64)
        self._windows = {
            phase.sequence_length: np.array([window_count(count, phase.sequence_length) for count in tokens], np.int64)
            for phase in phases
        }
        self._drawn_before: list[Integers] = []
        """Number of samples of each dataset in all earlier phases of the same sequence length, by phase."""
        passed = {length: np.zeros(len(names), np.int64) for length in self._windows}
        for k, phase in enumerate(phases):
            self._drawn_before.append(passed[phase.sequence_length].copy())
            if k + 1 < len(phases):
                samples = phases[k + 1].first_sample - phase.first_sample
                passed[phase.sequence_length] += self.dealings[k].drawn(samples)
        self._permutation = lru_cache(maxsize=4 * len(names))(self._make_permutation)

    def phase_at(self, samples: npt.ArrayLike) -> Integers:
        """Index of the phase of each of these samples."""
        given = np.asarray(samples, np.int64)
        return np.asarray(np.searchsorted(self._first_samples, given, "right") - 1, np.int64)

    def locate(self, samples: npt.ArrayLike) -> SampleLocations:
        """Dataset, epoch and window of each of these samples, [samples]; windows have the length of their phase."""
        given = np.atleast_1d(np.asarray(samples, np.int64))
        if given.size and int(given.min()) < 0:
            raise ValueError(f"sample {int(given.min())} does not exist; samples count from 0")
        dataset, epoch, window = (np.empty(given.shape, np.int64) for _ in range(3))
        phases = self.phase_at(given)
        for k in np.unique(phases).tolist():
            mine = np.flatnonzero(phases == k)
            length = self.phases[k].sequence_length
            dataset[mine], drawn = self.dealings[k](given[mine] - self.phases[k].first_sample)
            drawn += self._drawn_before[k][dataset[mine]]
            epoch[mine], position = np.divmod(drawn, self._windows[length][dataset[mine]])
            for d, e in np.unique(np.stack([dataset[mine], epoch[mine]], axis=1), axis=0).tolist():
                chosen = (dataset[mine] == d) & (epoch[mine] == e)
                window[mine[chosen]] = self._permutation(d, e, length)(position[chosen])
        return SampleLocations(dataset, epoch, window)

    def plan(self, before: int | None = None) -> dict[str, Any]:
        """Everything that the order depends on, as JSON; datasets without a weight are left out, as what is used of the
        others does not depend on them.

        Args:
            before: omit phases that begin at this sample or later, except the first, for what samples before it depend
                on.
        """
        phases = [p for p in self.phases if before is None or p.first_sample == 0 or p.first_sample < before]
        used = [d for d in range(len(self.names)) if any(phase.weights[d] for phase in phases)]
        return {
            "order": 2,
            "seed": self.seed,
            "names": [self.names[d] for d in used],
            "tokens": [self.tokens[d] for d in used],
            "phases": [
                {**asdict(phase), "weights": [self.dealings[k].weights[d] for d in used]}
                for k, phase in enumerate(phases)
            ],
        }

    def _make_permutation(self, dataset: int, epoch: int, sequence_length: int) -> KeyedPermutation:
        windows = int(self._windows[sequence_length][dataset])
        return KeyedPermutation(windows, f"{self.seed}/{self.names[dataset]}/{epoch}")
