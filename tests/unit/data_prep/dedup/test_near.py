"""Near-duplicates against a plain quadratic twin; chains, crowds, and the gold pairs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_prep.config import FingerprintConfig
from data_prep.dedup.exact import first_copies
from data_prep.dedup.near import NearDuplicates, buckets, find_near_duplicates
from data_prep.signals.fingerprints import fingerprint_text, jaccard, shingle_set

GOLD = Path(__file__).parents[4].parent / "shared" / "data" / "gold_neardup_pairs.jsonl.zst"
FINGERPRINTS = FingerprintConfig()


def find(texts: list[str], minimum_jaccard: float = 0.8) -> tuple[NearDuplicates, list[np.ndarray]]:
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    _, minima = fingerprint_text(
        data, offsets, FINGERPRINTS.shingle_words, FINGERPRINTS.permutations, FINGERPRINTS.seed
    )
    sets = [shingle_set(text, FINGERPRINTS.shingle_words) for text in encoded]
    bounds = np.cumsum([0, *map(len, sets)]).astype(np.int64)
    bucket_of = buckets(minima, FINGERPRINTS.bands, FINGERPRINTS.rows)
    return find_near_duplicates(bucket_of, minima, np.concatenate(sets), bounds[:-1], bounds[1:], minimum_jaccard), sets


def varied(words: list[str], places: range, mark: str) -> str:
    return " ".join(f"{mark}{i}" if i in places else word for i, word in enumerate(words))


def test_what_goes_is_similar_to_one_that_stays() -> None:
    generator = np.random.default_rng(5)
    texts = []
    for group in range(30):
        words = [f"w{i}" for i in generator.integers(0, 5000, size=120)]
        for copy in range(8):
            changed = set(generator.choice(120, size=int(generator.integers(0, 8)), replace=False).tolist())
            texts.append(" ".join(f"g{group}c{copy}i{i}" if i in changed else word for i, word in enumerate(words)))
    result, sets = find(texts)
    stays: list[int] = []
    for d in range(len(texts)):  # the twin compares with everything that stays, without bands
        similar = [(jaccard(sets[s], sets[d]), -s) for s in stays if jaccard(sets[s], sets[d]) >= 0.8]
        if similar:
            best, place = max(similar)
            assert result.duplicate_of[d] == -place
            assert result.jaccard[d] == best
        else:
            assert result.duplicate_of[d] == -1
            stays.append(d)
    assert 30 < len(stays) < len(texts) - 30
    for (kept, gone), similarity in zip(result.pairs.tolist(), result.pair_jaccard, strict=True):
        assert kept in stays
        assert similarity == jaccard(sets[kept], sets[gone]) >= 0.8


def test_nothing_goes_because_of_a_chain() -> None:
    words = [f"w{i}" for i in range(200)]
    chain = [varied(words, range(step * 12), "x") for step in range(8)]
    result, sets = find(chain)
    assert jaccard(sets[0], sets[1]) >= 0.8
    assert jaccard(sets[0], sets[7]) < 0.6
    # the first stays, each that is far enough from all that stay begins anew
    assert result.duplicate_of[1] == 0
    staying = [d for d in range(8) if result.duplicate_of[d] < 0]
    assert len(staying) >= 3
    for d in range(8):
        if d not in staying:
            assert jaccard(sets[d], sets[int(result.duplicate_of[d])]) >= 0.8


def test_a_crowd_of_copies_costs_one_comparison_each() -> None:
    words = [f"w{i}" for i in range(300)]
    crowd = [varied(words, range(i % 290, i % 290 + 1), f"copy{i}_") for i in range(3000)]
    result, _ = find(crowd)
    assert (result.duplicate_of == 0).sum() == len(crowd) - 1
    assert result.verified < 2 * len(crowd)
    assert len(result.pairs) == len(crowd) - 1  # more than the room that was made at first


def test_the_threshold_itself_is_enough() -> None:
    # 9 of the 10 shingles of either are shared: 9 of 11
    a, b = "a b c d e f g h i j k l m n", "a b c d e f g h i j k l m x"
    for minimum, goes in ((9 / 11, True), (9 / 11 + 1e-9, False)):
        encoded = [shingle_set(text.encode(), 5) for text in (a, b)]
        result = find_near_duplicates(
            np.zeros((2, 1), dtype=np.int64),
            np.zeros((2, 8), dtype=np.uint32),
            np.concatenate(encoded),
            np.array([0, 10]),
            np.array([10, 20]),
            minimum,
        )
        assert (result.duplicate_of[1] == 0) is np.bool_(goes)


def test_bands_that_agree_share_a_bucket_and_no_others_do() -> None:
    minima = np.array([[1, 2, 3, 4], [1, 2, 9, 9], [7, 7, 3, 4], [3, 4, 1, 2]], dtype=np.uint32)
    found = buckets(minima, bands=2, rows=2)
    assert (found >= 0).tolist() == [[True, True], [True, False], [False, True], [False, False]]
    assert found[0, 0] == found[1, 0] != found[0, 1] == found[2, 1]
    with pytest.raises(ValueError, match="signatures of 4 minima cannot be 3 bands of 2 rows"):
        buckets(minima, bands=3, rows=2)


def test_no_documents_are_no_fault() -> None:
    result = find_near_duplicates(
        np.empty((0, 14), dtype=np.int64),
        np.empty((0, 112), dtype=np.uint32),
        np.empty(0, dtype=np.uint64),
        np.empty(0, dtype=np.int64),
        np.empty(0, dtype=np.int64),
        0.8,
    )
    assert len(result.duplicate_of) == len(result.pairs) == 0


def test_the_first_of_equal_hashes_is_named() -> None:
    hashes = np.array([[5, 1], [2, 2], [5, 1], [5, 2], [2, 2], [5, 1]], dtype=np.uint64)
    assert first_copies(hashes).tolist() == [0, 1, 0, 3, 1, 0]
    assert first_copies(hashes[:0]).tolist() == []


@pytest.mark.skipif(not GOLD.is_file(), reason=f"no gold pairs at {GOLD.name}")
def test_gold_pairs() -> None:
    """870 pairs with their exact similarity; recall where it is 0.85 or more, and no removal below 0.8."""
    with pa.input_stream(str(GOLD), compression="zstd") as stream:
        pairs = [json.loads(line) for line in io.TextIOWrapper(stream, encoding="utf-8")]
    result, _ = find([pair[side] for pair in pairs for side in ("a", "b")])
    went = result.duplicate_of.reshape(-1, 2) >= 0
    gold = np.array([pair["jaccard_word5"] for pair in pairs])
    assert went.any(axis=1)[gold >= 0.85].mean() >= 0.98
    assert result.jaccard[result.duplicate_of >= 0].min() >= 0.8
    of_its_pair = result.duplicate_of[1::2] == np.arange(0, 2 * len(pairs), 2)
    assert gold[of_its_pair].min() >= 0.8
