"""A sample of the kept documents: by seed, in the proportions of the mixture, bounded in bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from data_prep.config import DataConfig
from data_prep.shards import Manifest, RunDirectory
from data_prep.tokenizer.kept_documents import KeptDocument, id_fraction, mixture_weights, read_kept, read_kept_sizes


@dataclass(frozen=True)
class SampledDocument:
    """A document of the sample and its source."""

    source: str
    document: KeptDocument


@dataclass(frozen=True)
class Sample:
    """Which share of each source's kept documents to draw. A document is drawn by a hash of its id.

    So the same documents are drawn whatever the number of workers or the order of work, and the text is read once,
    shard by shard, with one document in memory.
    """

    seed: int
    purpose: str
    shares: Mapping[str, float]
    """Source -> probability of a document of it."""
    kept_bytes: Mapping[str, int]
    """Source -> bytes of all its kept documents; sources that keep nothing are left out."""

    def draws(self, source: str, identity: str) -> bool:
        return id_fraction(self.seed, self.purpose, identity) < self.shares.get(source, 0.0)

    @property
    def expected_bytes(self) -> int:
        return round(sum(self.shares[source] * self.kept_bytes[source] for source in self.shares))

    def read(self, run: RunDirectory, manifest: Manifest) -> Iterator[SampledDocument]:
        """The sampled documents in the order of the manifest."""
        for shard in manifest.shards:
            if self.shares.get(shard.source, 0.0) > 0:
                for document in read_kept(run, shard.name, partial(self.draws, shard.source)):
                    yield SampledDocument(shard.source, document)


def plan_sample(config: DataConfig, run: RunDirectory, manifest: Manifest, purpose: str, total_bytes: int) -> Sample:
    """Divide `total_bytes` among the sources by their weights; what a small source cannot fill goes to the others.

    Raises:
        ValueError: nothing at all is kept.
    """
    kept_bytes: dict[str, int] = {}
    for shard in manifest.shards:
        kept = int(read_kept_sizes(run, shard.name).byte_counts.sum())
        kept_bytes[shard.source] = kept_bytes.get(shard.source, 0) + kept
    kept_bytes = {source: size for source, size in kept_bytes.items() if size}
    if not kept_bytes:
        raise ValueError(
            f"{run.root}: no source has a kept document; `python -m data_prep ledger` says why each was dropped"
        )
    given = {source.name: source.weight for source in config.sources}
    names = list(kept_bytes)
    weights = dict(
        zip(names, mixture_weights(names, [given[name] for name in names], list(kept_bytes.values())), strict=True)
    )
    wanted: dict[str, float] = {}
    left, open_names = float(total_bytes), names
    while open_names:
        total_weight = sum(weights[name] for name in open_names)
        share = {name: left * weights[name] / total_weight for name in open_names}
        full = [name for name in open_names if kept_bytes[name] <= share[name]]
        if not full:
            wanted.update(share)
            break
        for name in full:
            wanted[name] = kept_bytes[name]
            left -= kept_bytes[name]
        open_names = [name for name in open_names if name not in full]
    # 1.0 exactly where a source is taken whole: no hash is below less than that for certain.
    shares = {name: min(1.0, wanted[name] / kept_bytes[name]) for name in names}
    return Sample(config.seed, purpose, shares, kept_bytes)
