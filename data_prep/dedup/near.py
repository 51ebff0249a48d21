"""Near-duplicates: documents whose signatures agree in all rows of a band may be similar.

Source of the bands: Broder 1997, doi:10.1109/SEQUEN.1997.666900; Leskovec, Rajaraman, Ullman, Mining of Massive
Datasets, section 3.4.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.dedup.groups import Groups
from data_prep.dedup.spill import Spill
from data_prep.kernels.kernel import Hashes, kernel, read_only

BAND_FIELDS = (("key", "<u8"), ("document", "<i8"))
"""Fields of a record: hash of a band of a document."""


@kernel
def _hash_bands(minima: npt.NDArray[np.uint32], rows: int, keys: Hashes) -> None:
    for d in range(keys.shape[0]):
        for band in range(keys.shape[1]):
            value = np.uint64(band + 1)
            for row in range(rows):
                value = (value ^ np.uint64(minima[d, band * rows + row])) * np.uint64(0x9E3779B97F4A7C15)
                value ^= value >> np.uint64(29)
            value *= np.uint64(0xD6E8FEB86659FD93)
            keys[d, band] = value ^ (value >> np.uint64(32))


def band_keys(minima: npt.NDArray[np.uint32], bands: int, rows: int) -> npt.NDArray[np.uint64]:
    """Return a hash of each band of each signature, `uint64[documents, bands]`; the index of the band is part of it.

    Args:
        minima: signatures, `uint32[documents, bands * rows]`.
    """
    if minima.shape[1] != bands * rows:
        raise ValueError(f"signatures of {minima.shape[1]} minima cannot be {bands} bands of {rows} rows")
    keys = np.empty((len(minima), bands), dtype=np.uint64)
    _hash_bands(read_only(minima), rows, keys)
    return keys


def propose_by_bands(spill: Spill, first: npt.NDArray[np.int64], groups: Groups) -> None:
    """Put documents that agree in a band into one bucket.

    Args:
        spill: records of `BAND_FIELDS`, equal keys in one part.
        first: see `exact`; copies of others do not count.
    """
    for records in spill.read():
        records = records[first[records["document"]] == records["document"]]
        records = records[np.lexsort((records["document"], records["key"]))]
        begins = np.flatnonzero(np.append(True, records["key"][1:] != records["key"][:-1]) if len(records) else [])
        sizes = np.diff(np.append(begins, len(records)))
        is_shared = sizes > 1
        groups.add(records["document"][np.repeat(is_shared, sizes)], sizes[is_shared].astype(np.int64))
