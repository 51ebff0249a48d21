"""Samples that a run skips, and how positions map to samples.

A run counts the samples that it has consumed: its *position*. Sample numbers of the plan never change; a skipped range
removes its samples from the sequence, so that later positions map to later samples. So the content of a sample depends
on the plan alone, and the samples of a step depend on the plan and on the skipped ranges.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


class SkippedRanges:
    """Half-open ranges of sample numbers that are not trained on; they may touch, overlap and come in any order.

    Args:
        ranges: start and stop of each.

    Raises:
        ValueError: a range is empty or begins below 0.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]] = ()) -> None:
        merged: list[tuple[int, int]] = []
        for start, stop in sorted(ranges):
            if not 0 <= start < stop:
                raise ValueError(f"skipped range [{start}, {stop}) must be half-open with 0 <= start < stop")
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
            else:
                merged.append((start, stop))
        self.ranges = tuple(merged)
        """Merged ranges, ascending, with at least one sample between any two."""
        starts, stops = (np.array([pair[side] for pair in merged], np.int64) for side in (0, 1))
        self._lost = np.concatenate([[0], np.cumsum(stops - starts)]).astype(np.int64)
        self._starts = starts
        self._jumps = starts - self._lost[:-1]
        """Position at which each range is skipped."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SkippedRanges) and self.ranges == other.ranges

    def __hash__(self) -> int:
        return hash(self.ranges)

    def samples_at(self, positions: npt.ArrayLike) -> Integers:
        """Sample at each position, in the shape of `positions`."""
        given = np.asarray(positions, np.int64)
        if given.size and int(given.min()) < 0:
            raise ValueError(f"position {int(given.min())} does not exist; positions count from 0")
        return np.asarray(given + self._lost[np.searchsorted(self._jumps, given, "right")], np.int64)

    def position_of(self, sample: int) -> int:
        """Number of earlier samples that are not skipped: the position of `sample`, or of the next one that is not
        skipped."""
        k = int(np.searchsorted(self._starts, sample, "right"))
        if k and sample < self.ranges[k - 1][1]:
            return int(self._jumps[k - 1])
        return sample - int(self._lost[k])

    def and_then(self, start: int, stop: int, position: int) -> SkippedRanges:
        """These ranges and one more, for a run that continues from `position`.

        Raises:
            ValueError: the range begins before the next sample of the run, so that what it has consumed would change.
        """
        following = int(self.samples_at(position))
        if start < following:
            raise ValueError(
                f"skipped range [{start}, {stop}) begins before sample {following}, the next one of a run that has "
                f"consumed {position}: samples that were trained on cannot be skipped any more. Go back to an earlier "
                f"checkpoint, or begin at {following}"
            )
        return SkippedRanges([*self.ranges, (start, stop)])
