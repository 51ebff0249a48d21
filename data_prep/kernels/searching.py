"""Searching of sorted hashes in kernels."""

from __future__ import annotations

import numpy as np

from data_prep.kernels.kernel import Hashes, part


@part
def place_of(value: np.uint64, keys: Hashes) -> int:
    """Return the index of a hash among sorted keys without repeats, or -1."""
    low, high = 0, keys.shape[0]
    while low < high:
        middle = (low + high) // 2
        if keys[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low if low < keys.shape[0] and keys[low] == value else -1
