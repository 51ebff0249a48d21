"""Outputs of deduplication: the rows of a shard, in whichever file and row groups they are."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.dedup.parts import rows_of_shard
from data_prep.run.manifest import Manifest, Shard


def test_rows_of_a_shard_are_found_in_all_of_its_row_groups(tmp_path: Path) -> None:
    """Arrow writes a table of more than a million rows, such as the cut lines of a large shard, as several. Sources are
    in the order of the configuration, not of their names."""
    names = ("web-00000", "web-00001", "books-00000", "books-00001", "books-00002")
    shards = tuple(Shard(name, name[:-6], "jsonl", int(name[-5:]), ()) for name in names)
    manifest = Manifest((), shards, {})
    rows = dict(zip(names, (5, 0, 3, 2, 0), strict=True))
    for part in (names[:1], names[1:3], names[3:]):
        with pq.ParquetWriter(tmp_path / f"{part[0]}.parquet", pa.schema([("id", pa.string())])) as file:
            for name in part:
                if rows[name]:
                    ids = [f"{name}/{row:07}" for row in range(rows[name])]
                    file.write_table(pa.table({"id": ids}), row_group_size=2)
    for name, count in rows.items():
        found = [row["id"] for row in rows_of_shard(tmp_path, manifest, name)]
        assert found == [f"{name}/{row:07}" for row in range(count)]
