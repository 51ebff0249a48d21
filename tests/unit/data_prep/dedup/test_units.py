"""Deduplication in units against a plain twin in memory, whatever the number of units and workers."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.config import DedupConfig
from data_prep.dedup import groups, stage, work
from data_prep.dedup.choose import CONTAINED_SHINGLES, choose
from data_prep.dedup.contained import ANCHORS, COMMON_DOCUMENTS, least_shared
from data_prep.dedup.near import band_keys
from data_prep.dedup.records import CONTAINED, EXACT, NEAR
from data_prep.dedup.stage import STEPS, dedup
from data_prep.run.commit_records import StaleOutputError
from data_prep.run.directory import RunDirectory, Share
from data_prep.run.documents import text_bytes
from data_prep.run.executors import ShareDone, UnitError
from data_prep.signals.fingerprints import exact_hash, fingerprint_text
from foundation import atomic_files
from tests.unit.data_prep.dedup.finding import FINGERPRINTS, Found, find, prepare, sets_of

LITTLE = 100_000


def random_texts(seed: int, count: int) -> list[str]:
    """Texts of all kinds: new ones, exact and edited copies, excerpts, pages of a template, and empty ones."""
    generator = np.random.default_rng(seed)

    def words(count: int) -> list[str]:
        return [f"w{word}" for word in generator.integers(0, 20_000, size=count)]

    template, texts = words(130), [words(150)]
    for _ in range(count - 1):
        earlier = list(texts[generator.integers(len(texts))])
        match generator.choice(
            ["new", "copy", "edit", "excerpt", "page", "short"], p=[0.25, 0.15, 0.25, 0.1, 0.2, 0.05]
        ):
            case "new":
                texts.append(words(generator.integers(1, 300)))
            case "copy":
                texts.append(earlier)
            case "edit":
                for place in generator.integers(0, max(len(earlier), 1), size=min(len(earlier), 4)):
                    earlier[place] = words(1)[0]
                texts.append(earlier)
            case "excerpt":
                start = int(generator.integers(0, max(len(earlier) - 70, 1)))
                texts.append(earlier[start : start + int(generator.integers(60, 150))])
            case "page":
                texts.append(template + words(generator.integers(15, 50)))
            case _:
                texts.append(words(generator.integers(0, 2)))
    return [" ".join(text) for text in texts]


def twin(texts: list[str], containment: float | None, fails: tuple[int, ...]) -> Found:
    """The same decisions in memory, with dictionaries, and one call of `choose` for all documents together."""
    data, offsets = text_bytes(pa.array(texts, pa.large_string()))
    found = fingerprint_text(data, offsets, FINGERPRINTS)
    sizes = found.counts.tolist()
    by_preference = sorted(range(len(texts)), key=lambda d: (d in fails, -sizes[d] if containment else 0, d))
    place = {document: place for place, document in enumerate(by_preference)}
    copies: dict[bytes, list[int]] = {}
    for document in by_preference:
        copies.setdefault(exact_hash(texts[document].encode()), []).append(document)
    first = {copy: same[0] for same in copies.values() for copy in same}

    buckets: list[list[int]] = []
    by_key: dict[int, list[int]] = {}
    keys = band_keys(found.minima, FINGERPRINTS.bands, FINGERPRINTS.rows)
    for document in range(len(texts)):
        if first[document] == document and sizes[document]:
            for key in keys[document].tolist():
                by_key.setdefault(key, []).append(document)
    buckets += [same for same in by_key.values() if len(same) > 1]
    if containment is not None:
        buckets += anchored(found, first, place, containment)

    members: dict[int, list[int]] = {}
    for number, same in enumerate(buckets):
        for document in same:
            members.setdefault(document, []).append(number)
    candidates = sorted(members, key=place.__getitem__)
    sets = sets_of(texts)
    similar = choose(
        np.cumsum([0, *(len(members[document]) for document in candidates)]),
        np.array([number for document in candidates for number in members[document]], dtype=np.int64),
        found.minima,
        np.array(candidates, dtype=np.int64),
        np.concatenate([np.empty(0, np.uint64), *(sets[document] for document in candidates)]),
        np.cumsum([0, *(sizes[document] for document in candidates)])[:-1],
        np.array([sizes[document] for document in candidates], dtype=np.int64),
        0.8,
        containment,
    )

    def kind(jaccard: float) -> int:
        return NEAR if jaccard >= 0.8 else CONTAINED

    removed: dict[int, tuple[Any, ...]] = {}
    pairs: list[tuple[Any, ...]] = [(first[d], d, 1.0, 1.0, EXACT) for d in range(len(texts)) if first[d] != d]
    for d, document in enumerate(candidates):
        if similar.duplicate_of[d] >= 0:
            jaccard, share = similar.jaccard[d], similar.containment[d]
            removed[document] = (candidates[similar.duplicate_of[d]], kind(jaccard), jaccard, share)
    for (kept, gone), jaccard, share in zip(
        similar.pairs.tolist(), similar.pair_jaccard, similar.pair_containment, strict=True
    ):
        pairs.append((candidates[kept], candidates[gone], jaccard, share, kind(jaccard)))
    for document in range(len(texts)):
        if first[document] != document:
            removed[document] = removed.get(first[document], (first[document], EXACT, 1.0, 1.0))
    decided = [removed.get(document, (-1, 0, 0.0, 0.0)) for document in range(len(texts))]
    fields = [("kept", "<i8"), ("gone", "<i8"), ("jaccard", "<f8"), ("containment", "<f8"), ("kind", "u1")]
    return Found(
        np.array([one[0] for one in decided]),
        np.array([one[1] for one in decided], dtype=np.uint8),
        np.array([one[2:] for one in decided]),
        np.array(sorted(pairs), dtype=fields),
        {"candidates": len(candidates), "similar_pairs": len(similar.pairs)},
    )


def anchored(found: Any, first: dict[int, int], place: dict[int, int], containment: float) -> list[list[int]]:
    """Pairs of documents that share enough anchors."""
    bounds = found.sample_bounds.tolist()
    samples = {d: found.samples[bounds[d] : bounds[d + 1]].tolist() for d in first if first[d] == d}
    having: dict[int, list[int]] = {}
    for document, values in samples.items():
        for value in values:
            having.setdefault(value, []).append(document)
    shared: Counter[tuple[int, int]] = Counter()
    anchors: Counter[int] = Counter()
    for document, values in samples.items():
        if found.counts[document] >= CONTAINED_SHINGLES:
            for value in values[:ANCHORS]:
                if len(having[value]) <= COMMON_DOCUMENTS:
                    anchors[document] += 1
                    shared.update((document, other) for other in having[value] if place[other] < place[document])
    least = {d: int(least_shared(np.array([count]), containment)[0]) for d, count in anchors.items()}
    return [[inner, outer] for (inner, outer), count in shared.items() if count >= least[inner]]


def assert_same(found: Found, expected: Found) -> None:
    for name in ("duplicate_of", "kinds", "measures", "pairs"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.tobytes() == theirs.astype(ours.dtype).tobytes(), name
    assert {name: found.counts[name] for name in expected.counts} == expected.counts


@pytest.fixture
def many_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles and batches of a few documents; units run in this process, and nothing waits for the disk."""
    monkeypatch.setattr(groups, "_LEAST_BATCH", 30_000)
    monkeypatch.setattr(work, "_LEAST_BUNDLE", 60)
    monkeypatch.setattr(atomic_files, "sync", lambda path: None)

    def run_units(function: Any, units: list[str], workers: int, title: str, stage: Any) -> None:
        for unit in reversed(units):
            if not stage.is_done(unit):
                function(unit)

    monkeypatch.setattr(stage, "run_units", run_units)


@pytest.mark.parametrize("containment", [None, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_decisions_are_those_of_a_plain_twin(
    tmp_path: Path, many_units: None, seed: int, containment: float | None
) -> None:
    texts = random_texts(seed, 300)
    fails = tuple(range(seed, 300, 9))
    expected = twin(texts, containment, fails)
    assert {EXACT, NEAR} <= set(expected.kinds[expected.duplicate_of >= 0].tolist())
    assert (CONTAINED in expected.kinds) is (containment is not None)
    for shards, memory_bytes in ((1, 10**9), (12, LITTLE)):
        folder = tmp_path / f"{shards}-{memory_bytes}"
        found = find(
            folder, texts, minimum_containment=containment, memory_bytes=memory_bytes, fails=fails, shards=shards
        )
        assert_same(found, expected)


def test_groups_that_are_larger_than_memory_are_decided_in_pieces(tmp_path: Path, many_units: None) -> None:
    """More than 64 copies of a text and edits of another, at a memory in which fewer fit."""
    texts = random_texts(21, 20)
    words = [f"x{word}" for word in range(150)]
    for number in range(90):
        texts += [texts[0], " ".join([*words[:-1], f"edit{number}"])]
    expected = twin(texts, None, (0,))
    assert max(Counter(expected.duplicate_of.tolist()).values()) > 80
    assert_same(find(tmp_path, texts, memory_bytes=20_000, fails=(0,), shards=4), expected)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path, workers: int) -> None:
    texts = random_texts(11, 300)
    found = find(tmp_path, texts, memory_bytes=LITTLE, shards=6, workers=workers)
    assert_same(found, twin(texts, None, ()))


def bytes_of(run: RunDirectory) -> dict[str, bytes]:
    folders = (run.dedup, run.commits / "dedup")
    return {
        str(path.relative_to(run.root)): path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_shares_do_a_step_at_a_time_and_write_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_LEAST_BATCH", 10_000)
    settings = DedupConfig.model_construct(memory_bytes=LITTLE, minimum_containment=0.9, lines="keep_first")
    config, run = prepare(tmp_path, random_texts(12, 200), settings, (), shards=5, workers=1)
    alone = RunDirectory(tmp_path / "alone")
    shutil.copytree(run.root, alone.root)
    dedup(config, alone)
    for _ in range(len(STEPS)):
        for rank in (2, 0, 1):
            with pytest.raises(ShareDone):
                dedup(config, RunDirectory(run.root, Share(rank, 3)))
    with pytest.raises(ShareDone, match="all steps are done; a process without a share completes the stage"):
        dedup(config, RunDirectory(run.root, Share(0, 3)))
    dedup(config, run)
    assert bytes_of(run) == bytes_of(alone)
    assert not (run.dedup / "work").exists()


def test_a_unit_whose_files_are_lost_is_done_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped before the last step, with a file of the first step lost and one damaged in its length."""
    settings = DedupConfig.model_construct(memory_bytes=LITTLE)
    config, run = prepare(tmp_path, random_texts(13, 200), settings, (), shards=5, workers=1)
    alone = RunDirectory(tmp_path / "alone")
    shutil.copytree(run.root, alone.root)
    dedup(config, alone)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "_complete", stop)
        with pytest.raises(KeyboardInterrupt):
            dedup(config, run)
    records = {path: path.stat().st_mtime_ns for path in (run.commits / "dedup").iterdir()}
    lost, cut = run.dedup / "work" / "hashes-00001", run.dedup / "work" / "members-00000"
    lost.unlink()
    with open(cut, "r+b") as file:
        file.truncate(10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "_complete", lambda *_: None)
        dedup(config, run)
    changed = {path.stem for path, stamp in records.items() if path.stat().st_mtime_ns != stamp}
    assert changed == {"hashes-00001", "texts-00000"}
    assert "hashes-00001: is missing; dedup hashes-00001 is done again" in capsys.readouterr().err
    dedup(config, run)
    assert bytes_of(run) == bytes_of(alone)


def test_another_division_of_the_corpus_is_refused_between_units_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DedupConfig.model_construct(memory_bytes=LITTLE)
    config, run = prepare(tmp_path, random_texts(14, 60), settings, (), shards=2, workers=1)
    more = config.model_copy(update={"dedup": DedupConfig.model_construct(memory_bytes=2 * LITTLE)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "_complete", lambda *_: None)
        dedup(config, run)
    with pytest.raises(StaleOutputError, match=r"the setting dedup\.memory_bytes is 200000, .* were made with 100000"):
        dedup(more, run)
    dedup(config, run)
    dedup(more, run)  # is done already


def test_a_text_that_is_not_the_measured_one_is_named(tmp_path: Path) -> None:
    texts = random_texts(15, 60)
    config, run = prepare(tmp_path, texts, DedupConfig.model_construct(), (), shards=2, workers=1)
    path = run.corpus / "texts-00001.parquet"
    table = pq.read_table(path)
    others = pa.array([f"{text} more" for text in table.column("text").to_pylist()], pa.large_string())
    pq.write_table(table.set_column(1, table.schema.field(1), others), path)
    with pytest.raises(UnitError, match=r"texts-00000: .*texts-00001\.parquet: a text has \d+ shingles, \d+ were"):
        dedup(config, run)


def test_bundles_are_whole_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_LEAST_BUNDLE", 10)
    plan = work.Plan.of([4, 4, 4, 30, 0, 1, 9, 1], 14, 0, 0, 10**9)
    assert plan.bundles.tolist() == [0, 2, 3, 4, 7, 8]
    assert [plan.documents_of(bundle) for bundle in range(5)] == [(0, 8), (8, 12), (12, 42), (42, 52), (52, 53)]
    assert [list(plan.shards_of(bundle)) for bundle in (0, 3)] == [[0, 1], [4, 5, 6]]


def test_slurm_gets_an_array_for_each_step() -> None:
    script = (Path(__file__).parents[4] / "slurm" / "data_prep.sbatch").read_text(encoding="utf-8")
    (number,) = re.findall(r"in \{1\.\.(\d+)\}; do .*\n *submit dedup \"\$tasks\"", script)
    assert int(number) == len(STEPS)
