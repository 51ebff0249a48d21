"""Sentences that are nearly the same as an earlier one, such as notices with another name or date in them.

Baichuan deduplicated documents, paragraphs and sentences by LSH-like features (Yang et al. 2023, arXiv:2309.10305,
section 2.1); what they are is not published. Here a sentence is a set of pairs of neighbouring tokens, in lower case.
As with documents, bands of a MinHash only propose, and the exact Jaccard similarity decides:

1. each sentence is spread by its bands; in a bucket, all are compared with the first one in the corpus;
2. the bundle of the first one sends its pairs of tokens to the bundle of the other one, which computes the similarity;
3. one unit goes through the verified pairs in the order of the corpus: a sentence is cut if it is similar enough to an
   earlier one *that is not cut itself*. Similarity is not transitive, and nothing goes because of a chain.

Sentences of fewer than `LEAST_TOKENS` tokens are not compared. With 8 bands of 3 rows, a pair of the similarity 0.8
shares a bucket with a probability of 99.7 %, one of 0.7 with 96.5 %.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from data_prep.dedup.left import LeftText, left_texts
from data_prep.dedup.records import ASKS, LINES, SENTENCE_EDGES, SENTENCE_PAIRS, SENTENCES
from data_prep.dedup.spans import cut_ranges, write_cuts
from data_prep.dedup.units_of_text import sentences_of, tokens_of
from data_prep.dedup.work import Unit, Work
from data_prep.kernels.kernel import Hashes, Places, kernel, read_only
from data_prep.run.shuffle import Records, grouped, hash_bounds
from data_prep.signals.fingerprints import minhash_functions

NAME = "similar_sentences"
LEAST_TOKENS = 6
BANDS, ROWS = 8, 3
_SEED = 1
_FACTOR = 0x9E3779B97F4A7C15


@kernel
def _band_keys(
    pairs: Hashes, bounds: Places, multipliers: Hashes, offsets: Hashes, rows: int, least: int, keys: Hashes
) -> None:
    """Fill the keys of the bands of each sentence, 0 for those with fewer than `least` pairs."""
    bands = multipliers.shape[0] // rows
    for sentence in range(bounds.shape[0] - 1):
        start, stop = bounds[sentence], bounds[sentence + 1]
        for band in range(bands):
            key = np.uint64(0)
            if stop - start >= least:
                key = np.uint64(0xCBF29CE484222325) ^ np.uint64(band)
                for row in range(rows):
                    k = band * rows + row
                    smallest = np.uint64(0xFFFFFFFF)
                    for i in range(start, stop):
                        value = (multipliers[k] * pairs[i] + offsets[k]) >> np.uint64(32)
                        smallest = min(smallest, value)
                    key = (key ^ smallest) * np.uint64(0x9E3779B97F4A7C15)
                    key ^= key >> np.uint64(29)
                key |= np.uint64(1)
            keys[sentence * bands + band] = key


def pairs_of(text: bytes) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return the hashes of the pairs of tokens of all sentences, and bounds: sentence s has [bounds[s],
    bounds[s + 1])."""
    _, starts, stops = sentences_of(text)
    tokens, token_starts, _ = tokens_of(text, folded=True)
    firsts = np.searchsorted(token_starts, starts)
    sizes = np.maximum(np.searchsorted(token_starts, stops) - firsts - 1, 0)
    bounds = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    places = np.repeat(firsts - bounds[:-1], sizes) + np.arange(bounds[-1])
    with np.errstate(over="ignore"):
        pairs = tokens[places] * np.uint64(_FACTOR) + (tokens[places + 1] if len(places) else tokens[:0])
    return pairs, bounds


def band_keys(text: bytes) -> npt.NDArray[np.uint64]:
    """Return the keys of the bands of each sentence, `uint64[sentences, BANDS]`; 0: too short."""
    pairs, bounds = pairs_of(text)
    keys = np.zeros((len(bounds) - 1) * BANDS, np.uint64)
    multipliers, offsets = minhash_functions(BANDS * ROWS, _SEED)
    _band_keys(read_only(pairs), read_only(bounds), multipliers, offsets, ROWS, LEAST_TOKENS - 1, keys)
    return keys.reshape(-1, BANDS)


def is_used(work: Work) -> bool:
    return work.config.dedup.similar_sentences is not None


def spread_sentences(unit: Unit) -> None:
    """Spread the bands of the sentences of a bundle."""
    with unit.spread("sentence_bands", LINES, hash_bounds(unit.work.plan.line_ranges)) as bands:
        for left in left_texts(unit.work, unit.number):
            keys = band_keys(left.text)
            sentences, _ = np.nonzero(keys)
            bands.add(keys[keys != 0], np.full(len(sentences), left.document), sentences.astype(np.int64))


def propose(unit: Unit) -> None:
    """Ask for the comparison of the sentences of each bucket, of a range of bands, with the first one of it."""
    work = unit.work
    blocks = work.collect([("sentence_bands", work.plan.bundle_count)], LINES, work.plan.line_ranges, unit.number)
    head = np.zeros(1, LINES.dtype)
    with unit.spread_by_bundle("sentence_asks", ASKS) as asks:
        for block in grouped(blocks, ("key",), work.most_in_group(LINES)):
            firsts = block.records[block.starts[:-1]]
            if block.continues:
                firsts[0] = head[0]
            head = firsts[-1:].copy()
            first = np.repeat(firsts, block.sizes)
            others = block.records
            is_other = (first["document"] != others["document"]) | (first["line"] != others["line"])
            columns = (first["document"], first["line"], others["document"], others["line"])
            asks.add(*(column[is_other] for column in columns))


def send_pairs(unit: Unit) -> None:
    """Send the pairs of tokens of the first sentences of a bundle to the bundles of the others."""
    work, bundle = unit.work, unit.number
    asked = _by_document(
        _unique(work.by_bundle([("sentence_asks", work.plan.line_ranges)], ASKS, bundle), ASKS.key_names)
    )
    with unit.spread_by_bundle("sentence_pairs", SENTENCE_PAIRS) as spread:
        for left, asks in _matched(left_texts(work, bundle), asked):
            pairs, bounds = pairs_of(left.text)
            for ask in asks:
                own = np.unique(pairs[bounds[ask["sentence"]] : bounds[ask["sentence"] + 1]])
                same = (np.full(len(own), ask[name]) for name in ("other", "other_sentence", "document", "sentence"))
                spread.add(*same, own)


def compare(unit: Unit) -> None:
    """Compare sentences of a bundle with the earlier ones whose pairs of tokens it has been sent."""
    work, bundle = unit.work, unit.number
    least = work.config.dedup.similar_sentences
    assert least is not None
    sent = _by_document(work.by_bundle([("sentence_pairs", work.plan.bundle_count)], SENTENCE_PAIRS, bundle))
    count = verified = 0
    with unit.spread("sentence_edges", SENTENCE_EDGES, np.empty(0, np.int64)) as edges:
        for left, records in _matched(left_texts(work, bundle), sent):
            pairs, bounds = pairs_of(left.text)
            cuts = np.flatnonzero(np.any([records[n][1:] != records[n][:-1] for n in SENTENCE_EDGES.key_names], axis=0))
            for theirs in np.split(records, cuts + 1):
                sentence = int(theirs["sentence"][0])
                own = np.unique(pairs[bounds[sentence] : bounds[sentence + 1]])
                shared = len(np.intersect1d(own, theirs["pair"], assume_unique=True))
                count += 1
                if shared >= least * (len(own) + len(theirs) - shared):
                    verified += 1
                    edges.add(*(theirs[name][:1] for name in SENTENCE_EDGES.key_names))
    unit.counts["sentences_compared"], unit.counts["sentences_similar"] = count, verified


def decide_sentences(unit: Unit) -> None:
    """Spread the sentences to be cut; one unit goes through all verified pairs in the order of the corpus."""
    work = unit.work
    gone: set[tuple[int, int]] = set()
    with unit.spread_by_bundle("similar_gone", SENTENCES) as spread:
        for block in work.collect([("sentence_edges", work.plan.bundle_count)], SENTENCE_EDGES, 1, 0):
            added = []
            for document, sentence, first, first_sentence in block.tolist():
                if (first, first_sentence) not in gone and (document, sentence) not in gone:
                    gone.add((document, sentence))
                    added.append((document, sentence))
            if added:
                spread.add(*np.array(added, np.int64).T)


def _unique(blocks: Iterator[Records], names: tuple[str, ...]) -> Iterator[Records]:
    """Yield sorted records without those that are equal to the one before: several bands ask for the same pair."""
    last: np.void | None = None
    for block in blocks:
        is_new = np.ones(len(block), bool)
        is_new[1:] = np.any([block[name][1:] != block[name][:-1] for name in names], axis=0)
        if last is not None and len(block):
            is_new[0] = any(block[name][0] != last[name] for name in names)
        if len(block):
            last = block[-1].copy()
        yield block[is_new]


def _by_document(blocks: Iterator[Records]) -> Iterator[tuple[int, Records]]:
    """Yield the records of each document, which are in the order of documents."""
    held: list[Records] = []
    for block in blocks:
        for some in np.split(block, np.flatnonzero(np.diff(block["document"])) + 1) if len(block) else ():
            if held and held[0]["document"][0] != some["document"][0]:
                yield int(held[0]["document"][0]), np.concatenate(held)
                held = []
            held.append(some)
    if held:
        yield int(held[0]["document"][0]), np.concatenate(held)


def _matched(texts: Iterator[LeftText], records: Iterator[tuple[int, Records]]) -> Iterator[tuple[LeftText, Records]]:
    """Yield the documents that have records, with them."""
    ahead = next(records, None)
    for left in texts:
        if ahead is not None and left.document == ahead[0]:
            yield left, ahead[1]
            ahead = next(records, None)


def cut_sentences(unit: Unit) -> None:
    """Write the ranges that are cut of the documents of a bundle."""
    work, bundle = unit.work, unit.number
    gone = _by_document(work.by_bundle([("similar_gone", 1)], SENTENCES, bundle))

    def cut(left: LeftText, sentences: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
        _, starts, stops = sentences_of(left.text)
        return cut_ranges(left.text, starts[sentences], stops[sentences])

    matched = _matched(left_texts(work, bundle), gone)
    write_cuts(unit, NAME, ((left, cut(left, records["sentence"])) for left, records in matched))
