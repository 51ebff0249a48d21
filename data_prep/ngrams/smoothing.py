"""Interpolated modified Kneser-Ney smoothing: from adjusted counts to probabilities and backoffs.

With the adjusted count a of an n-gram, the discounts D of its order and the sum A of the counts of all words after the
same context h,

    p(w | h) = (a(h w) - D(a(h w))) / A(h) + backoff(h) · p(w | h without its first word),
    backoff(h) = (D1 · N1(h) + D2 · N2(h) + D3 · N3(h) + counts of pruned n-grams) / A(h),

where Nk(h) is the number of different words that follow h with the count k, the last one with 3 or more. Unigrams are
interpolated with the uniform distribution over all words but the begin of a sentence, which gives the unknown word its
probability.

Sources: Chen and Goodman 1998, TR-10-98, equation 26 (discounts); Heafield et al. 2013, aclanthology.org/P13-2121,
sections 3.3 and 3.4 (what `lmplz` computes).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.ngrams.adjusting import NGRAM, Order
from data_prep.ngrams.counting import BEGIN_ID, END_ID, UNKNOWN_ID
from data_prep.ngrams.packing import Numbers, Packing
from data_prep.ngrams.sorting import ExternalSort, Rows, group_starts, read_rows, whole_groups, write_rows
from foundation.atomic_files import room_for
from foundation.progress import Progress

FALLBACK = (0.5, 1.0, 1.5)
"""Discounts of orders for which none can be computed, if asked for: those of `lmplz --discount_fallback`."""

Floats = npt.NDArray[np.float64]

_FLOAT = np.dtype("<f8")
_PASSES = 3
"""Number of times that the n-grams of an order are gone through: by rows, by contexts, and by rows again."""
_IN_CONTEXT = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u8"), ("count", "<u8"), ("kept", "?")])
"""Context of an n-gram, packed; the n-gram's row in the file of its order."""
_WEIGHED = np.dtype([("row", "<u8"), ("discounted", "<f8"), ("backoff", "<f8")])
"""Row of an n-gram, its discounted share, and the backoff of its context."""


class DiscountError(ValueError):
    """No discounts can be computed from the counts of counts."""


def discounts(with_count: Sequence[int], order: int, fallback: bool = False) -> tuple[float, float, float]:
    """Return the discounts of n-grams with the adjusted counts 1, 2, and 3 or more.

    Args:
        with_count: number of n-grams of the order with the adjusted counts 1, 2, 3 and 4.
        fallback: whether to return `FALLBACK` where none can be computed.

    Raises:
        DiscountError: see there.
    """
    try:
        return _discounts([int(count) for count in with_count], order)
    except DiscountError:
        if fallback:
            return FALLBACK
        raise


def _discounts(with_count: Sequence[int], order: int) -> tuple[float, float, float]:
    remedy = (
        "the text is too small or artificial for Kneser-Ney discounts: give more text, a lower --order, or "
        f"--discount-fallback, which takes {', '.join(f'{value:g}' for value in FALLBACK)}"
    )
    for count in (1, 2, 3):
        if not with_count[count - 1]:
            raise DiscountError(f"{order}-grams: none has the adjusted count {count}; {remedy}")
    share = with_count[0] / (with_count[0] + 2 * with_count[1])
    found = tuple(k - (k + 1) * share * with_count[k] / with_count[k - 1] for k in (1, 2, 3))
    for count, discount in enumerate(found, 1):
        if not 0 < discount <= count:  # with 0, a context would leave nothing for words that do not follow it
            raise DiscountError(f"{order}-grams: the discount of count {count} would be {discount:.4g}; {remedy}")
    return found[0], found[1], found[2]


@dataclass(frozen=True)
class Smoothed:
    """Probabilities of the n-grams of an order, in the order of its rows.

    Attributes:
        probabilities: file of floats; those of pruned n-grams mean nothing.
        backoffs: file of the backoffs of those n-grams that are contexts, see `are_contexts`; None: the highest order.
    """

    order: Order
    probabilities: Path
    backoffs: Path | None


def are_contexts(rows: Rows, packing: Packing) -> npt.NDArray[np.bool_]:
    """Return which n-grams have words after them: all whose last word is neither the end of a sentence nor unknown."""
    last_word = packing.word(rows["high"], rows["low"], 0)
    return (last_word != END_ID) & (last_word != UNKNOWN_ID)


def smooth(
    orders: Sequence[Order],
    packing: Packing,
    amounts: Sequence[tuple[float, float, float]],
    memory_bytes: int,
    folder: Path,
) -> list[Smoothed]:
    """Compute the probabilities and backoffs of all orders.

    Args:
        amounts: discounts of each order.
        folder: folder for files.
    """
    files = [folder / f"{order.n}-probabilities" for order in orders]
    backoffs = [folder / f"{order.n}-backoffs" for order in orders[:-1]]
    _write_unigrams(orders[0], packing, amounts[0], files[0])
    with Progress("train-ngrams: smooth", _PASSES * sum(order.ngrams for order in orders[1:]), "rows") as progress:
        for below, order in enumerate(orders[1:]):
            weighed = _weigh(order, packing, amounts[below + 1], memory_bytes, folder, backoffs[below], progress)
            _interpolate(order, weighed, files[below], files[below + 1], progress)
    return [Smoothed(*row) for row in zip(orders, files, [*backoffs, None], strict=True)]


def _write_unigrams(order: Order, packing: Packing, amounts: Sequence[float], path: Path) -> None:
    rows = np.concatenate(list(order.blocks()))
    discounted, taken = _discount(rows["count"], amounts)
    total = int(rows["count"].sum())
    probabilities = discounted / total + taken.sum() / total / (len(rows) - 1)
    words = packing.word(rows["high"], rows["low"], 0)
    probabilities[words == BEGIN_ID] = 1  # never asked for; what lmplz writes
    with room_for(path), open(path, "wb") as file:
        write_rows(file, probabilities.astype(_FLOAT))


def _discount(counts: Numbers, amounts: Sequence[float]) -> tuple[Floats, Floats]:
    """Return discounted counts, and what was taken from each."""
    taken = np.array([0, *amounts])[np.minimum(counts, len(amounts)).astype(np.int64)]
    return counts - taken, taken


def _weigh(
    order: Order,
    packing: Packing,
    amounts: Sequence[float],
    memory_bytes: int,
    folder: Path,
    backoffs: Path,
    progress: Progress,
) -> ExternalSort:
    """Discount the n-grams of an order; return rows of `_WEIGHED`, to be sorted by row, and write the backoffs.

    Contexts are sorted like the n-grams of the order below: they are those of them that have words after them.
    """
    by_context = ExternalSort(folder / f"{order.n}-by-context", _IN_CONTEXT, ("high", "low"), memory_bytes // 2)
    by_row = ExternalSort(folder / f"{order.n}-by-row", _WEIGHED, ("row",), memory_bytes // 2)
    first = 0
    for ngrams in order.blocks():
        rows = np.empty(len(ngrams), _IN_CONTEXT)
        context = [packing.word(ngrams["high"], ngrams["low"], place) for place in range(1, order.n)]
        rows["high"], rows["low"] = packing.pack(context)
        rows["row"] = np.arange(first, first + len(ngrams))
        rows["count"], rows["kept"] = ngrams["count"], ngrams["kept"]
        first += len(ngrams)
        by_context.add(rows)
        progress.advance(len(rows))
    with room_for(backoffs), open(backoffs, "wb") as file:
        for rows in whole_groups(by_context.blocks(), lambda rows: (rows["high"], rows["low"])):
            starts = group_starts((rows["high"], rows["low"]))
            totals = np.add.reduceat(rows["count"], starts)
            discounted, backoff = _shares(rows, starts, totals, amounts)
            write_rows(file, backoff.astype(_FLOAT))
            weighed = np.empty(len(rows), _WEIGHED)
            sizes = np.diff(starts, append=len(rows))
            weighed["row"] = rows["row"]
            weighed["discounted"] = discounted / np.repeat(totals, sizes)
            weighed["backoff"] = np.repeat(backoff, sizes)
            by_row.add(weighed)
            progress.advance(len(rows))
    return by_row


def _shares(
    rows: Rows, starts: npt.NDArray[np.int64], totals: Numbers, amounts: Sequence[float]
) -> tuple[Floats, Floats]:
    """Return the discounted count of each row and the backoff of each context.

    Sums are of whole numbers, so that they do not depend on the order of the rows of a context.
    """
    discounted, _ = _discount(rows["count"], amounts)
    kept = rows["count"] * rows["kept"]
    mass = (totals - np.add.reduceat(kept, starts)).astype(np.float64)  # of pruned n-grams
    for count, amount in enumerate(amounts, 1):
        mass += amount * np.add.reduceat((np.minimum(kept, len(amounts)) == count).astype(np.int64), starts)
    return discounted, mass / totals


def _interpolate(order: Order, weighed: ExternalSort, below: Path, path: Path, progress: Progress) -> None:
    """Write the probabilities of an order from those of the order below."""
    first = 0
    with room_for(path), open(path, "wb") as file:
        for rows in weighed.blocks():
            ngrams = read_rows(order.path, NGRAM, first, len(rows))
            first += len(rows)
            # rows of the shorter n-grams ascend, because they are in the same order
            begin, end = int(ngrams["shorter"][0]), int(ngrams["shorter"][-1]) + 1
            lower = read_rows(below, _FLOAT, begin, end - begin)
            shorter = lower[(ngrams["shorter"] - np.uint64(begin)).astype(np.int64)]
            write_rows(file, rows["discounted"] + rows["backoff"] * shorter)
            progress.advance(len(rows))


def read_blocks(smoothed: Smoothed, packing: Packing) -> Iterator[tuple[Rows, Floats, Floats]]:
    """Yield n-grams that are not pruned, their probabilities and their backoffs, 1 for those that are no contexts."""
    first = first_context = 0
    for ngrams in smoothed.order.blocks():
        probabilities = read_rows(smoothed.probabilities, _FLOAT, first, len(ngrams))
        first += len(ngrams)
        backoffs = np.ones(len(ngrams))
        if smoothed.backoffs is not None:
            contexts = are_contexts(ngrams, packing)
            count = int(contexts.sum())
            backoffs[contexts] = read_rows(smoothed.backoffs, _FLOAT, first_context, count)
            first_context += count
        kept = ngrams["kept"]
        yield ngrams[kept], probabilities[kept], backoffs[kept]
