"""Skipped ranges against a plain list of what is left."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.skips import SkippedRanges

ranges = st.lists(st.tuples(st.integers(0, 80), st.integers(1, 20)).map(lambda r: (r[0], r[0] + r[1])), max_size=8)


@given(ranges=ranges)
def test_positions_jump_over_what_is_skipped(ranges: list[tuple[int, int]]) -> None:
    left = [i for i in range(500) if not any(start <= i < stop for start, stop in ranges)]
    skipped = SkippedRanges(ranges)
    assert skipped.samples_at(np.arange(len(left))).tolist() == left
    for sample in range(300):
        assert skipped.position_of(sample) == sum(i < sample for i in left)


@given(ranges=ranges, position=st.integers(0, 200), ahead=st.integers(0, 50), length=st.integers(1, 30))
def test_one_more_range_changes_nothing_before_it(
    ranges: list[tuple[int, int]], position: int, ahead: int, length: int
) -> None:
    skipped = SkippedRanges(ranges)
    start = int(skipped.samples_at(position)) + ahead
    more = skipped.and_then(start, start + length, position)
    consumed = np.arange(position)
    assert more.samples_at(consumed).tolist() == skipped.samples_at(consumed).tolist()
    assert more == SkippedRanges([(start, start + length), *ranges])


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"\[5, 5\) must be half-open"):
        SkippedRanges([(5, 5)])
    with pytest.raises(ValueError, match=r"\[-1, 5\)"):
        SkippedRanges([(-1, 5)])
    with pytest.raises(ValueError, match="position -2"):
        SkippedRanges().samples_at([3, -2])
    with pytest.raises(ValueError, match="begins before sample 30, the next one of a run that has consumed 20"):
        SkippedRanges([(10, 20)]).and_then(29, 40, 20)
