from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.run.documents import read_columns


def test_columns_come_in_the_order_asked_for_and_all_row_groups_with_them(tmp_path: Path) -> None:
    spans = pa.array([[{"start": i, "end": i + 1}] for i in range(5)])
    table = pa.table({"id": list("abcde"), "start": range(5), "spans": spans})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    assert read_columns(tmp_path / "a.parquet", ["spans", "id"]).equals(table.select(["spans", "id"]))


def test_a_column_that_is_missing_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(pa.ArrowInvalid, match="no column language, kept"):
        read_columns(tmp_path / "a.parquet", ["id", "language", "kept"])
