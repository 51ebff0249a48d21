"""Runs deduplication on texts in memory, as the stage does on files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.config import DedupConfig, FingerprintConfig
from data_prep.dedup.evidence import Decided
from data_prep.dedup.find import Finder, Signatures
from data_prep.signals.fingerprints import exact_hash, fingerprint_text, shingle_set

FINGERPRINTS = FingerprintConfig()


@dataclass(frozen=True)
class Found(Decided):
    """Decisions for all texts, and the pairs that were found."""

    pairs: npt.NDArray[np.void]


def find(
    folder: Path,
    texts: list[str],
    minimum_jaccard: float = 0.8,
    minimum_containment: float | None = None,
    memory_bytes: int = 10**9,
    fails: tuple[int, ...] = (),
) -> tuple[Found, Finder]:
    """Decisions for the texts; those with an index in `fails` fail their rules."""
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    found = fingerprint_text(data, offsets, FINGERPRINTS)
    settings = DedupConfig.model_construct(
        minimum_jaccard=minimum_jaccard, minimum_containment=minimum_containment, memory_bytes=memory_bytes
    )
    has_signature = found.counts > 0
    finder = Finder(settings, FINGERPRINTS, len(texts), len(found.samples), folder)
    finder.add(
        Signatures(
            0,
            np.isin(np.arange(len(texts)), fails),
            np.frombuffer(b"".join(map(exact_hash, encoded)), dtype="<u8").reshape(-1, 2).astype(np.uint64),
            found.counts,
            has_signature,
            found.minima[has_signature],
            found.samples,
            np.diff(found.sample_bounds),
        )
    )
    candidates = finder.propose()
    with finder.taking_candidates():
        finder.add_candidates(found.minima[candidates], [encoded[d] for d in candidates.tolist()])
    evidence = finder.decide()
    pairs = list(evidence.pairs())
    return Found(**vars(evidence.decided(0, len(texts))), pairs=np.concatenate(pairs) if pairs else np.empty(0)), finder


def sets_of(texts: list[str]) -> list[np.ndarray]:
    return [shingle_set(text.encode(), FINGERPRINTS.shingle_words) for text in texts]
