"""Documents of all encoded shards of a source, in a random order: one after another, or in packs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.conversations.packing import pack_of_each
from data_prep.indexed_dataset.origins import PADDING, origins_path
from data_prep.indexed_dataset.permutation import KeyedPermutation
from data_prep.indexed_dataset.reader import IndexedDataset

Integers = npt.NDArray[np.int64]

_GATHERED_TOKENS = 4_000_000
"""Number of tokens in memory while a source is collected."""
_GATHERED_DOCUMENTS = 100_000


@dataclass(frozen=True)
class Gathered:
    """Some concatenated documents.

    Attributes:
        tokens, loss_mask: [sum of sizes].
        sizes, origins: of each sequence, [sequences].
        groups: number of sequences of each document; None: one.
    """

    is_heldout: bool
    tokens: npt.NDArray[Any]
    loss_mask: npt.NDArray[np.bool_]
    sizes: Integers
    origins: Integers
    groups: Integers | None = None


@dataclass(frozen=True)
class Encodings:
    """Encoded shards of a source.

    Attributes:
        flags: whether each document of a shard is held out; origins: its packed id, see `origins`.
    """

    datasets: Sequence[IndexedDataset]
    flags: Sequence[npt.NDArray[np.bool_]]
    origins: Sequence[Integers]

    @classmethod
    def open(cls, prefixes: Sequence[Path], flags: Sequence[Path]) -> Encodings:
        """Open shards by their prefixes and the files of their flags."""
        datasets = [IndexedDataset(prefix) for prefix in prefixes]
        return cls(datasets, [np.load(path) for path in flags], [np.load(origins_path(path)) for path in prefixes])

    @property
    def has_loss_mask(self) -> bool:
        return any(dataset.has_loss_mask for dataset in self.datasets)

    @property
    def splits(self) -> tuple[bool, ...]:
        """Which splits have documents: False is training, True held out."""
        return tuple(split for split in (False, True) if any((flag == split).any() for flag in self.flags))

    def shuffled(self, key: str) -> Iterator[Gathered]:
        """Yield all documents in random order, in batches."""
        flags, sizes = self._flags_and_sizes()
        permutation = KeyedPermutation(len(flags), key)
        for first in range(0, len(flags), _GATHERED_DOCUMENTS):
            order = permutation(np.arange(first, min(first + _GATHERED_DOCUMENTS, len(flags))))
            for batch in _batches(sizes[order]):
                for is_heldout in (False, True):
                    chosen = order[batch][flags[order[batch]] == is_heldout]
                    if len(chosen):
                        yield self._gathered(chosen, sizes[chosen], is_heldout)

    def packed(self, key: str, length: int, padding: int) -> Iterator[Gathered]:
        """Yield packs of `length` tokens in random order, in batches; the last pack of a split has one token more, so
        that the target of its last input exists.

        Args:
            padding: token that fills the packs.
        """
        flags, sizes = self._flags_and_sizes()
        order = KeyedPermutation(len(flags), key)(np.arange(len(flags)))
        for is_heldout in self.splits:
            chosen = order[flags[order] == is_heldout]
            packs, count = pack_of_each(sizes[chosen], length)
            place = KeyedPermutation(count, f"{key}/packs/{is_heldout}")(np.arange(count))[packs]
            by_pack = np.argsort(place, kind="stable")
            chosen, place = chosen[by_pack], place[by_pack]
            groups = np.bincount(place, minlength=count)
            rooms = length - np.bincount(place, sizes[chosen], count).astype(np.int64)
            rooms[-1] += 1
            ends = np.cumsum(groups)
            at_once = max(1, _GATHERED_TOKENS // length)
            for first in range(0, count, at_once):
                here = slice(first, min(first + at_once, count))
                inside = chosen[ends[first] - groups[first] : ends[here.stop - 1]]
                # A place for the padding after each pack that is not full.
                gaps = np.flatnonzero(rooms[here])
                after = np.cumsum(groups[here])[gaps]
                documents = np.insert(inside, after, PADDING)
                filled = np.insert(sizes[inside], after, rooms[here][gaps])
                yield self._gathered(documents, filled, is_heldout, groups[here] + (rooms[here] > 0), padding)

    def _flags_and_sizes(self) -> tuple[npt.NDArray[np.bool_], Integers]:
        return np.concatenate(self.flags), np.concatenate([dataset.sizes for dataset in self.datasets])

    def _gathered(
        self,
        documents: Integers,
        sizes: Integers,
        is_heldout: bool,
        groups: Integers | None = None,
        padding: int = 0,
    ) -> Gathered:
        """Copy documents, given by their numbers over all shards; `PADDING` is as much padding as its size."""
        ends = np.cumsum([len(dataset) for dataset in self.datasets])
        stops = np.cumsum(sizes)
        tokens = np.full(int(sizes.sum()), padding, self.datasets[0].dtype)
        mask = np.zeros(len(tokens), np.bool_)
        origins = np.full(len(documents), PADDING, np.int64)
        shards = np.searchsorted(ends, documents, "right")
        shards[documents == PADDING] = -1
        for shard in np.unique(shards[shards >= 0]).tolist():
            mine = np.flatnonzero(shards == shard)
            dataset = self.datasets[shard]
            inner = documents[mine] - (int(ends[shard]) - len(dataset))
            source, goal = (
                _expanded(dataset.starts(inner), sizes[mine]),
                _expanded(stops[mine] - sizes[mine], sizes[mine]),
            )
            tokens[goal] = dataset.tokens(0, dataset.token_count)[source]
            mask[goal] = dataset.loss_mask(0, dataset.token_count)[source] if dataset.has_loss_mask else True
            origins[mine] = self.origins[shard][inner]
        return Gathered(is_heldout, tokens, mask, sizes, origins, groups)


def _batches(sizes: Integers) -> Iterator[slice]:
    """Yield ranges of documents of about as many tokens as are held at a time; each has at least one document."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        before = int(ends[first - 1]) if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, before + _GATHERED_TOKENS, "right")))
        yield slice(first, stop)
        first = stop


def _expanded(starts: Integers, sizes: Integers) -> Integers:
    """Return the numbers of all tokens of ranges that begin at `starts`, one range after another."""
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(int(sizes.sum()))
