"""An n-gram model from sentences of pieces: count, adjust, discount, smooth, write.

What `lmplz` of KenLM computes, in the same steps (Heafield et al. 2013, aclanthology.org/P13-2121), with sorts on disk
in place of a compiler. The file is the same for any amount of memory. There is one difference: of the last n-gram of
each lower order, lmplz counts the occurrences instead of the adjusted count when it computes discounts
(github.com/kpu/kenlm, issue 405), which matters for texts of a few lines only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.ngrams.adjusting import adjust
from data_prep.ngrams.arpa import write_arpa
from data_prep.ngrams.counting import NGramCounter
from data_prep.ngrams.packing import Packing
from data_prep.ngrams.smoothing import discounts, smooth
from data_prep.ngrams.sorting import Rows
from foundation.atomic_files import room_for
from foundation.progress import Progress

ORDERS = range(2, 7)
"""Orders of models; KenLM as it is usually built reads up to 6."""


@dataclass(frozen=True)
class OrderSummary:
    """What a model has of one order.

    Attributes:
        ngrams: number of different ones in the text; kept: those that are not pruned.
        discounts: of the adjusted counts 1, 2, and 3 or more.
    """

    n: int
    ngrams: int
    kept: int
    discounts: tuple[float, float, float]


@dataclass(frozen=True)
class Summary:
    """What a model was made from, and what it has."""

    sentences: int
    tokens: int
    orders: tuple[OrderSummary, ...]


def estimate(
    sentences: Iterable[Sequence[Sequence[str]]],
    path: Path,
    *,
    order: int,
    prune: Sequence[int] = (0,),
    discount_fallback: bool = False,
    memory_bytes: int,
) -> Summary:
    """Estimate a model and write it as an ARPA file.

    Args:
        sentences: batches of sentences of pieces; a batch is in memory as a whole.
        prune: occurrences up to which n-grams are left out, for each order from 1 on; the last one is that of all
            further orders.
        discount_fallback: orders whose discounts cannot be computed get those of `smoothing.FALLBACK`.
        memory_bytes: memory for sorting; files are sorted in a temporary folder beside `path`.

    Raises:
        ValueError: there is no sentence, `order` or `prune` cannot be, or a piece cannot be a word.
        DiscountError: the text is too small for discounts.
    """
    thresholds = checked_thresholds(prune, order)
    packing = Packing(order)
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        folder = Path(scratch)
        counter = NGramCounter(packing, folder / "counts", memory_bytes)
        for batch in sentences:
            counter.add(batch)
        if not counter.sentences:
            raise ValueError(f"{path}: there is no text to estimate a model from")
        with Progress("train-ngrams: adjust counts", None, f"{order}-grams") as progress:
            orders = adjust(_counted(counter.blocks(), progress), packing, thresholds, folder)
        amounts = [discounts(one.with_count.tolist(), one.n, discount_fallback) for one in orders]
        smoothed = smooth(orders, packing, amounts, memory_bytes, folder)
        write_arpa(path, counter.words, smoothed, packing)
    rows = zip(orders, amounts, strict=True)
    return Summary(
        counter.sentences,
        counter.tokens,
        tuple(OrderSummary(one.n, one.ngrams, one.kept, amount) for one, amount in rows),
    )


def _counted(blocks: Iterator[Rows], progress: Progress) -> Iterator[Rows]:
    for rows in blocks:
        yield rows
        progress.advance(len(rows))


def checked_thresholds(prune: Sequence[int], order: int) -> list[int]:
    """Return a threshold for each order.

    Raises:
        ValueError: there is no such order, or the thresholds fall, are too many, or prune unigrams.
    """
    if order not in ORDERS:
        raise ValueError(f"--order {order}: must be from {ORDERS[0]} to {ORDERS[-1]}, which is what KenLM reads")
    shown = " ".join(map(str, prune))
    if not 1 <= len(prune) <= order:
        raise ValueError(f"--prune {shown}: must be one threshold for each order, at most {order}")
    if prune[0] != 0:
        raise ValueError(f"--prune {shown}: the first threshold must be 0: words are not pruned")
    if list(prune) != sorted(prune):
        raise ValueError(f"--prune {shown}: thresholds must not fall: a kept n-gram would have parts that are pruned")
    return [*prune, *[prune[-1]] * (order - len(prune))]
