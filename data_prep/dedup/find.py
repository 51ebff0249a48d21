"""Search for duplicates: which documents are removed, and as copies of which.

**Which copy is kept.** Documents that pass the rules of their source are preferred to those that do not, so that no
document is dropped as the copy of one that is dropped itself. If contained documents are removed, those with more
shingles are preferred, because a book must be kept for its pages to be removed. Otherwise the first document in the
corpus is preferred: sources in the order of the configuration, their files sorted, rows in their order.

**Memory** does not grow with the corpus. Hashes, bands, sampled shingles, pairs, signatures and shingle sets of the
candidates are in files that are processed in parts of `memory_bytes`; 85 bytes for each document are in memory-mapped
files. Only a single cluster of documents linked by shared bands needs more, about 600 bytes for each document. The
shingle sets that verify pairs are computed again from the texts, for candidates only, and mapped from a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.config import DedupConfig, FingerprintConfig
from data_prep.dedup.choose import CONTAINED_SHINGLES, choose
from data_prep.dedup.contained import ANCHORS, PAIR_FIELDS, SAMPLE_FIELDS, pair_by_anchors, propose_by_anchors
from data_prep.dedup.evidence import Evidence
from data_prep.dedup.exact import HASH_FIELDS, find_first_copies
from data_prep.dedup.groups import Groups
from data_prep.dedup.near import BAND_FIELDS, band_keys, propose_by_bands
from data_prep.dedup.preference import rank_documents
from data_prep.dedup.spill import Spill, mapped_numbers, mapped_zeros, part_of, parts_for
from data_prep.signals.fingerprints import shingle_set
from foundation.atomic_files import room_for

_SHINGLE_BYTES = 8
_BYTES_PER_ENTRY = 40
_BYTES_PER_CANDIDATE = 64
"""Memory of `choose` for each candidate besides shingles and signature."""


class OtherTextError(ValueError):
    """A text differs from the one that was measured."""


@dataclass(frozen=True)
class Signatures:
    """Signals of some documents."""

    start: int
    """Number of the first document."""
    fails_rules: npt.NDArray[np.bool_]
    hashes: npt.NDArray[np.uint64]
    """`uint64[documents, 2]`, 128 bits of each."""
    shingle_counts: npt.NDArray[np.int64]
    has_signature: npt.NDArray[np.bool_]
    """Whether each document has a signature; those without shingles have none, and no similar documents."""
    minima: npt.NDArray[np.uint32]
    """`uint32[documents with a signature, permutations]`"""
    samples: npt.NDArray[np.uint64]
    """Sampled shingles of all documents, ascending within each; needed for containment only."""
    sample_lengths: npt.NDArray[np.int64]


class Finder:
    """Search over all documents: takes their signatures, returns the candidates whose texts it needs, and decides.

    Args:
        documents: number of documents in the corpus; they are numbered in its order.
        samples: number of sampled shingles of all documents; affects the number of files only.
        scratch: empty folder for temporary files, which may be removed when the evidence has been written.
    """

    def __init__(
        self, settings: DedupConfig, fingerprints: FingerprintConfig, documents: int, samples: int, scratch: Path
    ) -> None:
        self._settings, self._fingerprints, self._scratch = settings, fingerprints, scratch
        self.fails_rules = mapped_zeros(scratch / "fails_rules", np.bool_, documents)
        self.tallies: Counter[str] = Counter(proposed_pairs=0, verified_pairs=0, similar_pairs=0)
        self._shingle_counts = mapped_zeros(scratch / "shingle_counts", np.int64, documents)
        self._anchors = mapped_zeros(scratch / "anchors", np.uint8, documents)
        self._hashes = self._spill("hashes", HASH_FIELDS, documents)
        self._bands = self._spill("bands", BAND_FIELDS, documents * fingerprints.bands)
        self._samples = self._spill("samples", SAMPLE_FIELDS, samples)
        self._pairs = self._spill("pairs", PAIR_FIELDS, samples)
        self._groups = Groups(scratch, documents, documents * fingerprints.bands, settings.memory_bytes)

    def _spill(self, name: str, fields: Sequence[tuple[str, str]], records: int) -> Spill:
        parts = parts_for(records, np.dtype(list(fields)).itemsize, self._settings.memory_bytes)
        return Spill(self._scratch, name, fields, parts, self._settings.memory_bytes)

    def add(self, signed: Signatures) -> None:
        """Add documents: write their hashes, bands and samples to parts."""
        documents = np.arange(signed.start, signed.start + len(signed.fails_rules), dtype=np.int64)
        self.fails_rules[documents] = signed.fails_rules
        self._shingle_counts[documents] = signed.shingle_counts
        low, high = signed.hashes.T
        self._hashes.add(part_of(low, self._hashes.parts), low, high, documents)
        keys = band_keys(signed.minima, self._fingerprints.bands, self._fingerprints.rows).ravel()
        owners = np.repeat(documents[signed.has_signature], self._fingerprints.bands)
        self._bands.add(part_of(keys, self._bands.parts), keys, owners)
        if self._settings.minimum_containment is not None:
            lengths = signed.sample_lengths
            owners = np.repeat(documents, lengths)
            place = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            asks = (place < ANCHORS) & (self._shingle_counts[owners] >= CONTAINED_SHINGLES)
            self._anchors[documents] = np.minimum(lengths, ANCHORS)
            spread = signed.samples * np.uint64(self._fingerprints.sample_every)  # samples are below 2^64 / this
            self._samples.add(part_of(spread, self._samples.parts), signed.samples, owners, asks)

    def propose(self) -> npt.NDArray[np.int64]:
        """Return the candidates, in their order: documents that may be similar to others, and whose texts are
        needed."""
        containment = self._settings.minimum_containment
        documents = len(self.fails_rules)
        self._rank = mapped_zeros(self._scratch / "rank", np.int64, documents)
        rank_documents(self.fails_rules, self._shingle_counts, containment is not None, self._rank)
        self._first = mapped_numbers(self._scratch / "first", documents)
        find_first_copies(self._hashes, self._rank, self._first)
        propose_by_bands(self._bands, self._first, self._groups)
        if containment is not None:
            pair_by_anchors(self._samples, self._first, self._rank, self._anchors, self._pairs)
            propose_by_anchors(self._pairs, self._anchors, containment, self._groups)
        self._candidates = self._groups.candidates()
        self._starts = mapped_zeros(self._scratch / "starts", np.int64, len(self._candidates) + 1)
        return self._candidates

    @contextmanager
    def taking_candidates(self) -> Iterator[None]:
        """Context in which `add_candidates` is called for all candidates, in their order."""
        self._taken = 0
        shingles, minima = self._scratch / "shingles", self._scratch / "minima"
        with (
            room_for(shingles),  # by far the larger one
            open(shingles, "wb") as self._shingle_file,
            open(minima, "wb") as self._minima_file,
        ):
            yield
        assert self._taken == len(self._candidates), "every candidate has a text"

    def add_candidates(self, minima: npt.NDArray[np.uint32], texts: Iterable[bytes]) -> None:
        """Add signatures and UTF-8 texts of the next candidates.

        Raises:
            OtherTextError: the number of shingles of a text differs from the measured one.
        """
        self._minima_file.write(minima.tobytes())
        for text in texts:
            shingles = shingle_set(text, self._fingerprints.shingle_words)
            measured = self._shingle_counts[self._candidates[self._taken]]
            if len(shingles) != measured:
                raise OtherTextError(f"a text has {len(shingles)} shingles, {measured} were measured")
            self._shingle_file.write(shingles.tobytes())
            self._starts[self._taken + 1] = self._starts[self._taken] + len(shingles)
            self._taken += 1

    def decide(self, advance: Callable[[int], None] = lambda count: None) -> Evidence:
        """Decide on all documents: exact copies, and similar ones among the rest.

        Args:
            advance: called with the number of candidates done since the last call.
        """
        evidence = Evidence(self._first, self._settings, self._scratch)
        permutations = self._fingerprints.permutations
        document_bytes = 4 * permutations + _BYTES_PER_CANDIDATE + _BYTES_PER_ENTRY * self._fingerprints.bands
        for batch in self._groups.batches(
            self._candidates, self._rank, self._shingle_counts, _SHINGLE_BYTES, document_bytes
        ):
            # mapped for each batch, so that pages of one are released before the next
            shingles = np.memmap(self._scratch / "shingles", dtype=np.uint64, mode="r")
            minima = np.memmap(self._scratch / "minima", dtype=np.uint32, mode="r").reshape(-1, permutations)
            rows = np.searchsorted(self._candidates, batch.documents)
            similar = choose(
                batch.entry_starts,
                batch.buckets,
                np.asarray(minima),
                rows,
                np.asarray(shingles),
                self._starts[rows],
                self._shingle_counts[batch.documents],
                self._settings.minimum_jaccard,
                self._settings.minimum_containment,
                advance,
            )
            evidence.add(batch.documents, similar)
            self.tallies.update(
                proposed_pairs=similar.proposed, verified_pairs=similar.verified, similar_pairs=len(similar.pairs)
            )
        return evidence
