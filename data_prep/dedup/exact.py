"""Documents with the same bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def first_copies(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """For each document the first one with the same hash, which is itself where there is none before it.

    Args:
        hashes: `uint64[documents, 2]`, 128-bit hashes, in the order of preference.
    """
    documents = len(hashes)
    first = np.arange(documents, dtype=np.int64)
    if documents == 0:
        return first
    by_hash = np.lexsort((first, hashes[:, 1], hashes[:, 0]))
    ordered = hashes[by_hash]
    begins = np.ones(documents, dtype=bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    group = np.cumsum(begins) - 1
    first[by_hash] = by_hash[begins][group]
    return first
