"""Rows of tokens of which the last ones are scored, and their micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pretrain.data.objective import Batch

Integers = npt.NDArray[np.int64]
NO_ROW = -1
"""Number in place of a row's where a micro-batch is filled up."""


@dataclass(frozen=True)
class Rows:
    """Tokens of all rows, one row after the other.

    Attributes:
        tokens: int32.
        sizes: number of tokens of each row, at least 2; the last one is a target only.
        scored: number of last tokens of each row that are scored, less than its size.
    """

    tokens: npt.NDArray[np.int32]
    sizes: Integers
    scored: Integers

    @classmethod
    def of(cls, rows: Sequence[tuple[Sequence[int], int]]) -> Rows:
        """Rows from pairs of tokens and number of scored tokens."""
        sizes = np.array([len(tokens) for tokens, _ in rows], np.int64)
        tokens = np.fromiter((token for tokens, _ in rows for token in tokens), np.int32, int(sizes.sum()))
        return cls(tokens, sizes, np.array([scored for _, scored in rows], np.int64))

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class Division:
    """Rows of similar lengths, divided into micro-batches.

    Attributes:
        length: number of tokens to which each row is padded, the last target not counted.
        numbers: numbers of the rows, [micro-batches, data ranks, rows of a micro-batch]; `NO_ROW` fills up.
    """

    length: int
    numbers: Integers


def divide(rows: Rows, lengths: Sequence[int], tokens_at_once: int, data_size: int) -> list[Division]:
    """Divide rows over the data ranks, longest first, so that a lack of memory shows at once.

    Args:
        lengths: lengths to which rows are padded, ascending; the last one is that of the longest row or longer.
        tokens_at_once: tokens of a micro-batch; one of longer rows has a single row.
    """
    place = np.searchsorted(lengths, rows.sizes - 1)
    found = []
    for index in reversed(range(len(lengths))):
        mine = np.flatnonzero(place == index)
        if not len(mine):
            continue
        at_once = min(max(1, tokens_at_once // lengths[index]), -(-len(mine) // data_size))
        numbers = np.full(-(-len(mine) // (at_once * data_size)) * at_once * data_size, NO_ROW)
        numbers[: len(mine)] = mine
        found.append(Division(lengths[index], numbers.reshape(-1, data_size, at_once)))
    return found


def micro_batches(rows: Rows, length: int, numbers: Integers) -> Iterator[Batch]:
    """Micro-batches of one data rank.

    Args:
        numbers: numbers of the rows, [micro-batches, rows of a micro-batch].

    Yields:
        Tokens, and targets with whether each is scored, [B, S] each. A row stands at the beginning; no token of it
        attends to the padding behind it.
    """
    ends = np.cumsum(rows.sizes)
    for chosen in numbers:
        tokens = np.zeros((len(chosen), length + 1), np.int64)
        is_scored = np.zeros((len(chosen), length), np.bool_)
        for place, number in enumerate(chosen.tolist()):
            if number == NO_ROW:
                continue
            size, scored, end = int(rows.sizes[number]), int(rows.scored[number]), int(ends[number])
            tokens[place, :size] = rows.tokens[end - size : end]
            is_scored[place, size - 1 - scored : size - 1] = True
        inputs, targets = np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])
        yield torch.from_numpy(inputs), (torch.from_numpy(targets), torch.from_numpy(is_scored))
