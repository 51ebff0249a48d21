"""Near-duplicates: documents whose signatures agree in all rows of a band may be similar.

Source of the bands: Broder 1997, doi:10.1109/SEQUEN.1997.666900; Leskovec, Rajaraman, Ullman, Mining of Massive
Datasets, section 3.4.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.dedup.buckets import new_buckets
from data_prep.dedup.records import BANDS
from data_prep.dedup.signatures import read_minima
from data_prep.dedup.work import Unit
from data_prep.kernels.kernel import Hashes, kernel, read_only
from data_prep.run.shuffle import grouped, hash_bounds


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


def spread_bands(unit: Unit) -> None:
    """Spread the bands of the documents of a bundle that are no copies of others."""
    work, settings = unit.work, unit.work.config.fingerprints
    is_copy, (first, _) = work.is_copy(unit.number), work.plan.documents_of(unit.number)
    with unit.spread("bands", BANDS, hash_bounds(work.plan.band_ranges)) as bands:
        for shard, start, stop in work.shards_of(unit.number):
            has_signature, minima = read_minima(work.stage.run, shard, settings.permutations)
            documents = start + np.flatnonzero(has_signature)
            is_first = ~is_copy[start - first : stop - first][has_signature]
            keys = band_keys(minima[is_first], settings.bands, settings.rows)
            bands.add(keys.ravel(), np.repeat(documents[is_first], settings.bands))


def find_buckets(unit: Unit) -> None:
    """Put documents that agree in a band into one bucket, for a range of the hashes of bands."""
    work = unit.work
    blocks = work.collect([("bands", work.plan.bundle_count)], BANDS, work.plan.band_ranges, unit.number)
    with new_buckets(unit, "band", unit.number) as buckets:
        for groups in grouped(blocks, ("key",), work.most_in_group(BANDS)):
            buckets.add(groups)
