"""Exact duplicates: documents with the same bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.dedup.spill import Spill

HASH_FIELDS = (("low", "<u8"), ("high", "<u8"), ("document", "<i8"))
"""Fields of a record: the 128-bit hash of a document."""


def find_first_copies(spill: Spill, rank: npt.NDArray[np.int64], first: npt.NDArray[np.int64]) -> None:
    """Find the most preferred document with the same hash for each document, which may be the document itself.

    Args:
        spill: records of `HASH_FIELDS`, equal hashes in one part.
        rank: position of each document in the order of preference.
        first: filled; initially the number of each document.
    """
    for records in spill.read():
        documents = records["document"]
        by_hash = np.lexsort((rank[documents], records["high"], records["low"]))
        ordered, documents = records[by_hash], documents[by_hash]
        begins = np.ones(len(documents), dtype=bool)
        begins[1:] = (ordered["low"][1:] != ordered["low"][:-1]) | (ordered["high"][1:] != ordered["high"][:-1])
        first[documents] = documents[begins][np.cumsum(begins) - 1]
