"""Order of preference of documents: of two copies, the preferred one is kept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.run.shuffle import Records

_FAILS, _ARRIVAL = np.uint64(63), np.uint64(52)
"""Places of the bits of a preference."""
_LARGEST = np.uint64(1 << 51)


def preferences(signed: Records, larger_first: bool) -> npt.NDArray[np.uint64]:
    """Return a number for each document, less for preferred ones; of equal ones, the first in the corpus is preferred.

    Documents that pass their rules come first, among them those that arrived first, then optionally those with more
    shingles.

    Args:
        signed: records of `SIGNED`.
    """
    numbers = signed["fails_rules"].astype(np.uint64) << _FAILS
    numbers += signed["arrival"].astype(np.uint64) << _ARRIVAL
    return numbers + (_LARGEST - signed["shingle_count"].astype(np.uint64)) if larger_first else numbers
