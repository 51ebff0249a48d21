"""Outputs of deduplication: folders of Parquet files, each with rows of some consecutive shards.

A file has the name of the first of its shards, and row groups with rows of one shard each.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.run.manifest import Manifest


def rows_of_shard(folder: Path, manifest: Manifest, shard: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of one shard."""
    firsts = _first_shards(folder, folder.stat().st_mtime_ns)
    positions = sorted((manifest.position(first), first) for first in firsts)
    _, first = positions[bisect.bisect_right(positions, manifest.position(shard), key=lambda one: one[0]) - 1]
    path = folder / f"{first}.parquet"
    file, groups = _row_groups(path, path.stat().st_mtime_ns)
    for group in groups.get(shard, ()):
        yield from file.read_row_group(group, use_threads=False).to_pylist()


@lru_cache(maxsize=2)
def _first_shards(folder: Path, stamp: int) -> tuple[str, ...]:
    """Return the names of the files, listed once in each process until the folder changes."""
    return tuple(path.stem for path in folder.glob("*.parquet"))


@lru_cache(maxsize=2)
def _row_groups(path: Path, stamp: int) -> tuple[pq.ParquetFile, dict[str, list[int]]]:
    """Return the open file, and the row groups of each shard, by their ids: Arrow divides more than a million rows into
    several."""
    file = pq.ParquetFile(path)
    column = file.schema_arrow.get_field_index("id")
    groups: dict[str, list[int]] = {}
    for group in range(file.num_row_groups):
        ids = file.metadata.row_group(group).column(column).statistics
        shard, last = (name.rpartition("/")[0] for name in (ids.min, ids.max))
        assert shard == last, f"{path}: row group {group} has rows of {shard} and {last}"
        groups.setdefault(shard, []).append(group)
    return file, groups
