"""Verdicts: every reason in order, and counts that balance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.rules import Rule
from data_prep.rules.decide import _of_shard, count_verdicts, judge
from data_prep.run.documents import VERDICTS

RULES = (
    Rule("length.words", "word_count", "at least", 10, "this test"),
    Rule("length.lines", "line_count", "at most", 3, "this test"),
)
SIGNALS = {
    "id": np.array(["s-00000/0000000", "s-00000/0000001", "s-00000/0000002", "s-00000/0000003"], dtype=object),
    "language": np.array(["en", "de", "en", "fr"], dtype=object),
    "word_count": np.array([20, 5, 20, 5]),
    "line_count": np.array([1, 9, 1, 1]),
}
REMOVALS = {
    "s-00000/0000002": {"kind": "exact", "duplicate_of": "s-00000/0000000"},
    "s-00000/0000003": {"kind": "near", "duplicate_of": "other-00000/0000000"},
}


def test_a_verdict_holds_every_reason_in_order() -> None:
    verdicts = judge(SIGNALS, RULES, REMOVALS, "s")
    assert verdicts.schema == VERDICTS
    assert verdicts.column("reasons").to_pylist() == [
        [],
        ["length.words", "length.lines"],
        ["duplicate.exact"],
        ["length.words", "duplicate.near"],
    ]
    assert verdicts.column("kept").to_pylist() == [True, False, False, False]
    assert verdicts.column("duplicate_of").to_pylist() == [None, None, "s-00000/0000000", "other-00000/0000000"]


def test_documents_are_kept_and_dropped_by_their_first_reason() -> None:
    counts = count_verdicts(judge(SIGNALS, RULES, REMOVALS, "s"))
    assert counts == {"documents": 4, "kept": 1, "dropped:length.words": 2, "dropped:duplicate.exact": 1}


def test_no_documents_and_no_rules_are_no_fault() -> None:
    empty = {name: column[:0] for name, column in SIGNALS.items()}
    assert count_verdicts(judge(empty, RULES, {}, "s")) == {"documents": 0, "kept": 0}
    assert count_verdicts(judge(SIGNALS, (), {}, "s")) == {"documents": 4, "kept": 4}


def test_rows_of_a_shard_are_found_in_all_of_its_row_groups(tmp_path: Path) -> None:
    """Arrow writes a table of more than a million rows, such as the cut lines of a large shard, as several."""
    ids = {name: [f"{name}/{row:07}" for row in range(rows)] for name, rows in (("a-00000", 5), ("b-00001", 2))}
    with pq.ParquetWriter(tmp_path / "lines.parquet", pa.schema([("id", pa.string())])) as file:
        for rows in ids.values():
            file.write_table(pa.table({"id": rows}), row_group_size=2)
    for name, rows in {**ids, "c-00002": []}.items():
        assert [row["id"] for row in _of_shard(tmp_path / "lines.parquet", "inputs", name)] == rows
