"""n-grams of word ids, packed into two 64-bit numbers each, so that they are sorted and compared as numbers.

The last word is in the highest bits, the first word in the lowest. So n-grams with the same last words are neighbours
when the numbers are sorted, which is the suffix order of Heafield et al. 2013 (aclanthology.org/P13-2121, section 3),
and the last words of an n-gram are the same numbers without their lowest bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.uint64]

_NUMBER_BITS = 64
_LARGEST_ID_BITS = 32


@dataclass(frozen=True)
class Packing:
    """Places of the words in the two numbers. Place 0 is that of the last word, place 1 of the one before it.

    Args:
        order: largest number of words in an n-gram.
    """

    order: int

    @property
    def largest_vocabulary(self) -> int:
        """Number of words that can be told apart."""
        return 1 << self._id_bits

    def pack(self, words: Sequence[Numbers]) -> tuple[Numbers, Numbers]:
        """Pack n-grams.

        Args:
            words: ids of the last word of each n-gram, then of the one before it, and so on.

        Returns:
            High and low numbers.
        """
        high, low = np.zeros(len(words[0]), np.uint64), np.zeros(len(words[0]), np.uint64)
        for place, ids in enumerate(words):
            number = high if place < self._places else low
            number |= ids << self._shift(place)
        return high, low

    def word(self, high: Numbers, low: Numbers, place: int) -> Numbers:
        """Return the id at a place of each n-gram."""
        number = high if place < self._places else low
        return (number >> self._shift(place)) & np.uint64(self.largest_vocabulary - 1)

    def last_words(self, high: Numbers, low: Numbers, count: int) -> tuple[Numbers, Numbers]:
        """Return the last `count` words of each n-gram, packed."""
        masks = [0, 0]
        for place in range(count):
            masks[place >= self._places] |= (self.largest_vocabulary - 1) << int(self._shift(place))
        return high & np.uint64(masks[0]), low & np.uint64(masks[1])

    @property
    def _places(self) -> int:
        """Number of words in each of the two numbers."""
        return -(-self.order // 2)

    @property
    def _id_bits(self) -> int:
        return min(_LARGEST_ID_BITS, _NUMBER_BITS // self._places)

    def _shift(self, place: int) -> np.uint64:
        return np.uint64(self._id_bits * (self._places - 1 - place % self._places))
