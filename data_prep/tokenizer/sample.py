"""Samples of the kept documents: drawn by seed, in proportion to sources and languages, of limited size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from data_prep.config import DataConfig, TokenizerConfig
from data_prep.languages import meant_for
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import Manifest
from data_prep.tokenizer.kept_documents import KeptDocument, id_fraction, mixture_weights, read_kept, read_kept_sizes

Stratum = tuple[str, str]
"""Source and language."""

_MEASURED_SHARE = 0.05
_MEASURED_BYTES = 2_000_000
"""Limit in bytes of the documents of a language that fertility is measured on, besides their share; no tokenizer is
trained on them, neither ours nor those that it is compared with."""


@dataclass(frozen=True)
class SampledDocument:
    """Document of the sample with its source."""

    source: str
    document: KeptDocument


@dataclass(frozen=True)
class Sample:
    """Plan of a sample: the share of documents to draw from each source and language. A document is drawn by a hash of
    its id.

    So the same documents are drawn for any number of workers or order of work, and the text is read once, shard by
    shard, with one document in memory.

    Attributes:
        shares: probability of a document of the stratum.
        kept_bytes: bytes of all kept documents of the stratum; empty strata are omitted.
        measured: share of the documents of each language that is reserved for measuring and never drawn.
    """

    seed: int
    purpose: str
    shares: Mapping[Stratum, float]
    kept_bytes: Mapping[Stratum, int]
    measured: Mapping[str, float]

    def draws(self, source: str, identity: str, language: str) -> bool:
        share = self.shares.get((source, language), 0.0)
        return (
            share > 0
            and id_fraction(self.seed, self.purpose, identity) < share
            and not is_measured(self.seed, self.measured, identity, language)
        )

    @property
    def expected_bytes(self) -> int:
        drawn = (
            share * (1 - self.measured.get(language, 0.0)) * self.kept_bytes[source, language]
            for (source, language), share in self.shares.items()
        )
        return round(sum(drawn))

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(source for source, _ in self.kept_bytes))

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(sorted({language for _, language in self.kept_bytes}))

    def read(self, run: RunDirectory, manifest: Manifest) -> Iterator[SampledDocument]:
        """Yield the sampled documents in the order of the manifest."""
        drawn = {source for (source, _), share in self.shares.items() if share > 0}
        for shard in manifest.shards:
            if shard.source in drawn:
                for document in read_kept(run, shard.name, partial(self.draws, shard.source)):
                    yield SampledDocument(shard.source, document)


def is_measured(seed: int, measured: Mapping[str, float], identity: str, language: str) -> bool:
    """Return whether the report measures this document, see `measured_shares`."""
    share = measured.get(language, 0.0)
    return share > 0 and id_fraction(seed, "fertility", identity) < share


def kept_bytes_of(config: DataConfig, run: RunDirectory, manifest: Manifest) -> dict[Stratum, int]:
    """Return the bytes of kept documents by source and language, in the order of the sources, of arrival 0 alone: the
    tokenizer does not change when more arrives.

    Raises:
        ValueError: no document is kept.
    """
    kept: dict[Stratum, int] = defaultdict(int)
    for shard in manifest.shards:
        if manifest.arrival(shard.source):
            continue
        for language, size in sorted(read_kept_sizes(run, shard.name).by_language().items()):
            kept[shard.source, language] += size
    if not any(kept.values()):
        raise ValueError(f"{run.root}: no source has a kept document; see `altiplano data ledger` for the reasons")
    return {stratum: size for stratum, size in kept.items() if size}


def measured_shares(kept_bytes: Mapping[Stratum, int]) -> dict[str, float]:
    """Return the share of documents that fertility is measured on, by language."""
    sums: dict[str, int] = defaultdict(int)
    for (_, language), size in kept_bytes.items():
        sums[language] += size
    return {language: min(_MEASURED_SHARE, _MEASURED_BYTES / size) for language, size in sums.items()}


def plan_sample(
    config: DataConfig, run: RunDirectory, manifest: Manifest, purpose: str, total_bytes: int, *, learnt: bool = False
) -> Sample:
    """Divide `total_bytes` among sources and languages; what a small one cannot provide is given to the others.

    Args:
        learnt: a tokenizer is trained on the sample: languages are weighted by the settings, and documents that
            fertility is measured on are excluded.

    Raises:
        ValueError: no document is kept.
    """
    kept_bytes = kept_bytes_of(config, run, manifest)
    given = {source.name: source.weight for source in config.sources}
    by_source: dict[str, int] = defaultdict(int)
    for (source, _), size in kept_bytes.items():
        by_source[source] += size
    names = list(by_source)
    source_weights = dict(
        zip(names, mixture_weights(names, [given[name] for name in names], list(by_source.values())), strict=True)
    )
    weights: dict[Stratum, float] = {}
    for source in names:
        inner = {stratum[1]: size for stratum, size in kept_bytes.items() if stratum[0] == source}
        proportions = language_proportions(inner, config.tokenizer) if learnt else _normalised(inner)
        weights |= {(source, language): source_weights[source] * p for language, p in proportions.items()}
    wanted: dict[Stratum, float] = {}
    left, open_strata = float(total_bytes), list(kept_bytes)
    while open_strata:
        total_weight = sum(weights[stratum] for stratum in open_strata)
        share = {stratum: left * weights[stratum] / total_weight for stratum in open_strata}
        full = [stratum for stratum in open_strata if kept_bytes[stratum] <= share[stratum]]
        if not full:
            wanted.update(share)
            break
        for stratum in full:
            wanted[stratum] = kept_bytes[stratum]
            left -= kept_bytes[stratum]
        open_strata = [stratum for stratum in open_strata if stratum not in full]
    # 1.0 exactly where a stratum is taken whole: no hash is below less than that for certain.
    shares = {stratum: min(1.0, wanted[stratum] / kept_bytes[stratum]) for stratum in kept_bytes}
    return Sample(config.seed, purpose, shares, kept_bytes, measured_shares(kept_bytes) if learnt else {})


def language_proportions(sizes: Mapping[str, int], settings: TokenizerConfig) -> dict[str, float]:
    """Return the share of each language within a source, from its bytes there; see
    `TokenizerConfig.language_exponent`."""
    return _normalised(
        {
            language: _weight(language, settings) * share**settings.language_exponent
            for language, share in _normalised(sizes).items()
        }
    )


def _normalised(values: Mapping[str, float]) -> dict[str, float]:
    total = sum(values.values())
    return {name: value / total for name, value in values.items()}


def _weight(language: str, settings: TokenizerConfig) -> float:
    named = meant_for(language, settings.language_weights)
    return 1.0 if named is None else settings.language_weights[named]
