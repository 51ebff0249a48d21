"""Order of preference of documents: of two copies, the earlier one is kept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.kernels.kernel import Flags, Places, kernel, part


@part
def _place(fails_rules: bool, size: int, places: Places) -> tuple[int | np.int64, int]:
    """Return the cell in which documents of equal preference are counted; without an order by size, all have the same
    size."""
    return np.int64(fails_rules), max(places.shape[1] - 1 - size, 0)


@kernel
def _count(fails_rules: Flags, sizes: Places, places: Places) -> None:
    for d in range(fails_rules.shape[0]):
        places[_place(fails_rules[d], sizes[d], places)] += 1


@kernel
def _take(fails_rules: Flags, sizes: Places, places: Places, rank: Places) -> None:
    for d in range(fails_rules.shape[0]):
        place = _place(fails_rules[d], sizes[d], places)
        rank[d] = places[place]
        places[place] += 1


def rank_documents(
    fails_rules: npt.NDArray[np.bool_], sizes: npt.NDArray[np.int64], larger_first: bool, rank: npt.NDArray[np.int64]
) -> None:
    """Rank documents: those that pass their rules first, then optionally by size, then in the order of the corpus.

    This is a counting sort: two passes over the documents, and 16 bytes of memory for each size up to the largest.

    Args:
        sizes: not negative. rank: filled, the place of each document.
    """
    places = np.zeros((2, int(sizes.max(initial=0)) + 1 if larger_first else 1), dtype=np.int64)
    _count(fails_rules, sizes, places)
    counts = places.ravel()
    counts[:] = np.cumsum(counts) - counts  # from here on the rank of the next document of each cell
    _take(fails_rules, sizes, places, rank)
