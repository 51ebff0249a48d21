"""Near-duplicates against a plain quadratic twin; chains, crowds, and the gold pairs."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_prep.config import DedupConfig
from data_prep.dedup.choose import choose
from data_prep.dedup.near import band_keys
from data_prep.dedup.records import KINDS
from data_prep.dedup.stage import dedup
from data_prep.dedup.work import Plan
from data_prep.run.commit_records import read_records
from data_prep.run.manifest import load_manifest
from data_prep.signals.fingerprints import jaccard, shingle_set
from tests.unit.data_prep.dedup.finding import FINGERPRINTS, find, sets_of
from tools.bench.fingerprinted import frozen_run, write_shard

GOLD = Path(__file__).parents[4].parent / "shared" / "data" / "gold_neardup_pairs.jsonl.zst"


def varied(words: list[str], places: range, mark: str) -> str:
    return " ".join(f"{mark}{i}" if i in places else word for i, word in enumerate(words))


def test_what_goes_is_similar_to_one_that_stays(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    texts = []
    for group in range(30):
        words = [f"w{i}" for i in generator.integers(0, 5000, size=120)]
        for copy in range(8):
            changed = set(generator.choice(120, size=int(generator.integers(0, 8)), replace=False).tolist())
            texts.append(" ".join(f"g{group}c{copy}i{i}" if i in changed else word for i, word in enumerate(words)))
    evidence, sets = find(tmp_path, texts), sets_of(texts)
    duplicate_of = evidence.duplicate_of
    stays: list[int] = []
    for d in range(len(texts)):  # the twin compares with every kept document, without bands
        similar = [(jaccard(sets[s], sets[d]), -s) for s in stays if jaccard(sets[s], sets[d]) >= 0.8]
        if similar:
            best, place = max(similar)
            assert duplicate_of[d] == -place
            assert evidence.measures[d, 0] == best
        else:
            assert duplicate_of[d] == -1
            stays.append(d)
    assert 30 < len(stays) < len(texts) - 30
    near = evidence.pairs[evidence.pairs["kind"] == KINDS.index("near")]
    for pair in near:
        assert pair["kept"] in stays
        assert pair["jaccard"] == jaccard(sets[pair["kept"]], sets[pair["gone"]]) >= 0.8


def test_nothing_goes_because_of_a_chain(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(200)]
    chain = [varied(words, range(step * 12), "x") for step in range(8)]
    duplicate_of, sets = find(tmp_path, chain).duplicate_of, sets_of(chain)
    assert jaccard(sets[0], sets[1]) >= 0.8
    assert jaccard(sets[0], sets[7]) < 0.6
    # the first is kept; each one far enough from all kept ones starts a new cluster
    assert duplicate_of[1] == 0
    staying = [d for d in range(8) if duplicate_of[d] < 0]
    assert len(staying) >= 3
    for d in range(8):
        if d not in staying:
            assert jaccard(sets[d], sets[int(duplicate_of[d])]) >= 0.8


def test_a_crowd_of_copies_costs_one_comparison_each(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(300)]
    crowd = [varied(words, range(i % 290, i % 290 + 1), f"copy{i}_") for i in range(3000)]
    evidence = find(tmp_path, crowd)
    assert (evidence.duplicate_of == 0).sum() == len(crowd) - 1
    assert evidence.counts["verified_pairs"] < 2 * len(crowd)
    assert len(evidence.pairs) == len(crowd) - 1  # more than the room that was made at first


def test_the_threshold_itself_is_enough() -> None:
    # 9 of the 10 shingles of either are shared: 9 of 11
    a, b = "a b c d e f g h i j k l m n", "a b c d e f g h i j k l m x"
    for minimum, goes in ((9 / 11, True), (9 / 11 + 1e-9, False)):
        encoded = [shingle_set(text.encode(), 5) for text in (a, b)]
        result = choose(
            np.array([0, 1, 2]),
            np.zeros(2, dtype=np.int64),
            np.zeros((2, 8), dtype=np.uint32),
            np.array([0, 1]),
            np.concatenate(encoded),
            np.array([0, 10]),
            np.array([10, 10]),
            minimum,
            None,
        )
        assert (result.duplicate_of[1] == 0) is np.bool_(goes)


def test_bands_that_agree_have_one_key_and_no_others_do() -> None:
    minima = np.array([[1, 2, 3, 4], [1, 2, 9, 9], [7, 7, 3, 4], [3, 4, 1, 2]], dtype=np.uint32)
    keys = band_keys(minima, bands=2, rows=2)
    assert keys[0, 0] == keys[1, 0] != keys[0, 1] == keys[2, 1]
    assert len(np.unique(keys)) == 6
    with pytest.raises(ValueError, match="signatures of 4 minima cannot be 3 bands of 2 rows"):
        band_keys(minima, bands=3, rows=2)


def test_no_documents_are_no_fault(tmp_path: Path) -> None:
    for minimum_containment in (None, 0.9):
        evidence = find(tmp_path / str(minimum_containment), ["", "x"], minimum_containment=minimum_containment)
        assert evidence.duplicate_of.tolist() == [-1, -1]
        assert len(evidence.pairs) == 0


def test_the_first_of_equal_texts_stays_and_one_that_passes_the_rules_before_it(tmp_path: Path) -> None:
    texts = ["five five five five five one", "b", "five five five five five one", "c", "b", "b"]
    for folder, fails, expected in (("a", (), [-1, -1, 0, -1, 1, 1]), ("b", (0, 1, 4), [2, 5, -1, -1, 5, -1])):
        evidence = find(tmp_path / folder, texts, fails=fails)
        assert evidence.duplicate_of.tolist() == expected
        assert evidence.kinds[evidence.duplicate_of >= 0].tolist() == [0] * 3


def test_a_bound_of_memory_changes_nothing(tmp_path: Path) -> None:
    """Hundreds of small files and batches give the same result as one of each."""
    generator = np.random.default_rng(8)
    texts = []
    for group in range(60):
        words = [f"w{i}" for i in generator.integers(0, 3000, size=150)]
        texts += [varied(words, range(k * 3, k * 3 + 3), f"g{group}k{k}") for k in range(5)]
        texts.append(" ".join(words[20:110]))
    found = []
    for name, memory_bytes, shards in (("much", 10**9, 1), ("little", 40_000, 8)):
        found.append(find(tmp_path / name, texts, minimum_containment=0.9, memory_bytes=memory_bytes, shards=shards))
    assert set(found[0].kinds.tolist()) == {0, 1, 2}
    for one, other in zip(*(vars(every).values() for every in found), strict=True):
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def test_a_bound_of_memory_makes_many_units() -> None:
    for memory_bytes, least in ((10**9, 1), (40_000, 5)):
        plan = Plan.of([45] * 8, 14, 4000, 2000, memory_bytes)
        counts = (plan.bundle_count, plan.hash_ranges, plan.band_ranges, plan.sample_ranges, plan.line_ranges)
        assert all((count == 1) is (least == 1) and count >= least for count in counts), counts


def _peak_of(folder: Path, shards: int) -> int:
    """Bytes that were held at most while so many shards of 5,000 documents went through, of which a tenth are near
    copies, another exact ones."""
    documents = 5_000
    config, run = frozen_run(folder, shards)
    settings = DedupConfig.model_construct(minimum_jaccard=0.8, minimum_containment=None, memory_bytes=10**7)
    config = config.model_copy(update={"dedup": settings})
    copies = np.arange(0, documents, 10)
    for shard, name in enumerate(load_manifest(run).shard_names):
        generator = np.random.default_rng(shard)
        hashes = generator.integers(0, 256, (documents, 16), dtype=np.uint8)
        minima = generator.integers(0, 2**32, (documents, FINGERPRINTS.permutations), dtype=np.uint32)
        minima[copies + 1] = minima[copies]
        hashes[copies + 2] = hashes[copies]
        words = np.arange(documents) // 10 % 20
        signals = {
            "exact_hash": pa.array([value.tobytes() for value in hashes], pa.binary(16)),
            "shingle_count": np.full(documents, 8),
            "minhash": pa.FixedSizeListArray.from_arrays(pa.array(minima.ravel()), FINGERPRINTS.permutations),
            "sampled_shingles": pa.nulls(documents, pa.list_(pa.uint64())).fill_null([]),
            "language_probability": np.ones(documents),
        }
        write_shard(run, name, [" ".join(f"{k}w{i}" for i in range(12)) for k in words.tolist()], signals)
        del generator, hashes, minima, signals
    tracemalloc.start()
    dedup(config, run)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    counts = read_records(run, "dedup")["all"].counts
    assert counts["candidates"] == 2 * shards * len(copies), counts
    assert (counts["near"], counts["exact"], counts["contained"]) == (shards * len(copies), shards * len(copies), 0)
    return peak


PEAKS = """
import runpy, sys
from pathlib import Path
import data_prep.dedup.evidence as evidence
evidence._PAIRS_PER_GROUP = 5_000
peak_of = runpy.run_path(sys.argv[1])["_peak_of"]
# Once before it counts: kernels are compiled, and Python's table of interned strings, which pathlib fills with the
# names of files, has grown to its size.
peak_of(Path(sys.argv[2]) / "before", 2)
print(*(peak_of(Path(sys.argv[2]) / str(shards), shards) for shards in (12, 24)))
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """Runs in its own process, so that memory left over from other tests is not counted."""
    command = [sys.executable, "-c", PEAKS, __file__, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    few, many = map(int, done.stdout.split()[-2:])
    assert many < 1.1 * few


@pytest.mark.skipif(not GOLD.is_file(), reason=f"no gold pairs at {GOLD.name}")
def test_gold_pairs(tmp_path: Path) -> None:
    """870 pairs with their exact similarity; recall where it is 0.85 or more, and no removal below 0.8."""
    with pa.input_stream(str(GOLD), compression="zstd") as stream:
        pairs = [json.loads(line) for line in io.TextIOWrapper(stream, encoding="utf-8")]
    evidence = find(tmp_path, [pair[side] for pair in pairs for side in ("a", "b")])
    duplicate_of = evidence.duplicate_of
    went = duplicate_of.reshape(-1, 2) >= 0
    gold = np.array([pair["jaccard_word5"] for pair in pairs])
    assert went.any(axis=1)[gold >= 0.85].mean() >= 0.98
    assert evidence.measures[duplicate_of >= 0, 0].min() >= 0.8
    of_its_pair = duplicate_of[1::2] == np.arange(0, 2 * len(pairs), 2)
    assert gold[of_its_pair].min() >= 0.8
