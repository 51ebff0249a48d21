"""Sorts on disk give what a sort in memory gives, for any size of runs and blocks."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data_prep.ngrams import sorting
from data_prep.ngrams.sorting import ExternalSort, Rows, group_starts, whole_groups

ROW = np.dtype([("first", "<u8"), ("second", "<u8"), ("value", "<u8")])


def some_rows(count: int, distinct: int, seed: int = 1) -> Rows:
    generator = np.random.default_rng(seed)
    rows = np.empty(count, ROW)
    rows["first"] = generator.integers(0, distinct, count).astype(np.uint64) << np.uint64(60)
    rows["second"] = generator.integers(0, distinct, count)
    rows["value"] = np.arange(count)
    return rows


def added_up(rows: Rows) -> Rows:
    starts = group_starts((rows["first"], rows["second"]))
    combined = rows[starts]
    combined["value"] = np.add.reduceat(rows["value"], starts)
    return combined


@pytest.mark.parametrize("distinct", [1, 3, 15])
@pytest.mark.parametrize("memory_bytes", [0, 1_000, 30_000, 10_000_000])
def test_any_amount_of_memory_gives_the_same(distinct: int, memory_bytes: int, tmp_path: Path) -> None:
    rows = some_rows(1_500, distinct)
    for combine in (None, added_up):
        sort = ExternalSort(tmp_path / str(combine is None), ROW, ("first", "second"), memory_bytes, combine)
        for first in range(0, len(rows), 50):
            sort.add(rows[first : first + 50])
        assert (sort.run_count > 0) == (memory_bytes < 10_000_000)
        found = np.concatenate(list(sort.blocks()))
        expected = rows[np.lexsort((rows["second"], rows["first"]))]
        if combine:
            assert np.array_equal(found, added_up(expected))
        else:
            assert np.array_equal(found[["first", "second"]], expected[["first", "second"]])
            assert sorted(found.tolist()) == sorted(rows.tolist())
        assert list((tmp_path / str(combine is None)).iterdir()) == [], "runs are removed"


def test_nothing_gives_nothing(tmp_path: Path) -> None:
    assert list(ExternalSort(tmp_path / "runs", ROW, ("first",), 1_000, added_up).blocks()) == []


@pytest.mark.parametrize("block_rows", [1, 2, 5, 1000])
def test_groups_are_not_divided(block_rows: int) -> None:
    rows = some_rows(300, 3)
    rows = rows[np.lexsort((rows["second"], rows["first"]))]
    blocks = [rows[first : first + block_rows] for first in range(0, len(rows), block_rows)]
    found = list(whole_groups([rows[:0], *blocks], lambda some: (some["first"], some["second"])))
    assert np.array_equal(np.concatenate(found), rows)
    assert len(found) > 1
    for before, after in pairwise(found):
        assert before[-1].tolist()[:2] != after[0].tolist()[:2]


def test_a_file_that_ends_early_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with open(path, "wb") as file:
        sorting.write_rows(file, some_rows(10, 3))
    assert np.array_equal(np.concatenate(list(sorting.blocks_of(path, ROW))), some_rows(10, 3))
    with pytest.raises(OSError, match=r"rows: ends after row 10 of 12"):
        sorting.read_rows(path, ROW, 4, 8)


def test_memory_is_bounded(tmp_path: Path) -> None:
    rows, memory_bytes = 2_000_000, 10_000_000  # 48 MB of rows, which sorting in memory would take three times
    generator = np.random.default_rng(1)
    sort = ExternalSort(tmp_path / "runs", ROW, ("first", "second"), memory_bytes)
    tracemalloc.start()
    try:
        for _ in range(rows // 20_000):
            some = np.zeros(20_000, ROW)
            some["first"] = generator.integers(0, 1 << 40, len(some))
            sort.add(some)
        before, count = 0, 0
        for block in sort.blocks():
            assert before <= block["first"][0] and (np.diff(block["first"].astype(np.int64)) >= 0).all()
            before, count = block["first"][-1], count + len(block)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == rows and peak < 2 * memory_bytes, f"{peak:,}"
