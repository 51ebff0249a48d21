"""Our rules beside datatrove's, rule by rule and document by document, with the reasons for the differences.

Each rule of datatrove's C4, Gopher and FineWeb filters runs alone, with the others switched off, on the English
documents of the corpus and is compared with our rule of the same threshold. Then both run again with the known
differences removed:

- Words are ours, not spaCy's tokens, some of which are punctuation marks. For stop words they are lower-cased, because
  the paper's eight also occur at the beginning of a sentence; for the share of alphabetic words, punctuation between
  words counts too, as it does in ours.
- There is no white space at the ends of lines or of the text: datatrove compares raw lines, so that ". " does not end a
  sentence and a final line feed starts another line.
- n-grams follow the paper: one that occurs once is not a repetition, and characters of repeated n-grams are counted
  once, blanks included.

Remaining differences are listed with the beginning of the text.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from foundation.progress import Progress
from tools.bench.data import CORPUS, CORPUS_HELP, concatenated, load, no_corpus, our_columns
from tools.bench.page import show

LANGUAGE = "en"
_FILTERS = "datatrove.pipeline.filters"
_SHOWN = 60


@dataclass(frozen=True)
class Pair:
    """One rule of datatrove and our rules that test the same property."""

    filter: str
    settings: dict[str, Any]
    ours: tuple[str, ...]
    name: str
    words: str = "words"
    """Form of our words that it is given: `words`, `lower` or `runs`."""


_QUALITY = (
    "min_doc_words",
    "max_doc_words",
    "min_avg_word_length",
    "max_avg_word_length",
    "max_symbol_word_ratio",
    "max_bullet_lines_ratio",
    "max_ellipsis_lines_ratio",
    "max_non_alpha_words_ratio",
    "min_stop_words",
)


def _gopher_quality(name: str, *ours: str, words: str = "words") -> Pair:
    off = {other: None for other in _QUALITY if other != name}
    return Pair("GopherQualityFilter", off, tuple(f"gopher.{rule}" for rule in ours), name, words)


def _gopher_repetition(name: str, ours: str, grams: tuple[tuple[int, float], ...] | None = None) -> Pair:
    off: dict[str, Any] = dict.fromkeys(("dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac"))
    off |= {"top_n_grams": (), "dup_n_grams": ()}
    del off[name]
    if grams is not None:
        off[name] = grams
    return Pair("GopherRepetitionFilter", off, (f"gopher.{ours}",), name)


def _fineweb(name: str, ours: str) -> Pair:
    off = {"line_punct_thr": -1.0, "short_line_thr": 2.0, "char_duplicates_ratio": 2.0, "new_line_ratio": 1e9}
    del off[name]
    return Pair("FineWebQualityFilter", off, (f"fineweb.{ours}",), name)


PAIRS = (
    # thresholds of the released dataset, as in our c4_dataset; datatrove's defaults are the paper's
    Pair(
        "C4QualityFilter",
        {"min_num_sentences": 3, "min_words_per_line": 5},
        ("c4_dataset.curly_brackets", "c4_dataset.lorem_ipsum", "c4_dataset.sentences"),
        "3 sentences, 5 words",
    ),
    _gopher_quality("min_doc_words", "minimum_words"),
    _gopher_quality("max_doc_words", "maximum_words"),
    _gopher_quality("min_avg_word_length", "mean_word_length"),
    _gopher_quality("max_avg_word_length", "maximum_mean_word_length"),
    _gopher_quality("max_symbol_word_ratio", "hash_symbols", "ellipses"),
    _gopher_quality("max_bullet_lines_ratio", "bullet_lines"),
    _gopher_quality("max_ellipsis_lines_ratio", "ellipsis_lines"),
    _gopher_quality("max_non_alpha_words_ratio", "alphabetic_words", words="runs"),
    _gopher_quality("min_stop_words", "stop_words", words="lower"),
    _gopher_repetition("dup_line_frac", "duplicate_lines"),
    _gopher_repetition("dup_para_frac", "duplicate_paragraphs"),
    _gopher_repetition("dup_line_char_frac", "duplicate_line_characters"),
    _gopher_repetition("dup_para_char_frac", "duplicate_paragraph_characters"),
    *(_gopher_repetition("top_n_grams", f"top_{n}_gram", ((n, most),)) for n, most in ((2, 0.2), (3, 0.18), (4, 0.16))),
    *(_gopher_repetition("dup_n_grams", f"duplicate_{n}_gram", ((n, (20 - n) / 100),)) for n in range(5, 11)),
    _fineweb("line_punct_thr", "terminal_lines"),
    _fineweb("short_line_thr", "short_lines"),
    _fineweb("char_duplicates_ratio", "duplicate_line_characters"),
    _fineweb("new_line_ratio", "line_feeds"),
)


class Word(str):
    """A word with its position in the text."""

    start: int
    stop: int


def our_words(text: str, kind: str = "words") -> list[Word]:
    """Words as our statistics count them, without surrounding punctuation; `runs` keeps punctuation, even alone."""
    from data_prep.signals.segmentation import divide

    words, at = [], 0
    for piece in divide(text):
        for run in re.finditer(r"\S+", piece):
            held = [k for k, character in enumerate(run[0]) if unicodedata.category(character)[0] in "LNM"]
            if held or kind == "runs":
                first, last = (0, len(run[0])) if kind == "runs" else (held[0], held[-1] + 1)
                word = Word(run[0][first:last].lower() if kind == "lower" else run[0][first:last])
                word.start, word.stop = at + run.start() + first, at + run.start() + last
                words.append(word)
        at += len(piece)
    return words


def _covered(grams: Iterable[Sequence[Word]]) -> int:
    """Characters covered by n-grams given in text order, each counted once, including what separates the words."""
    total, done = 0, 0
    for gram in grams:
        total += gram[-1].stop - max(gram[0].start, done)
        done = gram[-1].stop
    return total


def _top_characters(grams: Sequence[Sequence[Word]]) -> int:
    """Characters covered by the most frequent n-gram (the first to reach its count); 0 if none is repeated."""
    counts: Counter[Sequence[Word]] = Counter()
    best: Sequence[Word] = ()
    for gram in grams:
        counts[gram] += 1
        if counts[gram] > max(counts[best], 1):
            best = gram
    return _covered(gram for gram in grams if gram == best)


def _repeated_characters(words: Sequence[Word], n: int) -> int:
    """Characters covered by n-grams that have occurred before."""
    seen: set[Sequence[Word]] = set()
    grams = [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]
    return _covered([gram for gram in grams if gram in seen or seen.add(gram)])  # type: ignore[func-returns-value]


@contextmanager
def _patched(split: Callable[[str], list[Any]], is_reconciled: bool) -> Iterator[None]:
    """Run datatrove's filters with another word splitter, and with n-grams as in the paper."""
    repetition = importlib.import_module(f"{_FILTERS}.gopher_repetition_filter")
    others = (importlib.import_module(f"{_FILTERS}.{name}_quality_filter") for name in ("gopher", "fineweb"))
    with ExitStack() as patches:
        for module in (repetition, *others):
            patches.enter_context(patch.object(module, "split_into_words", lambda text, language=None: split(text)))
        if is_reconciled:
            for name, function in (
                ("get_n_grams", lambda words, n: [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]),
                ("find_top_duplicate", _top_characters),
                ("find_all_duplicate", _repeated_characters),
            ):
                patches.enter_context(patch.object(repetition, name, function))
        yield


def _theirs(pair: Pair, texts: Sequence[str]) -> list[bool]:
    """Whether datatrove drops each text by this rule alone."""
    from datatrove.data import Document

    asked = getattr(importlib.import_module(_FILTERS), pair.filter)(**pair.settings)
    drops = []
    for k, text in enumerate(texts):
        try:
            drops.append(asked.filter(Document(text=text, id=str(k))) is not True)
        except ZeroDivisionError:  # datatrove finds no word in the text: it has no verdict and drops nothing
            drops.append(False)
    return drops


def _ours(texts: Sequence[str]) -> Callable[[Pair], list[bool]]:
    from data_prep.rules import PUBLISHED_RULE_SETS

    columns = our_columns(*concatenated([(text, LANGUAGE) for text in texts]), False, [LANGUAGE] * len(texts))
    rules = {rule.name: rule for rule_set in PUBLISHED_RULE_SETS.values() for rule in rule_set}
    return lambda pair: [
        any(row) for row in zip(*(rules[name].fails(columns).tolist() for name in pair.ours), strict=True)
    ]


Drops = tuple[list[bool], list[bool]]
"""Whether ours and theirs drop each text."""


def as_they_are(texts: Sequence[str], pairs: Sequence[Pair] = PAIRS) -> Iterator[Drops]:
    """Apply every pair of rules to every text, taken as English; no text may be empty or blank."""
    from datatrove.utils.text import split_into_words

    ours, split = _ours(texts), lru_cache(maxsize=None)(split_into_words)
    for pair in pairs:
        with _patched(split, is_reconciled=False):
            theirs = _theirs(pair, texts)
        yield ours(pair), theirs


def reconciled(texts: Sequence[str], pairs: Sequence[Pair] = PAIRS) -> Iterator[Drops]:
    """Apply every pair of rules with the known differences removed."""
    trimmed = ["\n".join(line.strip() for line in text.split("\n")).strip() for text in texts]
    ours, split = _ours(trimmed), lru_cache(maxsize=None)(our_words)
    for pair in pairs:
        with _patched(partial(split, kind=pair.words), is_reconciled=True):
            theirs = _theirs(pair, trimmed)
        yield ours(pair), theirs


def differing(drops: Drops) -> tuple[list[int], list[int]]:
    """Indices of texts that only ours drops, and of those that only theirs drops."""
    pairs = list(enumerate(zip(*drops, strict=True)))
    return [k for k, (a, b) in pairs if a and not b], [k for k, (a, b) in pairs if b and not a]


def main(arguments: list[str]) -> int:
    """Print the table of all rules and the documents that still differ."""
    parser = argparse.ArgumentParser(prog="altiplano bench verdicts", description=__doc__)
    parser.add_argument("--corpus", type=Path, default=CORPUS, help=CORPUS_HELP)
    parser.add_argument(
        "--megabytes", type=float, default=50, help="megabytes of the corpus to use, sampled at equal steps"
    )
    parser.add_argument("--shown", type=int, default=3, help="differing documents to show per rule and side")
    given = parser.parse_args(arguments)
    if fault := no_corpus(given.corpus):
        print(fault, file=sys.stderr)
        return 2
    texts = [text for text, language in load(given.corpus, given.megabytes) if language == LANGUAGE and text.strip()]
    remain, rows = [], []
    with Progress("bench verdicts", len(PAIRS), "rules") as progress:
        for pair, drops, left in zip(PAIRS, as_they_are(texts), reconciled(texts), strict=True):
            ours, theirs = differing(drops)
            left_ours, left_theirs = differing(left)
            both = sum(map(all, zip(*drops, strict=True)))
            rows.append((", ".join(pair.ours), both, *map(len, (ours, theirs, left_ours, left_theirs))))
            for side, documents in (("ours", left_ours), ("theirs", left_theirs)):
                remain += [(pair, side, texts[k]) for k in documents[: given.shown]]
            progress.advance()
    columns = ("rule of ours", "both drop", "only ours", "only theirs", "left: ours", "left: theirs")
    show(f"{len(texts):,} English documents; left is what the known differences do not explain", rows, columns)
    for pair, side, text in remain:
        beginning = re.sub(r"\s+", " ", text)[:_SHOWN]
        print(f"{', '.join(pair.ours)}, only {side}: {len(text):,} characters, {beginning!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
