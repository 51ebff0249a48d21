"""Division of deduplication into units, and the files that they leave for each other.

The corpus is divided into *bundles* of consecutive shards, hashes into ranges, and clusters of similar documents into
batches. Their numbers depend on the corpus and the settings alone, so that any number of workers writes the same bytes.
A unit reads runs of records that earlier units have spread, see `data_prep.run.shuffle`, and spreads its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.config import DataConfig
from data_prep.dedup.records import BANDS, COPIES, HASHES, LINES, PAGES, SAMPLES, SIGNED
from data_prep.rules import capped_sources
from data_prep.run.commit_records import Stage
from data_prep.run.manifest import Shard, manifest_at
from data_prep.run.shuffle import Records, RecordType, Run, collect, new_run, ranges_for

_DOCUMENT_BYTES = 512
"""About the bytes of a document's signals."""
_LEAST_BUNDLE = 1 << 16
"""Number of documents below which a bundle costs more to start than to process."""
_BUNDLES = 256
"""Number of bundles that keeps many workers busy."""
_SHARES_OF_MEMORY = 4
"""Number of things that a unit does at a time, each with its share of the memory: merging, and runs that it writes."""
_COPIES = 8
"""Copies of records in memory while they are processed."""

Spread = Sequence[tuple[str, int]]
"""Kinds of runs, and the number of units that have spread each."""


@dataclass(frozen=True)
class Plan:
    """Division of a corpus; documents are numbered in its order.

    Attributes:
        shard_bounds: documents of shard s are [shard_bounds[s], shard_bounds[s + 1]).
        bundles: shards of bundle b are [bundles[b], bundles[b + 1]).
        hash_ranges, band_ranges, sample_ranges, line_ranges, domain_ranges, token_ranges: number of ranges of each
            kind of hash.
    """

    shard_bounds: npt.NDArray[np.int64]
    bundles: npt.NDArray[np.int64]
    hash_ranges: int
    band_ranges: int
    sample_ranges: int
    line_ranges: int
    domain_ranges: int
    token_ranges: int

    @classmethod
    def of(
        cls, documents: Sequence[int], bands: int, samples: int, lines: int, memory_bytes: int, tokens: int = 0
    ) -> Plan:
        """Divide a corpus.

        Args:
            documents: number of documents of each shard; bands: of each document.
            samples, lines, tokens: number of sampled shingles, and estimated numbers of lines and tokens of the corpus.
        """
        bounds = np.cumsum([0, *documents], dtype=np.int64)
        total = int(bounds[-1])
        share = memory_bytes // _SHARES_OF_MEMORY
        most = max(min(max(total // _BUNDLES, _LEAST_BUNDLE), memory_bytes // _DOCUMENT_BYTES), 1)
        bundles = [0]
        for shard in range(len(documents)):
            if shard > bundles[-1] and bounds[shard + 1] - bounds[bundles[-1]] > most:
                bundles.append(shard)
        return cls(
            bounds,
            np.array([*bundles, len(documents)], dtype=np.int64),
            ranges_for(total, HASHES, share),
            ranges_for(total * bands, BANDS, share),
            ranges_for(samples, SAMPLES, share),
            ranges_for(lines, LINES, share),
            ranges_for(total, PAGES, share),
            ranges_for(tokens, LINES, share),
        )

    def span_ranges(self, kind: str) -> int:
        """Return the number of ranges of the hashes of spans of a kind; there are about as many sentences as lines."""
        return {"sentences": self.line_ranges, "substrings": self.token_ranges}[kind]

    @property
    def documents(self) -> int:
        return int(self.shard_bounds[-1])

    @property
    def bundle_count(self) -> int:
        return len(self.bundles) - 1

    @property
    def bundle_starts(self) -> npt.NDArray[np.int64]:
        """First document of each bundle, and the number of documents."""
        return self.shard_bounds[self.bundles]

    def shards_of(self, bundle: int) -> range:
        return range(*self.bundles[bundle : bundle + 2].tolist())

    def documents_of(self, bundle: int) -> tuple[int, int]:
        start, stop = self.bundle_starts[bundle : bundle + 2].tolist()
        return start, stop


@dataclass(frozen=True)
class Work:
    """What a unit needs: settings, the plan, and the folder in which units leave files for each other.

    Args:
        batches: number of batches; 0 before they are made.
    """

    stage: Stage
    config: DataConfig
    plan: Plan
    batches: int = 0

    @property
    def folder(self) -> Path:
        return self.stage.run.dedup / "work"

    @property
    def has_containment(self) -> bool:
        return self.config.dedup.minimum_containment is not None

    @property
    def has_lines(self) -> bool:
        return self.config.dedup.lines != "none"

    @property
    def capped_sources(self) -> tuple[str, ...]:
        """Sources whose pages are counted by domain."""
        return capped_sources(self.config)

    @property
    def memory_bytes(self) -> int:
        """Memory for one of the things that a unit does at a time."""
        return self.config.dedup.memory_bytes // _SHARES_OF_MEMORY

    def path(self, kind: str, number: int) -> Path:
        return self.folder / f"{kind}-{number:05d}"

    def paths(self, kind: str, count: int) -> list[Path]:
        return [self.path(kind, number) for number in range(count)]

    def part(self, output: str, bundle: int) -> Path:
        """Return the path of an output's file for a bundle, which has the name of its first shard."""
        return self.stage.run.dedup / output / f"{self.shard(int(self.plan.bundles[bundle])).name}.parquet"

    def shard(self, number: int) -> Shard:
        return manifest_at(self.stage.run.manifest, self.stage.inputs).shards[number]

    def shards_of(self, bundle: int) -> Iterator[tuple[Shard, int, int]]:
        """Yield the shards of a bundle with their documents [start, stop)."""
        for number in self.plan.shards_of(bundle):
            start, stop = self.plan.shard_bounds[number : number + 2].tolist()
            yield self.shard(number), start, stop

    def signed(self, bundle: int) -> Records:
        """Return what is known of the documents of a bundle, `SIGNED`."""
        return np.fromfile(self.path("signed", bundle), dtype=SIGNED)

    def is_copy(self, bundle: int) -> npt.NDArray[np.bool_]:
        """Return which documents of a bundle are exact copies of others."""
        start, stop = self.plan.documents_of(bundle)
        result = np.zeros(stop - start, dtype=bool)
        for records in self.by_bundle([("copies", self.plan.hash_ranges)], COPIES, bundle):
            result[records["document"] - start] = True
        return result

    def by_bundle(self, spread: Spread, kind: RecordType, bundle: int) -> Iterator[Records]:
        """Yield the records of a bundle's documents in their order."""
        return self.collect(spread, kind, self.plan.bundle_count, bundle)

    def collect(self, spread: Spread, kind: RecordType, ranges: int, number: int) -> Iterator[Records]:
        """Yield the records of a range in their order, from each of the kinds of runs that were spread."""
        paths = [path for name, count in spread for path in self.paths(name, count)]
        return collect(paths, kind, ranges, number, self.memory_bytes)

    def by_batch(self, kind: str, of: RecordType, number: int) -> Iterator[Records]:
        """Yield the records of a batch in the order of their documents."""
        return self.collect([(kind, self.plan.bundle_count)], of, self.batches, number)

    def finders_of_buckets(self) -> Spread:
        """Return which kinds of units have found buckets."""
        bands = ("band", self.plan.band_ranges)
        return [bands, ("contained", self.plan.bundle_count)] if self.has_containment else [bands]

    def most_in_group(self, kind: RecordType) -> int:
        """Return how many records of equal keys are processed together; if there are more, in pieces."""
        return max(self.memory_bytes // (_COPIES * kind.dtype.itemsize), 64)


@dataclass
class Unit:
    """A unit at work: collects what it has written and counted until it is committed."""

    work: Work
    name: str
    number: int
    counts: dict[str, int] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)
    digests: dict[Path, str] = field(default_factory=dict)

    @contextmanager
    def spread(self, kind: str, of: RecordType, bounds: npt.NDArray[np.generic]) -> Iterator[Run]:
        """Yield the run of this unit, to which records are added."""
        path = self.work.path(kind, self.number)
        with new_run(path, of, bounds, self.work.memory_bytes, self.work.stage.new_file()) as run:
            yield run
        self.written.append(path)

    def spread_by_bundle(self, kind: str, of: RecordType) -> AbstractContextManager[Run]:
        """Spread records whose first field is a document to the bundle of this document."""
        return self.spread(kind, of, self.work.plan.bundle_starts[1:-1])

    @contextmanager
    def scratch_file(self, kind: str) -> Iterator[Path]:
        """Yield the temporary name of a file for later units."""
        path = self.work.path(kind, self.number)
        with self.work.stage.new_file()(path) as partial_file:
            yield partial_file
        self.written.append(path)

    @contextmanager
    def output_file(self, path: Path) -> Iterator[Path]:
        """Yield the temporary name of an output of the stage."""
        with self.work.stage.new_file(self.digests)(path) as partial_file:
            yield partial_file
        self.outputs.append(path)

    def commit(self) -> None:
        self.work.stage.commit(self.name, self.outputs, self.counts, digests=self.digests, scratch=self.written)
