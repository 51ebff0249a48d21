"""Differences between the results of two ways to train the same model."""

from __future__ import annotations

import numpy as np

LAST_PLACE = 2.0**-23
"""Relative rounding unit of an fp32 weight. An update is the difference of two weights; those of norms are ten thousand
times as large as their updates, so that rounding in the last place is a visible part of the update."""


def worst_difference(
    ours: dict[str, np.ndarray], reference: dict[str, np.ndarray], weights: dict[str, np.ndarray] | None = None
) -> tuple[float, str]:
    """The largest relative difference of any one parameter, in the Euclidean norm, and the parameter's name.

    Args:
        weights: for updates, the weights they are differences of; rounding in the last place of the largest weight is
        disregarded.
    """
    assert ours.keys() == reference.keys()

    def difference(name: str) -> float:
        found = np.linalg.norm(ours[name] - reference[name])
        if weights is not None:
            found = max(found - LAST_PLACE * np.abs(weights[name]).max(), 0)
        # Biases start at zero: when one norm is zero, the difference must be exactly zero.
        return float(found / max(np.linalg.norm(reference[name]), 1e-30))

    return max((difference(name), name) for name in reference)
