"""N-grams of all orders with their adjusted counts, from those of full order.

The adjusted count of an n-gram is the number of different words that occur before it; the begin of a sentence is one of
them. N-grams that begin with the begin of a sentence, and those of full order, are counted by their occurrences
(Heafield et al. 2013, aclanthology.org/P13-2121, section 3.2). N-grams of all orders are pruned by their occurrences,
as by `lmplz --prune`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.ngrams.counting import BEGIN_ID, UNKNOWN_ID
from data_prep.ngrams.packing import Numbers, Packing
from data_prep.ngrams.sorting import Rows, blocks_of, group_starts, whole_groups, write_rows
from foundation.atomic_files import room_for

NGRAM = np.dtype([("high", "<u8"), ("low", "<u8"), ("count", "<u8"), ("shorter", "<u8"), ("kept", "?")])
"""An n-gram, its adjusted count, the row of the n-gram without its first word in the file of the order below, and
whether it is not pruned."""
_PASSING = np.dtype([("high", "<u8"), ("low", "<u8"), ("occurrences", "<u8"), ("extensions", "<u8")])
"""An n-gram, its occurrences, and the number of different words before it."""
COUNTED_COUNTS = 4
"""Counts from 1 on whose n-grams are counted: discounts are computed from them."""


@dataclass
class Order:
    """The n-grams of one order, in a file of `NGRAM` in suffix order. The unigram of an id is in the row of that
    number.

    Attributes:
        with_count: number of n-grams with the adjusted counts 1, 2, 3 and 4.
    """

    n: int
    path: Path
    ngrams: int = 0
    kept: int = 0
    with_count: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(COUNTED_COUNTS, np.int64))

    def blocks(self) -> Iterator[Rows]:
        return blocks_of(self.path, NGRAM)

    def append(self, rows: Rows) -> None:
        """Write and count rows of `NGRAM`."""
        self.ngrams += len(rows)
        self.kept += int(rows["kept"].sum())
        capped = np.minimum(rows["count"], COUNTED_COUNTS + 1).astype(np.int64)
        self.with_count += np.bincount(capped, minlength=COUNTED_COUNTS + 2)[1 : COUNTED_COUNTS + 1]
        with room_for(self.path), open(self.path, "ab") as file:
            write_rows(file, rows)


def adjust(counted: Iterator[Rows], packing: Packing, thresholds: Sequence[int], folder: Path) -> list[Order]:
    """Write the n-grams of all orders.

    Args:
        counted: the different n-grams of full order in suffix order, as of `NGramCounter`.
        thresholds: occurrences up to which n-grams of each order are pruned.
        folder: folder for the files.

    Returns:
        The orders from 1 on.
    """
    orders = [Order(n, folder / f"{n}-grams") for n in range(1, packing.order + 1)]
    passing: Iterator[Rows] = map(_of_full_order, counted)
    for order in reversed(orders[1:]):
        passing = _write_and_shorten(passing, order, packing, thresholds[order.n - 1])
    unigrams = orders[0]
    special = np.zeros(2, NGRAM)  # neither occurs as the last word of an n-gram
    special["high"], special["low"] = packing.pack([np.array([UNKNOWN_ID, BEGIN_ID], np.uint64)])
    special["kept"] = True
    unigrams.append(special)
    for rows in passing:
        words = packing.word(rows["high"], rows["low"], 0)
        assert np.array_equal(words, np.arange(unigrams.ngrams, unigrams.ngrams + len(words))), "every word occurs"
        unigrams.append(_ngrams(rows, 1, packing, 0))
    return orders


def _of_full_order(counted: Rows) -> Rows:
    rows = np.empty(len(counted), _PASSING)
    rows["high"], rows["low"] = counted["high"], counted["low"]
    rows["occurrences"] = rows["extensions"] = counted["count"]
    return rows


def _write_and_shorten(passing: Iterator[Rows], order: Order, packing: Packing, threshold: int) -> Iterator[Rows]:
    """Write the n-grams of an order, and yield those of the order below.

    Beside n-grams, rows have those endings of n-grams of full order that begin with several begins of sentence: the
    words after them are n-grams of lower orders.
    """
    n = order.n

    def shortened(rows: Rows) -> tuple[Numbers, Numbers]:
        return packing.last_words(rows["high"], rows["low"], n - 1)

    written_below = 2 if n == 2 else 0  # the unigrams that occur nowhere come first
    for rows in whole_groups(passing, shortened):
        high, low = shortened(rows)
        starts = group_starts((high, low))
        sizes = np.diff(starts, append=len(rows))
        shorter = np.empty(len(starts), _PASSING)
        shorter["high"], shorter["low"] = high[starts], low[starts]
        shorter["occurrences"] = np.add.reduceat(rows["occurrences"], starts)
        shorter["extensions"] = sizes
        are_below = _are_ngrams(shorter, n - 1, packing)
        rows_below = written_below + np.cumsum(are_below) - 1
        written_below += int(are_below.sum())
        here = _are_ngrams(rows, n, packing)
        ngrams = _ngrams(rows[here], n, packing, threshold)
        ngrams["shorter"] = np.repeat(rows_below, sizes)[here]
        order.append(ngrams)
        yield shorter


def _are_ngrams(rows: Rows, n: int, packing: Packing) -> npt.NDArray[np.bool_]:
    """Return which rows have no begin of sentence but as their first word."""
    if n == 1:
        return np.ones(len(rows), np.bool_)
    second_word: npt.NDArray[np.bool_] = packing.word(rows["high"], rows["low"], n - 2) != BEGIN_ID
    return second_word


def _ngrams(rows: Rows, n: int, packing: Packing, threshold: int) -> Rows:
    """Return n-grams with their adjusted counts; `shorter` is not set."""
    ngrams = np.zeros(len(rows), NGRAM)
    ngrams["high"], ngrams["low"] = rows["high"], rows["low"]
    first_word = packing.word(rows["high"], rows["low"], n - 1)
    ngrams["count"] = np.where(first_word == BEGIN_ID, rows["occurrences"], rows["extensions"])
    ngrams["kept"] = rows["occurrences"] > threshold
    return ngrams
