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

    @property
    def _ends(self) -> Integers:
        return np.cumsum([len(dataset) for dataset in self.datasets])

    def shuffled(self, key: str) -> Iterator[Gathered]:
        """Yield all documents in random order, in batches."""
        total = int(self._ends[-1])
        permutation = KeyedPermutation(total, key)
        held = {split: _Held(split) for split in (False, True)}
        held_tokens = 0
        for first in range(0, total, _GATHERED_DOCUMENTS):
            order = permutation(np.arange(first, min(first + _GATHERED_DOCUMENTS, total)))
            for d, inner in self._places(order):
                part = held[bool(self.flags[d][inner])]
                held_tokens += part.add(*self._document(d, inner))
                if held_tokens >= _GATHERED_TOKENS:
                    yield from (one.release() for one in held.values() if one.tokens)
                    held_tokens = 0
            yield from (one.release() for one in held.values() if one.tokens)
            held_tokens = 0

    def packed(self, key: str, length: int, padding: int) -> Iterator[Gathered]:
        """Yield packs of `length` tokens in random order, in batches; the last pack of a split has one token more, so
        that the targets of its last input exist.

        Args:
            padding: token that fills the packs.
        """
        flags = np.concatenate(self.flags)
        sizes = np.concatenate([dataset.sizes for dataset in self.datasets])
        order = KeyedPermutation(len(flags), key)(np.arange(len(flags)))
        for is_heldout in self.splits:
            chosen = order[flags[order] == is_heldout]
            packs, count = pack_of_each(sizes[chosen], length)
            place = KeyedPermutation(count, f"{key}/packs/{is_heldout}")(np.arange(count))[packs]
            by_pack = np.argsort(place, kind="stable")
            groups = np.bincount(place, minlength=count)
            part = _Held(is_heldout)
            places = self._places(chosen[by_pack])
            for number, size in enumerate(groups.tolist()):
                room = length + (number + 1 == count)
                for _ in range(size):
                    room -= part.add(*self._document(*next(places)))
                if room:
                    filler = np.full(room, padding, self.datasets[0].dtype)
                    part.add(filler, np.zeros(room, np.bool_), PADDING)
                part.groups.append(size + (room > 0))
                if part.held_tokens >= _GATHERED_TOKENS:
                    yield part.release()
            if part.tokens:
                yield part.release()

    def _places(self, documents: Integers) -> Iterator[tuple[int, int]]:
        """Yield the shard of each document and its index there."""
        shard = np.searchsorted(self._ends, documents, "right")
        starts = self._ends - [len(dataset) for dataset in self.datasets]
        return zip(shard.tolist(), (documents - starts[shard]).tolist(), strict=True)

    def _document(self, shard: int, inner: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_], int]:
        """Return tokens, mask and origin of a document."""
        dataset = self.datasets[shard]
        start, stop = dataset.document_range(inner)
        return dataset.tokens(start, stop), dataset.loss_mask(start, stop), int(self.origins[shard][inner])


class _Held:
    """Documents of one split that are not yet written."""

    def __init__(self, is_heldout: bool) -> None:
        self._is_heldout = is_heldout
        self._clear()

    def _clear(self) -> None:
        self.held_tokens = 0
        self.tokens: list[npt.NDArray[Any]] = []
        self.groups: list[int] = []
        self._masks: list[npt.NDArray[np.bool_]] = []
        self._origins: list[int] = []

    def add(self, tokens: npt.NDArray[Any], mask: npt.NDArray[np.bool_], origin: int) -> int:
        """Add a sequence; return its number of tokens."""
        self.tokens.append(tokens)
        self._masks.append(mask)
        self._origins.append(origin)
        self.held_tokens += len(tokens)
        return len(tokens)

    def release(self) -> Gathered:
        """Return what is held, and hold nothing."""
        sizes = np.fromiter(map(len, self.tokens), np.int64, len(self.tokens))
        made = Gathered(
            self._is_heldout,
            np.concatenate(self.tokens),
            np.concatenate(self._masks),
            sizes,
            np.array(self._origins, np.int64),
            np.array(self.groups, np.int64) if self.groups else None,
        )
        self._clear()
        return made
