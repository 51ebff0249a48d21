"""Random permutations of any size that need no memory and no time to set up."""

from __future__ import annotations

import hashlib
from math import isqrt

import numpy as np
import numpy.typing as npt

_ROUNDS = 6


class KeyedPermutation:
    """Permutation of range(size), computed entry by entry.

    A Feistel network over pairs (left, right) with left < a, right < b and a * b >= size: in turn, one half is shifted
    by a hash of the other, modulo its own range, which can be undone and hence is a bijection. a and b are chosen so
    that a * b exceeds the size by less than its root; the few results beyond the size are permuted again until they are
    inside ("cycle walking"), which preserves the bijection.

    Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains", CT-RSA 2002, methods 2 and 3. The rounds
    hash with the finaliser of SplitMix64: the order must look random, but need not resist an attacker.

    Args:
        size: 1 to 2**62.
        key: any text; different keys give different permutations.
    """

    def __init__(self, size: int, key: str) -> None:
        if not 1 <= size <= 1 << 62:
            raise ValueError(f"size {size} of a permutation must be between 1 and 2**62")
        self.size = size
        root = isqrt(size - 1) + 1
        self._left = np.uint64(root)
        self._right = np.uint64(-(-size // root))
        raw = hashlib.blake2b(key.encode(), digest_size=8 * _ROUNDS).digest()
        self._keys = np.frombuffer(raw, "<u8")

    def __call__(self, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return the entries at positions in [0, size), of any shape."""
        given = np.asarray(positions, np.int64)
        if given.size and not (int(given.min()) >= 0 and int(given.max()) < self.size):
            raise ValueError(f"positions must be in [0, {self.size}), not in [{given.min()}, {given.max()}]")
        result = self._once(given.ravel().astype(np.uint64))
        outside = np.flatnonzero(result >= self.size)
        while len(outside):
            walked = self._once(result[outside])
            result[outside] = walked
            outside = outside[walked >= self.size]
        return result.astype(np.int64).reshape(given.shape)

    def _once(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = np.divmod(values, self._right)
        for i, key in enumerate(self._keys):
            if i % 2 == 0:
                left = (left + _mix(right + key) % self._left) % self._left
            else:
                right = (right + _mix(left + key) % self._right) % self._right
        return left * self._right + right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators", fig. 17)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
