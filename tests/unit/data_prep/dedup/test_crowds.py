"""Crowds: the same decisions as comparing all pairs, with far fewer comparisons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.dedup import crowds
from tests.unit.data_prep.dedup.finding import find


def pages(generator: np.random.Generator, count: int, template: int, own: tuple[int, int], copies: float) -> list[str]:
    """Pages of one template: common words, own words, and now and then an edited copy of another page."""
    common = [f"t{word}" for word in range(template)]
    made: list[list[str]] = []
    for page in range(count):
        if made and generator.random() < copies:
            words = list(made[generator.integers(len(made))])
            for place in generator.integers(0, len(words), size=generator.integers(0, 6)):
                words[place] = f"edit{page}"
        else:
            words = common + [f"w{word}" for word in generator.integers(0, 10**7, size=generator.integers(*own))]
        made.append(words)
    return [" ".join(words) for words in made]


@pytest.mark.parametrize("own", [(20, 200), (60, 61), (40, 60), (34, 36), (10, 14)])
@pytest.mark.parametrize("containment", [None, 0.9])
def test_a_crowd_is_decided_as_any_other_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: tuple[int, int], containment: float | None
) -> None:
    """Similarities from far below the threshold of 0.8 to above it, of equal and of different sizes."""
    texts = pages(np.random.default_rng(own[0]), 500, 200, own, copies=0.2)
    fails = tuple(range(0, 500, 7))
    monkeypatch.setattr(crowds, "CROWD", 16)
    found = find(tmp_path / "crowd", texts, minimum_containment=containment, fails=fails)
    monkeypatch.setattr(crowds, "CROWD", 10**9)
    plain = find(tmp_path / "each", texts, minimum_containment=containment, fails=fails)
    assert np.array_equal(found.duplicate_of, plain.duplicate_of)
    assert np.array_equal(found.measures, plain.measures)
    assert np.array_equal(found.pairs, plain.pairs)
    assert len(found.pairs) > 20
    assert found.counts["similar_pairs"] == plain.counts["similar_pairs"]
    if own[0] >= 40:  # below the threshold: nearly all of the pages are kept
        assert found.counts["proposed_pairs"] < plain.counts["proposed_pairs"] / 3


def test_comparisons_grow_with_the_crowd_and_not_with_its_square(tmp_path: Path) -> None:
    """Pages of one template, J about 0.65, all of them kept; also with sizes that vary by a fifth."""
    for own in ((55, 56), (50, 60)):
        counts = []
        for documents in (1000, 4000):
            texts = pages(np.random.default_rng(3), documents, 200, own, copies=0.05)
            folder = tmp_path / f"{own[1]}-{documents}"
            found = find(folder, texts)
            counts.append(found.counts["proposed_pairs"] + found.counts["verified_pairs"])
            assert documents * 0.8 < (found.duplicate_of < 0).sum() < documents
        assert counts[1] < 4 * counts[0] * 1.2 + 1000, counts


def test_prefixes_are_as_short_as_they_can_be() -> None:
    """Similarity exactly at the threshold: the shortest prefix, with every rare shingle and one of the template."""
    documents, common, own = crowds.CROWD + 1, 200, 40
    generator = np.random.default_rng(4)
    values = generator.choice(2**62, size=common + documents * own, replace=False).astype(np.uint64)
    size = common + own
    sets = [
        np.sort(np.concatenate((values[:common], values[common + d * own : common + (d + 1) * own])))
        for d in range(documents)
    ]
    found = crowds.find_crowds(
        np.arange(documents + 1),
        np.zeros(documents, dtype=np.int64),
        np.concatenate(sets),
        np.arange(documents) * size,
        np.full(documents, size),
        common / (2 * size - common),
        None,
    )
    assert found.is_crowd.tolist() == [True]
    assert np.array_equal(found.short_stops - found.starts[:-1], np.ones(documents))
    assert len(set(found.lists[found.starts[:-1]].tolist())) == 1
