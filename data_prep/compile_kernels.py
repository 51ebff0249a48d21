"""Compilation of a stage's kernels before its workers start, in two processes: numba compiles in one thread at a time.

`python -m data_prep.compile_kernels GROUP …` is the second process; both write to numba's cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.config import FingerprintConfig
from data_prep.dedup import choose, contained, groups, lines, near, similar_sentences, units_of_text
from data_prep.kernels.characters import character_flags, lower_case
from data_prep.kernels.kernel import read_only
from data_prep.kernels.quick_compilation import quick_compilation
from data_prep.signals import bad_words, evaluations, fingerprints, segmentation, text_statistics, web_statistics
from data_prep.signals.fasttext import kernel as fasttext_kernel
from data_prep.signals.language import LanguageIdentifier
from data_prep.signals.pii import candidates as pii_candidates
from data_prep.signals.roots import statistics as roots_statistics
from data_prep.tokenizer.encoding import byte_pairs, pieces, token_bytes
from foundation.progress import Progress

_DATA = read_only(np.frombuffer(b"a b.\n", np.uint8))
_OFFSETS = read_only(np.array([0, len(_DATA)], np.int64))
_BEGINS = read_only(np.zeros(len(_DATA), np.bool_))


class _Group(NamedTuple):
    """Group of kernels that are compiled together."""

    stage: str
    """Stage that calls the kernels."""
    entry: Any
    """The kernel that takes longest to compile; the group counts as compiled if it is cached."""
    seconds: float
    """Approximate time on one core of 2026, of a group of `SHARING` after those before it; used only to divide the
    groups among processes."""
    compile: Callable[[], object]


def _encode() -> None:
    """Encode a text with a vocabulary of bytes and one merge, and compare it with its tokens."""
    table, numbers = byte_pairs.pair_table(np.array([[97, 98]], np.int64))
    vocabulary = byte_pairs.Vocabulary(
        np.zeros(0x1100, np.int32),
        np.full(256, -1, np.int32),
        np.arange(256, dtype=np.int32),
        table,
        numbers,
        np.array([256], np.uint32),
    )
    data, ends = pieces.divided_documents(_DATA, _OFFSETS, b"")
    starts = pieces.mark_by_pattern(data, len(data) - pieces.PADDING, *pieces.excluded_tables(frozenset(". \n")))
    memory = byte_pairs.Memory(np.zeros((64, 8), np.uint64), np.zeros((64, 8), np.uint64))
    tokens, sizes = np.empty(len(data) + len(ends), np.uint32), np.empty(len(ends), np.int64)
    byte_pairs.encode_documents(data, ends, starts, 0, vocabulary, memory, tokens, sizes)
    no_bytes, differing = np.frombuffer(b"", np.uint8), np.empty(len(ends), np.bool_)
    flat, places = np.frombuffer(bytes(64), np.uint8), np.ones(257, np.uint64)
    token_bytes._compare(tokens, sizes, _DATA, _OFFSETS, no_bytes, places, flat, differing)


def _cut() -> None:
    """Divide a text into pieces in every way."""
    data, _ = pieces.divided_documents(_DATA, _OFFSETS, b" ")
    size = len(data) - pieces.PADDING
    starts = pieces.mark_by_pattern(data, size, *pieces.excluded_tables(frozenset(". \n")))
    pieces.mark_by_entries(data, size, np.zeros(1 << 16, np.bool_))
    pieces.holds_character(data, size, np.frombuffer(bytes(3), np.uint8))
    neighbours = pieces.Neighbours.of([b"ab"])
    pieces.cut_long_pieces(data, starts, 15, neighbours.characters, neighbours.in_part)


def _find_items() -> None:
    """Find an item of eight words in a text."""
    data = read_only(np.frombuffer(b"a b c d e f g h", np.uint8))
    items = evaluations.EvaluationItems({"set": [("item", data.tobytes().decode())]})
    items.find(data, read_only(np.array([0, len(data)], np.int64)))


def _find_bad_words() -> None:
    """Look for a word in a text."""
    found, tables = np.zeros(1, np.bool_), (character_flags(), lower_case())
    keys = read_only(np.zeros(1, np.uint64))
    bad_words._mark_candidates(_DATA, _OFFSETS, *tables, keys, np.ones(1, np.bool_), found)


def _divide_text() -> None:
    """Divide a text into spans of sentences and of tokens."""
    for units in (units_of_text.sentences_of(b"a b.\n"), units_of_text.tokens_of(b"a b.\n")):
        units_of_text.spans_of(units, 1)
    similar_sentences.band_keys(b"a b.\n")


def _choose() -> None:
    """Choose one of two equal documents."""
    one = np.ones(2, np.int64)
    choose.choose(
        np.arange(3),
        np.zeros(2, np.int64),
        np.zeros((2, 2), np.uint32),
        one,
        np.ones(2, np.uint64),
        one,
        one,
        0.5,
        None,
    )


def _group() -> None:
    """Link two documents, and find a pair by an anchor."""
    bits, documents, numbers = np.zeros(1, np.uint64), np.arange(2), np.zeros(2, np.int64)
    groups._mark(bits, documents)
    groups._count(bits, numbers)
    groups._list(bits, 0, 2, documents)
    groups._number(documents)
    groups._unite(bits, numbers, documents, documents.copy(), documents.copy())
    groups._divide(documents, documents, 1, documents.copy())
    flags = np.zeros(2, np.bool_)
    contained._meet(documents, flags, documents, flags, documents, documents, False)


GROUPS: dict[str, _Group] = {
    "roots": _Group(
        "measure",
        roots_statistics._measure,
        3.5,
        lambda: roots_statistics.measure_roots(_DATA, _OFFSETS, _BEGINS, ["en"]),
    ),
    "web": _Group(
        "measure",
        web_statistics._measure,
        2,
        lambda: web_statistics.measure_web(_DATA, _OFFSETS, np.zeros((1, len(text_statistics.STATISTICS)))),
    ),
    "text": _Group(
        "measure",
        text_statistics._measure_documents,
        3,
        lambda: text_statistics.measure_text(_DATA, _OFFSETS, _BEGINS),
    ),
    "fingerprints": _Group(
        "measure",
        fingerprints._fingerprint_documents,
        1.7,
        lambda: fingerprints.fingerprint_text(_DATA, _OFFSETS, FingerprintConfig()),
    ),
    "language": _Group(
        "measure", fasttext_kernel._predict, 3, lambda: LanguageIdentifier().identify_many(_DATA, _OFFSETS)
    ),
    "segmentation": _Group("measure", segmentation._mark_words, 1.4, lambda: segmentation.mark_words(_DATA, _OFFSETS)),
    "personal data": _Group(
        "measure", pii_candidates._find_in_documents, 0.9, lambda: pii_candidates.find_candidates(_DATA, _OFFSETS)
    ),
    "shingles": _Group(
        "measure",
        fingerprints._shingle,
        0.3,
        lambda: fingerprints.jaccard(fingerprints.shingle_set(b"a", 1), fingerprints.shingle_set(b"b", 1)),
    ),
    "evaluations": _Group("measure, where it is asked for", evaluations._find_runs, 1.5, _find_items),
    "bad words": _Group("measure, where it is asked for", bad_words._mark_candidates, 0.4, _find_bad_words),
    "choose": _Group("dedup", choose._choose, 1.8, _choose),
    "groups": _Group("dedup", groups._unite, 1.2, _group),
    "bands": _Group("dedup", near._hash_bands, 0.2, lambda: near.band_keys(np.zeros((1, 2), np.uint32), 1, 2)),
    "lines": _Group("dedup", lines._hash_lines, 0.3, lambda: lines.hash_lines(_DATA, 0, len(_DATA))),
    "spans": _Group("dedup, where it is asked for", units_of_text._sentences, 1.3, _divide_text),
    "encoder": _Group("tokenize", byte_pairs.encode_documents, 4.5, _encode),
    "pieces": _Group("tokenize", pieces.mark_by_pattern, 0.5, _cut),
    "cuts": _Group(
        "decide", web_statistics._c4_cuts, 0.7, lambda: web_statistics.c4_cuts(b"a b.\n", web_statistics.PAPER)
    ),
}
"""Groups by name."""
SHARING = (("encoder", "pieces"), ("web", "cuts"), ("fingerprints", "shingles"))
"""Groups that call the same functions, which a process compiles once."""
MEASURE = tuple(name for name, group in GROUPS.items() if group.stage == "measure")
DEDUP = tuple(name for name, group in GROUPS.items() if group.stage == "dedup")
ENCODE = tuple(name for name, group in GROUPS.items() if group.stage == "tokenize")


def compile_kernels(names: Sequence[str]) -> None:
    """Compile these groups, so that workers load them from numba's cache."""
    cold = [name for name in names if not _is_cached(GROUPS[name].entry)]
    if not cold:
        return
    mine, theirs = divide(cold)
    if not theirs or (os.cpu_count() or 1) < 2:
        mine, theirs = cold, []
    other = None
    if theirs:
        other = subprocess.Popen([sys.executable, "-m", "data_prep.compile_kernels", *theirs])
    with Progress("kernels (compiled once on a machine)", len(cold), "groups") as progress, quick_compilation():
        for name in mine:
            GROUPS[name].compile()
            progress.advance()
        if other is not None:
            other.wait()  # the next loop compiles what it has not
        for name in theirs:
            GROUPS[name].compile()
            progress.advance()


def divide(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide groups into two parts that take about the same time; those that share functions stay together."""
    sharing = [tuple(name for name in together if name in names) for together in SHARING]
    alone = [(name,) for name in names if not any(name in together for together in sharing)]

    def seconds(part: Iterable[str]) -> float:
        return sum(GROUPS[name].seconds for name in part)

    parts: tuple[list[str], list[str]] = ([], [])
    for together in sorted([*sharing, *alone], key=seconds, reverse=True):
        min(parts, key=seconds).extend(together)
    return parts


def _is_cached(entry: Any) -> bool:
    """Return whether numba's cache has a kernel in its current version."""
    source = Path(entry.py_func.__code__.co_filename).stat().st_mtime
    found = Path(entry.stats.cache_path).glob(f"*.{entry.py_func.__qualname__}-*.nbi")
    return any(path.stat().st_mtime >= source for path in found)


if __name__ == "__main__":
    with quick_compilation():
        for asked in sys.argv[1:]:
            GROUPS[asked].compile()
