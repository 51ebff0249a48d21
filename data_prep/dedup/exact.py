"""Documents with the same bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.dedup.spill import Spill

HASH_FIELDS = (("low", "<u8"), ("high", "<u8"), ("document", "<i8"))
"""A record of the 128-bit hash of a document."""


def find_first_copies(spill: Spill, rank: npt.NDArray[np.int64], first: npt.NDArray[np.int64]) -> None:
    """For each document the most preferred one with the same hash, which is itself where there is none before it.

    Args:
        spill: records of `HASH_FIELDS`, equal hashes in one part.
        rank: place of each document in the order of preference.
        first: filled; the documents themselves before.
    """
    for records in spill.read():
        documents = records["document"]
        by_hash = np.lexsort((rank[documents], records["high"], records["low"]))
        ordered, documents = records[by_hash], documents[by_hash]
        begins = np.ones(len(documents), dtype=bool)
        begins[1:] = (ordered["low"][1:] != ordered["low"][:-1]) | (ordered["high"][1:] != ordered["high"][:-1])
        first[documents] = documents[begins][np.cumsum(begins) - 1]
