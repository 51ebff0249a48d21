"""The keyed permutation: its properties, and the same arithmetic in unbounded integers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.indexed_dataset.permutation import KeyedPermutation

MASK = (1 << 64) - 1


@given(size=st.integers(1, 3000), key=st.text(max_size=5))
@settings(max_examples=60, deadline=None)
def test_permutation_is_a_bijection(size: int, key: str) -> None:
    images = KeyedPermutation(size, key)(np.arange(size))
    assert np.array_equal(np.sort(images), np.arange(size))


@given(size=st.integers(1, 1 << 62), key=st.text(max_size=5), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_permutation_of_any_size(size: int, key: str, seed: int) -> None:
    """Distinct positions have distinct images in range, entry by entry as all together."""
    positions = np.unique(np.random.default_rng(seed).integers(0, size, 200))
    permutation = KeyedPermutation(size, key)
    images = permutation(positions)
    assert images.min() >= 0 and images.max() < size
    assert len(np.unique(images)) == len(positions)
    assert [int(permutation(position)) for position in positions[:5]] == images[:5].tolist()


def test_permutation_in_plain_integers() -> None:
    """The vectorised arithmetic, wrap-around included, against Python's unbounded integers."""

    def mix(value: int) -> int:
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
        return value ^ (value >> 31)

    for size in (1, 2, 10, 1000, 10**12 + 39, 1 << 62):
        permutation = KeyedPermutation(size, "a key")
        a, b = int(permutation._left), int(permutation._right)
        assert a * b >= size
        for position in {0, size // 3, size - 1}:
            value = position
            while True:
                left, right = divmod(value, b)
                for i, key in enumerate(permutation._keys.tolist()):
                    if i % 2 == 0:
                        left = (left + mix(right + key & MASK) % a) % a
                    else:
                        right = (right + mix(left + key & MASK) % b) % b
                value = left * b + right
                if value < size:
                    break
            assert int(permutation(position)) == value


def test_permutation_looks_random() -> None:
    """Neighbours are not kept together, positions not kept in place, and all first images are equally likely."""
    size = 20_000
    images = KeyedPermutation(size, "k")(np.arange(size))
    assert np.count_nonzero(np.abs(np.diff(images)) == 1) < 15  # expected 2
    assert np.count_nonzero(images == np.arange(size)) < 10  # expected 1
    assert abs(np.corrcoef(np.arange(size), images)[0, 1]) < 0.03  # standard deviation 0.007
    firsts = Counter(int(KeyedPermutation(10, str(key))(0)) for key in range(2000))
    assert all(140 < firsts[image] < 260 for image in range(10))  # expected 200, standard deviation 13


def test_positions_outside_are_refused() -> None:
    with pytest.raises(ValueError, match=r"positions must be in \[0, 5\)"):
        KeyedPermutation(5, "k")(5)
    with pytest.raises(ValueError, match="size 0 of a permutation"):
        KeyedPermutation(0, "k")
