"""Buckets: groups of any size, whole or in pieces, with edges that link all of their documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from data_prep.dedup.buckets import Buckets
from data_prep.dedup.records import BANDS
from data_prep.run.shuffle import grouped


class Recorder:
    """A run that keeps what is added."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, ...]] = []

    def add(self, *columns: Any) -> None:
        self.rows += zip(*(column.tolist() for column in columns), strict=True)


@pytest.mark.parametrize(("block", "most"), [(1000, 1000), (10, 3), (1, 1), (7, 64)])
def test_pieces_of_a_group_are_one_bucket(block: int, most: int) -> None:
    members = {2: [5], 3: [1, 4, 9], 7: list(range(10, 60)), 8: [61, 62], 9: [63], 11: list(range(70, 95))}
    keys = np.repeat(list(members), [len(same) for same in members.values()]).astype(np.uint64)
    records = BANDS.of(keys, np.array([document for same in members.values() for document in same]))
    entries, edges = Recorder(), Recorder()
    buckets = Buckets(entries, edges, 100)  # type: ignore[arg-type]
    for groups in grouped((records[k : k + block] for k in range(0, len(records), block)), ("key",), most):
        buckets.add(groups)
    found: dict[int, list[int]] = {}
    for document, number in entries.rows:
        found.setdefault(number, []).append(document)
    shared = [same for same in members.values() if len(same) > 1]
    assert list(found.values()) == shared and min(found) > 100
    assert edges.rows == [(same[0], document) for same in shared for document in same[1:]]
