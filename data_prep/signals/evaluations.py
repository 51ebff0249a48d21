"""Items of evaluation sets inside documents: which, where, and how much of each.

**Word.** Letters, numbers and marks between white space, in lower case, without everything else: "Don't!" is `dont`. A
letter of a script without spaces is a word by itself. **n-gram.** Eight words in a row, of an item most of whose words
are such letters sixteen: a word of Chinese has 1.7 letters on average. **Run.** Words that follow each other in an item
and in a document, n-gram or longer, in both directions as far as they agree. A hash proposes it and every word
confirms it.

An n-gram of more than ten items is a phrase of the sets rather than a sign of any of them: it proposes nothing and does
not count, as the 13-grams that GPT-3's authors found more than ten times (Brown et al. 2020, arXiv:2005.14165, appendix
C). Items of fewer words than an n-gram cannot be found. Where an item repeats an n-gram, runs are of its first place.

Three published measures are taken of the runs in a document:

- **Collisions** (Brown et al. 2020, appendix C): items with a run of N words, where N is the fifth percentile of the
  lengths of the set's items, at least 8 and at most 13.
- **Share of n-grams** (Chowdhery et al. 2022, PaLM, arXiv:2204.02311, section 8): of an item's 8-grams.
- **Share of tokens** (Touvron et al. 2023, Llama 2, arXiv:2307.09288, appendix A.6): of an item's words in runs of more
  than 10, which may go on over up to four others. The paper counts tokens of its tokenizer.

For items in scripts without spaces all of these numbers of words are doubled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.kernels.characters import SPACE, UNSPACED, WORD, character_flags, decode, lower_case
from data_prep.kernels.kernel import Bytes, Hashes, Places, Points, kernel, longest_text, part, read_only, scratch_size
from data_prep.kernels.searching import place_of
from data_prep.sources.jsonl import reader_with
from data_prep.sources.reading import Fault
from foundation.atomic_files import sha256_file

if TYPE_CHECKING:
    from data_prep.config import EvaluationSetConfig

NGRAM = 8
LEAST_COLLISION, MOST_COLLISION, COLLISION_PERCENTILE = 8, 13, 5
TOKEN_RUN = 11
OTHER_WORDS = 4
MOST_ITEMS = 10
UNSPACED_FACTOR = 2
"""Letters of a script without spaces that count as one word elsewhere, rounded up."""
_LARGEST_ITEM = 1 << 24
_BITS_OF_AN_NGRAM = 16
"""Bits of the filter for each n-gram: 6 % of the others pass."""
_FIRST_ROWS = 1024
_BASE = np.uint64(0x9E3779B97F4A7C15)


class ItemRun(NamedTuple):
    """Words of an item that a document has in the same order; a row of the kernel's result."""

    document: int
    item: int
    at: int
    """Number of the first of them in the item."""
    words: int
    span: int
    """Words of the item up to the last that agrees, at most four of which differ."""
    start: int
    end: int
    """They are bytes [start, end) of the document's text."""


class ItemMeasures(NamedTuple):
    """How much of an item was found."""

    collides: bool
    ngram_share: float
    token_share: float


class Run(NamedTuple):
    """Words of an item that a document has in the same order."""

    set: str
    item: str
    at: int
    """Number of the first of them in the item."""
    words: int
    start: int
    end: int
    """They are bytes [start, end) of the document's text."""


class Contamination(NamedTuple):
    """What a document has of the evaluation sets."""

    collisions: int
    ngram_share: float
    token_share: float
    runs: tuple[Run, ...]


_CLEAN = Contamination(0, 0.0, 0.0, ())


@part
def _mixed(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    value = (value ^ (value >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return value ^ (value >> np.uint64(32))


@part
def _words(
    data: Bytes, begin: int, end: int, flags: Bytes, lower: Points, words: Hashes, starts: Places, stops: Places
) -> int:
    """Fill hash, first byte and byte after the last of each word of a text; return their number.

    Each word has a byte of its own, so that `scratch_size` holds.
    """
    count = 0
    is_open = False
    value = np.uint64(0)
    i = begin
    while i < end:
        point, size = decode(data, i, end)
        kind = flags[point] if point < flags.shape[0] else 0
        if kind & WORD:
            letter = np.uint64(lower[point]) if point < lower.shape[0] else np.uint64(point)
            if is_open and kind & UNSPACED:
                words[count] = _mixed(value)
                count += 1
                is_open = False
            if not is_open:
                starts[count] = i
                value = np.uint64(0xCBF29CE484222325)
                is_open = True
            value = (value ^ letter) * np.uint64(0x00000100000001B3)
            stops[count] = i + size
        if is_open and kind & (UNSPACED | SPACE):
            words[count] = _mixed(value)
            count += 1
            is_open = False
        i += size
    if is_open:
        words[count] = _mixed(value)
        count += 1
    return count


@part
def _sum(words: Hashes, first: int, size: int) -> np.uint64:
    """Return the polynomial of some words in `_BASE`, modulo 2^64; the next one follows from it by one step."""
    value = np.uint64(0)
    for k in range(first, first + size):
        value = value * _BASE + words[k]
    return value


@part
def _power(size: int) -> np.uint64:
    """Return the factor of the word before the last `size` ones."""
    value = np.uint64(1)
    for _ in range(size):
        value *= _BASE
    return value


@part
def _place_of(value: np.uint64, keys: Hashes, bits: Bytes, shift: np.uint64) -> int:
    """Return the index of a hash among the sorted keys, or -1; the filter has the answer for most others."""
    bit = np.int64(value >> shift)
    if bits[bit >> 3] >> (bit & 7) & 1 == 0:
        return -1
    return place_of(value, keys)


@kernel
def _divide(
    data: Bytes,
    offsets: Places,
    flags: Bytes,
    lower: Points,
    room: int,
    words: Hashes,
    are_letters: Bytes,
    bounds: Places,
) -> None:
    """Fill the words of all texts, one text after the other; whether each is a letter of a script without spaces; and
    the bounds of each text's words."""
    own, starts, stops = np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.int64)
    total = 0
    for d in range(bounds.shape[0] - 1):
        count = _words(data, offsets[d], offsets[d + 1], flags, lower, own, starts, stops)
        for k in range(count):
            words[total + k] = own[k]
            point, _ = decode(data, starts[k], stops[k])
            are_letters[total + k] = point < flags.shape[0] and flags[point] & UNSPACED != 0
        total += count
        bounds[d + 1] = total


@kernel
def _hash_ngrams(words: Hashes, firsts: Places, sizes: Places, hashes: Hashes) -> None:
    for k in range(firsts.shape[0]):
        hashes[k] = _mixed(_sum(words, firsts[k], sizes[k]) ^ np.uint64(sizes[k]))


@kernel
def _find_runs(
    data: Bytes,
    offsets: Places,
    flags: Bytes,
    lower: Points,
    items: tuple[Hashes, Places, Places],
    ngrams: tuple[Hashes, Places, Places, Bytes, np.uint64],
    sizes: Places,
    room: int,
    rows: Places,
) -> int:
    """Fill the runs of all documents; return their number, which may be more than there is room for.

    Args:
        items: words of all items, the bounds of each, and the item of each word.
        ngrams: their hashes, sorted; the bounds of the places of each; the places, as numbers of words; the filter.
        sizes: words of an n-gram, each that occurs.
    """
    item_words, item_bounds, item_of = items
    keys, bounds, places, bits, shift = ngrams
    words, starts, stops = np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.int64)
    covered = np.zeros(item_bounds.shape[0], np.int64)  # by item: end of its last run, counted over all documents
    before = 0
    found = 0
    for d in range(offsets.shape[0] - 1):
        count = _words(data, offsets[d], offsets[d + 1], flags, lower, words, starts, stops)
        for s in range(sizes.shape[0]):
            size = sizes[s]
            power = _power(size)
            value = _sum(words, 0, min(size, count))
            for p in range(count - size + 1):
                if p:
                    value = value * _BASE + words[p + size - 1] - power * words[p - 1]
                key = _place_of(_mixed(value ^ np.uint64(size)), keys, bits, shift)
                if key < 0:
                    continue
                for place in range(bounds[key], bounds[key + 1]):
                    q = places[place]
                    item = item_of[q]
                    if before + p + size <= covered[item]:
                        continue  # inside the run before
                    first, last = item_bounds[item], item_bounds[item + 1]
                    left = 0
                    while left < p and q - left > first and words[p - left - 1] == item_words[q - left - 1]:
                        left += 1
                    right = 0
                    while p + right < count and q + right < last and words[p + right] == item_words[q + right]:
                        right += 1
                    if right < size:
                        continue  # another n-gram with this hash
                    span, k, others = right, right, 0
                    while p + k < count and q + k < last and others <= 4:
                        if words[p + k] == item_words[q + k]:
                            span = k + 1
                        else:
                            others += 1
                        k += 1
                    covered[item] = before + p + right
                    if found < rows.shape[0]:
                        rows[found, 0] = d
                        rows[found, 1] = item
                        rows[found, 2] = q - left - first
                        rows[found, 3] = left + right
                        rows[found, 4] = left + span
                        rows[found, 5] = starts[p - left] - offsets[d]
                        rows[found, 6] = stops[p + right - 1] - offsets[d]
                    found += 1
        before += count
    return found


@dataclass(frozen=True)
class ItemSet:
    """Items of an evaluation set.

    Attributes:
        names: of each item: its line, or what `id_field` names.
        lengths: words of each.
        collision: words of a run that count as a collision.
    """

    name: str
    names: tuple[str, ...]
    lengths: npt.NDArray[np.int64]
    collision: int

    @property
    def too_short(self) -> int:
        """Number of items that cannot be found because they are shorter than an n-gram."""
        return int(np.sum(self.lengths < NGRAM))


class EvaluationItems:
    """Finds items of evaluation sets in documents.

    Takes about 20 bytes of memory for each word of the sets.

    Args:
        sets: name and text of each item, by set.
    """

    @classmethod
    def of(cls, sets: Mapping[str, EvaluationSetConfig]) -> EvaluationItems:
        """Read the sets that the configuration names.

        Raises:
            ValueError: see `read_items`.
        """
        return cls({name: list(read_items(name, settings)) for name, settings in sets.items()})

    def __init__(self, sets: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        texts = [text for items in sets.values() for _, text in items]
        names = [tuple(name for name, _ in items) for items in sets.values()]
        self._words, self._bounds, self._are_letters = _words_of(texts)
        lengths = np.diff(self._bounds)
        self.factors = self._factors()
        """Words that count as one, of each item: 2 in scripts without spaces."""
        counts = [len(items) for items in names]
        self._set_of = np.repeat(np.arange(len(names)), counts)
        self._first_of_set = np.searchsorted(self._set_of, np.arange(len(names)))
        by_set = np.split(lengths // self.factors, self._first_of_set[1:])
        self.sets = tuple(
            ItemSet(name, items, words, _collision(words))
            for name, items, words in zip(sets, names, by_set, strict=True)
        )
        self._item_of = read_only(np.repeat(np.arange(len(texts)), lengths))
        self._index()

    def find(self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> list[Contamination]:
        """Find items in documents, concatenated as in an Arrow string column.

        Args:
            data: UTF-8 bytes of all documents.
            offsets: document d is bytes [offsets[d], offsets[d + 1]).
        """
        found: list[Contamination] = [_CLEAN] * (len(offsets) - 1)
        for document, own in groupby(self._rows(data, offsets), key=lambda run: run.document):
            found[document] = self._contamination(list(own))
        return found

    def find_in(self, text: bytes) -> list[ItemRun]:
        """Find items in one text."""
        return self._rows(np.frombuffer(text, np.uint8), np.array([0, len(text)], np.int64))

    def named(self, item: int) -> tuple[str, str]:
        """Return set and name of an item."""
        place = self._set_of[item]
        return self.sets[place].name, self.sets[place].names[item - int(self._first_of_set[place])]

    def measure(self, item: int, runs: Sequence[ItemRun]) -> ItemMeasures:
        """Take the published measures of an item by its runs in one or several documents."""
        factor = int(self.factors[item])
        first, last = self._bounds[item : item + 2].tolist()
        own = sorted(runs, key=attrgetter("at"))
        collides = any(run.words >= self.sets[self._set_of[item]].collision * factor for run in own)
        ngrams = len(self._ngrams_in(first, own, NGRAM * factor)) / self._ngram_counts[item]
        tokens = _union((run.at, run.at + run.span) for run in own if run.words >= TOKEN_RUN * factor)
        return ItemMeasures(collides, float(ngrams), tokens / (last - first))

    def _factors(self) -> npt.NDArray[np.int64]:
        letters = np.concatenate(([0], np.cumsum(self._are_letters, dtype=np.int64)))[self._bounds]
        return np.where(2 * np.diff(letters) > np.diff(self._bounds), UNSPACED_FACTOR, 1)

    def _index(self) -> None:
        """Sort the n-grams of all items by their hash."""
        ranges = zip(self._bounds.tolist(), self._bounds[1:].tolist(), (NGRAM * self.factors).tolist(), strict=False)
        firsts = np.fromiter(
            chain.from_iterable(range(start, stop - size + 1) for start, stop, size in ranges), dtype=np.int64
        )
        sizes = NGRAM * self.factors[self._item_of[firsts]]
        hashes = np.empty(len(firsts), np.uint64)
        _hash_ngrams(read_only(self._words), read_only(firsts), read_only(sizes), hashes)
        order = np.argsort(hashes, kind="stable")  # places of a hash stay in order: first of each item first
        hashes, places = hashes[order], firsts[order]
        items = self._item_of[places]
        is_first = np.ones(len(hashes), bool)
        is_first[1:] = (hashes[1:] != hashes[:-1]) | (items[1:] != items[:-1])
        keys, counts = np.unique(hashes[is_first], return_counts=True)
        is_phrase = np.repeat(counts > MOST_ITEMS, counts)
        firsts = places[is_first]
        self._first_place = np.full(len(self._words), -1)
        self._first_place[places] = np.where(is_phrase, -1, firsts)[np.cumsum(is_first) - 1]
        keys, counts, firsts = keys[counts <= MOST_ITEMS], counts[counts <= MOST_ITEMS], firsts[~is_phrase]
        self._ngram_counts = np.bincount(self._item_of[firsts], minlength=len(self._bounds) - 1)
        log = max(int(len(keys) * _BITS_OF_AN_NGRAM).bit_length(), 3)
        bits = np.zeros(1 << (log - 3), np.uint8)
        bit = (keys >> np.uint64(64 - log)).astype(np.int64)
        np.bitwise_or.at(bits, bit >> 3, (1 << (bit & 7)).astype(np.uint8))
        bounds = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        self._ngrams = (
            read_only(keys),
            read_only(bounds),
            read_only(firsts),
            read_only(bits),
            np.uint64(64 - log),
        )
        self._sizes = read_only(np.unique(sizes))

    def _rows(self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> list[ItemRun]:
        """Return the runs in documents, by document."""
        room = _FIRST_ROWS
        while True:
            rows = np.empty((room, len(ItemRun._fields)), np.int64)
            found = _find_runs(
                read_only(data),
                read_only(offsets),
                character_flags(),
                lower_case(),
                (read_only(self._words), read_only(self._bounds), self._item_of),
                self._ngrams,
                self._sizes,
                scratch_size(longest_text(offsets)),
                rows,
            )
            if found <= room:
                return [ItemRun(*row) for row in rows[:found].tolist()]
            room = found

    def _contamination(self, runs: Sequence[ItemRun]) -> Contamination:
        """Take the measures of one document's runs."""
        by_item = [(item, list(own)) for item, own in groupby(sorted(runs, key=attrgetter("item")), attrgetter("item"))]
        measures = [self.measure(item, own) for item, own in by_item]
        named = [
            Run(*self.named(run.item), run.at, run.words, run.start, run.end)
            for run in sorted(runs, key=attrgetter("start", "item"))
        ]
        return Contamination(
            sum(found.collides for found in measures),
            max(found.ngram_share for found in measures),
            max(found.token_share for found in measures),
            tuple(named),
        )

    def _ngrams_in(self, first: int, runs: Sequence[ItemRun], size: int) -> set[int]:
        """Return the first places of the n-grams in an item's runs."""
        places = [self._first_place[first + run.at : first + run.at + run.words - size + 1] for run in runs]
        return set(np.concatenate(places).tolist()) - {-1}


def _collision(words: npt.NDArray[np.int64]) -> int:
    """Return the words of a run that count as a collision, for the lengths of a set's items."""
    return int(np.clip(np.percentile(words, COLLISION_PERCENTILE), LEAST_COLLISION, MOST_COLLISION))


def _union(ranges: Any) -> int:
    """Return how many integers are in any of some half-open ranges, which are sorted by their beginning."""
    covered, end = 0, 0
    for start, stop in ranges:
        covered += max(stop - max(start, end), 0)
        end = max(end, stop)
    return covered


def _words_of(
    texts: Sequence[str],
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Return the words of all texts, the bounds of each text's, and which are letters of scripts without spaces."""
    encoded = [text.encode() for text in texts]
    offsets = np.concatenate(([0], np.cumsum([len(text) for text in encoded], dtype=np.int64)))
    words = np.empty(int(offsets[-1]), np.uint64)
    are_letters = np.empty(int(offsets[-1]), np.uint8)
    bounds = np.zeros(len(offsets), np.int64)
    _divide(
        read_only(np.frombuffer(b"".join(encoded), np.uint8)),
        read_only(offsets),
        character_flags(),
        lower_case(),
        scratch_size(longest_text(offsets)),
        words,
        are_letters,
        bounds,
    )
    total = int(bounds[-1])
    return words[:total].copy(), bounds, are_letters[:total].copy()


def read_items(name: str, settings: EvaluationSetConfig) -> Iterator[tuple[str, str]]:
    """Yield name and text of each item of a set.

    Raises:
        ValueError: the file is missing or a line has no item, or there are none.
    """
    path = settings.path.expanduser()
    where = f"decontamination.{name}: {path}"
    if not path.is_file():
        raise ValueError(f"{where}: no such file")
    reader = reader_with(settings.model_dump())
    if not reader.accepts(str(path)):
        raise ValueError(f"{where}: must be JSON Lines: .jsonl, .ndjson or .json, also with .gz or .zst")
    count = 0
    for piece in reader.divide(str(path), path.stat().st_size, max(path.stat().st_size, 1)):
        for entry in reader.read(piece, _LARGEST_ITEM):
            if isinstance(entry, Fault):
                raise ValueError(f"{where}:{entry.line}: {entry.reason}: {entry.detail}")
            count += 1
            yield (entry.url if settings.id_field else str(count)), entry.text
    if not count:
        raise ValueError(f"{where}: has no items")


def set_digests(sets: Mapping[str, EvaluationSetConfig]) -> dict[str, dict[str, Any]]:
    """Return what the signals depend on: contents of the files, and the fields."""
    found = {}
    for name, settings in sets.items():
        path = settings.path.expanduser()
        if not path.is_file():
            raise ValueError(f"decontamination.{name}: {path}: no such file")
        found[name] = {**settings.model_dump(mode="json", exclude={"path"}), "file": sha256_file(path)}
    return found
