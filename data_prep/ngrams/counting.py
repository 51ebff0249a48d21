"""Counts of the n-grams of full order, from sentences of pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_prep.ngrams.packing import Packing
from data_prep.ngrams.sorting import ExternalSort, Rows, group_starts

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
UNKNOWN_ID, BEGIN_ID, END_ID = range(3)
_CONTROL = frozenset({UNKNOWN, "<UNK>", BEGIN, END})
"""Words that mean something else to KenLM; it takes `<UNK>` for `<unk>`."""
_SEPARATORS = frozenset(" \t\n\r\v\f")
"""Characters at which KenLM divides a sentence into words."""

COUNTED = np.dtype([("high", "<u8"), ("low", "<u8"), ("count", "<u8")])
"""An n-gram of full order, see `Packing`, and how often it occurs."""


class VocabularyError(ValueError):
    """A piece cannot be a word of the model, or there are too many."""


class _Ids(dict[str, int]):
    """Ids of words in the order in which they first occur."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __missing__(self, word: str) -> int:
        if word in _CONTROL:
            raise VocabularyError(
                f"the piece {word!r} is a control word of the model and must not occur in text; use a tokenizer that "
                "does not have it among its pieces, or remove it from the text"
            )
        if not word or not _SEPARATORS.isdisjoint(word):
            raise VocabularyError(
                f"the piece {word!r} is empty or has white space, at which KenLM would divide it; use a tokenizer that "
                "writes a space as U+2581, as SentencePiece does by default"
            )
        number = len(self) + END_ID + 1
        if number == self._limit:
            raise VocabularyError(
                f"there are more than {len(self):,} different pieces, the limit of this order; text that the "
                "tokenizer does not know becomes pieces of its own: use a tokenizer with byte fallback, or one with a "
                "higher character coverage"
            )
        self[word] = number
        return number


class NGramCounter:
    """Counts n-grams; a sentence has all the begins of sentence before it that its first n-gram needs, and an end.

    Args:
        folder: folder for runs of the sort, which is created.
        memory_bytes: memory for sorting; the vocabulary is in memory besides.
    """

    def __init__(self, packing: Packing, folder: Path, memory_bytes: int) -> None:
        self._packing = packing
        self._ids = _Ids(packing.largest_vocabulary)
        self._sort = ExternalSort(folder, COUNTED, ("high", "low"), memory_bytes, _add_up)
        self.sentences = 0
        self.tokens = 0

    @property
    def words(self) -> list[str]:
        """Words by their ids."""
        return [UNKNOWN, BEGIN, END, *self._ids]

    @property
    def run_count(self) -> int:
        """Number of sorted runs on disk."""
        return self._sort.run_count

    def add(self, sentences: Sequence[Sequence[str]]) -> None:
        """Count sentences of pieces.

        Raises:
            VocabularyError: a piece cannot be a word.
        """
        order = self._packing.order
        before = [BEGIN_ID] * (order - 1)
        flat: list[int] = []
        for sentence in sentences:
            flat += before
            flat += map(self._ids.__getitem__, sentence)
            flat.append(END_ID)
            self.tokens += len(sentence)
        self.sentences += len(sentences)
        ids = np.array(flat, np.uint64)
        ends = np.flatnonzero(ids != BEGIN_ID)
        rows = np.empty(len(ends), COUNTED)
        rows["high"], rows["low"] = self._packing.pack([ids[ends - place] for place in range(order)])
        rows["count"] = 1
        self._sort.add(rows)

    def blocks(self) -> Iterator[Rows]:
        """Yield the different n-grams in suffix order with their counts."""
        return self._sort.blocks()


def _add_up(rows: Rows) -> Rows:
    """Return each n-gram once, with the sum of its counts."""
    starts = group_starts((rows["high"], rows["low"]))
    combined = rows[starts]
    combined["count"] = np.add.reduceat(rows["count"], starts)
    return combined
