"""Runs deduplication on texts: writes a run with their fingerprints, and reads the tables of the stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from data_prep.config import DataConfig, DedupConfig, FingerprintConfig
from data_prep.dedup.records import KINDS
from data_prep.dedup.stage import dedup
from data_prep.run.commit_records import read_records
from data_prep.run.directory import RunDirectory
from data_prep.signals.fingerprints import shingle_set
from tools.bench.fingerprinted import frozen_run, measure_texts

FINGERPRINTS = FingerprintConfig()


@dataclass(frozen=True)
class Found:
    """Decisions for all texts, and the pairs that were found.

    Attributes:
        duplicate_of: the kept text of which each is a copy, or -1.
        kinds: of each removal, index in `KINDS`; measures: its Jaccard similarity and containment.
        pairs: records of `kept`, `gone`, `jaccard`, `containment` and `kind`.
    """

    duplicate_of: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.uint8]
    measures: npt.NDArray[np.float64]
    pairs: npt.NDArray[np.void]
    counts: dict[str, int]


def find(
    folder: Path,
    texts: list[str],
    minimum_jaccard: float = 0.8,
    minimum_containment: float | None = None,
    memory_bytes: int = 10**9,
    fails: tuple[int, ...] = (),
    shards: int = 1,
    workers: int = 1,
) -> Found:
    """Decisions for the texts; those with an index in `fails` fail their rules."""
    settings = DedupConfig.model_construct(
        minimum_jaccard=minimum_jaccard, minimum_containment=minimum_containment, memory_bytes=memory_bytes
    )
    config, run = prepare(folder, texts, settings, fails, shards, workers)
    dedup(config, run)
    return found_in(run, len(texts))


def prepare(
    folder: Path, texts: list[str], settings: DedupConfig, fails: tuple[int, ...], shards: int, workers: int
) -> tuple[DataConfig, RunDirectory]:
    config, run = frozen_run(folder, shards, workers=workers)
    config = config.model_copy(update={"dedup": settings})  # not validated: tests use less memory than users may
    measure_texts(config, run, texts, fails)
    return config, run


def found_in(run: RunDirectory, documents: int) -> Found:
    """The tables of a run whose shards are `texts-NNNNN`."""
    shards = sorted(run.corpus.glob("*.parquet"))
    bounds = np.cumsum([0, *(pq.read_metadata(path).num_rows for path in shards)])

    def numbers(ids: list[str]) -> npt.NDArray[np.int64]:
        parts = [identity.rpartition("/") for identity in ids]
        return np.array([bounds[int(shard[-5:])] + int(row) for shard, _, row in parts], dtype=np.int64)

    def kinds(names: list[str]) -> list[int]:
        return [KINDS.index(name) for name in names]

    removals = pq.read_table(run.dedup / "removals").to_pydict()
    gone = numbers(removals["id"])
    assert (np.diff(gone) > 0).all()
    duplicate_of, kind = np.full(documents, -1, dtype=np.int64), np.zeros(documents, dtype=np.uint8)
    measures = np.zeros((documents, 2))
    duplicate_of[gone], kind[gone] = numbers(removals["duplicate_of"]), kinds(removals["kind"])
    measures[gone] = np.stack((removals["jaccard"], removals["containment"]), axis=1)
    table = pq.read_table(run.dedup / "pairs").to_pydict()
    fields = [("kept", "<i8"), ("gone", "<i8"), ("jaccard", "<f8"), ("containment", "<f8"), ("kind", "u1")]
    pairs = np.empty(len(table["id_a"]), dtype=fields)
    pairs["kept"], pairs["gone"], pairs["kind"] = numbers(table["id_a"]), numbers(table["id_b"]), kinds(table["kind"])
    pairs["jaccard"], pairs["containment"] = table["jaccard"], table["containment"]
    assert (np.lexsort((pairs["gone"], pairs["kept"])) == np.arange(len(pairs))).all()
    return Found(duplicate_of, kind, measures, pairs, dict(read_records(run, "dedup")["all"].counts))


def sets_of(texts: list[str]) -> list[np.ndarray]:
    return [shingle_set(text.encode(), FINGERPRINTS.shingle_words) for text in texts]
