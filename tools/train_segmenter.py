"""Learn where words end in a script without spaces, from sentences that are divided into words.

    altiplano data train-segmenter zh divided.jsonl --output segmenter_zh.json --gold gold.jsonl

Each line of the input is a JSON object with `words`, the parts of a sentence or document in their order, white space
included where the text has it.

The model is BudouX's, so that its models and ours are read by the same code (`data_prep/signals/segmentation.py`): one
weight for each of some single characters, pairs and triples around a place in the text; words part where the sum is
positive. The weights are those of an averaged perceptron (Freund and Schapire 1999, doi:10.1023/A:1007662407062), of
which the largest are kept and learnt again without the others.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from data_prep.kernels.characters import MARK, UNSPACED, character_flags
from data_prep.signals.segmentation import WINDOWS, divide
from foundation.atomic_files import write_text
from foundation.progress import Progress

_EPOCHS = 8
_SCALE = 1000

Weights = dict[str, dict[str, int]]


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano data train-segmenter",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("language", help="ISO 639 code, which selects the gold sentences")
    parser.add_argument("divided", type=Path, help="JSON lines with `words`")
    parser.add_argument("--output", type=Path, required=True, help="the model, JSON in BudouX's format")
    parser.add_argument("--features", type=int, default=6000, help="weights that are kept")
    parser.add_argument("--gold", type=Path, help="JSON lines with `text`, `words` and `lang`, never trained on")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and tell the F1 of words on what was held out and on gold sentences."""
    given = make_parser().parse_args(arguments)
    documents = [[word for word in row["words"] if word] for row in _rows(given.divided)]
    held_out = documents[::10]
    weights = train([words for k, words in enumerate(documents) if k % 10], given.features)
    write_text(given.output, json.dumps(weights, ensure_ascii=False, separators=(",", ":"), sort_keys=True) + "\n")
    _tell("held out", [("".join(words), words) for words in held_out])
    if given.gold and any(row["lang"] == given.language for row in _rows(given.gold)):
        _tell("gold", [(row["text"], row["words"]) for row in _rows(given.gold) if row["lang"] == given.language])
    return 0


def train(documents: Sequence[Sequence[str]], features: int) -> Weights:
    """Weights in BudouX's form, so that the sum of those present passes half the sum of all where a word begins."""
    text, begins = [0x0A], [False]
    for words in documents:
        for word in words:
            begins += [True] + [False] * (len(word) - 1)
            text += [ord(character) for character in word]
        begins.append(False)
        text.append(0x0A)
    points, is_begin = np.array(text, dtype=np.uint32), np.array(begins)
    flags = character_flags()[np.minimum(points, 0x3FFFF)]
    unspaced = (flags & UNSPACED) != 0
    before = np.concatenate(([False], (unspaced | ((flags & MARK) != 0))[:-1]))
    places = np.flatnonzero(unspaced & before)  # elsewhere no model is asked
    ids, names = _features(points, places)
    with Progress("train", 2 * _EPOCHS, "epochs") as progress:
        weights = _perceptron(ids, is_begin[places], len(names), progress)
        kept = np.argsort(-np.abs(weights[:-1]), kind="stable")[:features]
        renumbered = np.full(len(names) + 1, -1, dtype=np.int64)
        renumbered[kept] = np.arange(len(kept))
        kept_weights = _perceptron(renumbered[ids], is_begin[places], len(kept), progress)
    result: Weights = {}
    for place, weight in zip(kept.tolist(), np.rint(kept_weights[:-1] * _SCALE).astype(int).tolist(), strict=True):
        window, characters = names[place]
        if weight:
            result.setdefault(window, {})[characters] = weight
    # BudouX asks that twice the sum passes the sum of all weights: a feature that never occurs makes up the difference
    total = sum(sum(group.values()) for group in result.values())
    asked = -2 * round(float(kept_weights[-1]) * _SCALE)
    result.setdefault("UW4", {})["\n"] = asked - total
    return result


def _features(
    points: npt.NDArray[np.uint32], places: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], list[tuple[str, str]]]:
    """Numbers of the features of each place, `int64[places, windows]`, -1 where there is none; their names."""
    columns: list[npt.NDArray[np.int64]] = []
    names: list[tuple[str, str]] = []
    line = np.cumsum(points == 0x0A)  # a line feed counts as the next line's
    for name, first, size in WINDOWS:
        around_places = np.clip(places[:, None] + np.arange(first, first + size), 0, len(points) - 1)
        around = points[around_places]
        packed = np.zeros(len(places), dtype=np.uint64)
        for k in range(size):
            packed = packed << np.uint64(21) | around[:, k].astype(np.uint64)
        distinct, numbers, counts = np.unique(packed, return_inverse=True, return_counts=True)
        taken = np.where(counts > 1, len(names) + np.cumsum(counts > 1) - 1, -1)
        column = taken[numbers]
        column[((around == 0x0A) | (line[around_places] != line[places][:, None])).any(axis=1)] = -1
        columns.append(column)
        for value in distinct[counts > 1].tolist():
            names.append((name, "".join(chr(value >> 21 * k & 0x1FFFFF) for k in reversed(range(size)))))
    return np.stack(columns, axis=1), names


def _perceptron(
    ids: npt.NDArray[np.int64], begins: npt.NDArray[np.bool_], features: int, progress: Progress
) -> npt.NDArray[np.float64]:
    """Averaged weights, the last one that of every place."""
    generator = np.random.default_rng(1)
    weights, sums = np.zeros(features + 1), np.zeros(features + 1)
    step = 0.0
    for _ in range(_EPOCHS):
        step = _epoch(ids, begins, generator.permutation(len(ids)), weights, sums, step)
        progress.advance()
    return weights - sums / step


@numba.njit(cache=True)
def _epoch(ids, begins, order, weights, sums, step):  # type: ignore[no-untyped-def]
    last = weights.shape[0] - 1
    for place in order:
        total = weights[last]
        for k in range(ids.shape[1]):
            if ids[place, k] >= 0:
                total += weights[ids[place, k]]
        step += 1.0
        sign = 1.0 if begins[place] else -1.0
        if total * sign <= 1.0:  # with a margin
            weights[last] += sign
            sums[last] += sign * step
            for k in range(ids.shape[1]):
                if ids[place, k] >= 0:
                    weights[ids[place, k]] += sign
                    sums[ids[place, k]] += sign * step
    return step


def _tell(name: str, sentences: Sequence[tuple[str, Sequence[str]]]) -> None:
    # white space divides everything else
    found = [[part for piece in divide(text) for part in re.split(r"(\s+)", piece)] for text, _ in sentences]
    pairs = [
        (word_spans(parts), word_spans(words, text)) for parts, (text, words) in zip(found, sentences, strict=True)
    ]
    shared = sum(len(ours & theirs) for ours, theirs in pairs)
    ours, theirs = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    print(
        f"{name}: {theirs:,} words, precision {shared / ours:.4f}, recall {shared / theirs:.4f}, "
        f"F1 {2 * shared / (ours + theirs):.4f}"
    )


def word_spans(parts: Sequence[str], text: str | None = None) -> set[tuple[int, int]]:
    """Ranges of characters of the words, which are the parts that contain a letter or number.

    Args:
        text: the parts and whatever is between them; None: nothing is between them.
    """
    spans, at = set(), 0
    for part in parts:
        at = text.index(part, at) if text is not None else at
        held = [k for k, character in enumerate(part) if unicodedata.category(character)[0] in "LNM"]
        if held:
            spans.add((at + held[0], at + held[-1] + 1))
        at += len(part)
    return spans


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


if __name__ == "__main__":
    sys.exit(main())
