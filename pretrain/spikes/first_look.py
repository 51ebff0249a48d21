"""The skipped samples of a rollback as token ids, and a first look at what is odd about them.

A training process has documents and token ids only. `altiplano spikes RUN --samples` repeats this with the text, its
language and its statistics, see `tools/skipped_text.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foundation.atomic_files import write_json, write_text
from pretrain.data.loader import SampleReader
from pretrain.spikes.ledger import Entry, describe

SPIKES_FOLDER = "spikes"
"""Folder in the run's folder with a folder for each abandoned branch."""
TEXT_FILE, LOOK_FILE = "samples.txt", "first_look.json"
MOST_SAMPLES = 200
"""Largest number of skipped samples that are written and measured, and of samples from around them: a few seconds."""
_REMARKABLE = 3.0
"""Standard errors between the suspicious samples and the corpus from which on a measure is pointed out."""


@dataclass(frozen=True)
class Sample:
    """One sample.

    Attributes:
        number: in the plan of the data.
        place: epoch, window and documents, for a person.
        tokens: all of it, int64 [S + 1].
        pieces: its tokens by document.
    """

    number: int
    dataset: str
    place: str
    tokens: npt.NDArray[np.int64]
    pieces: tuple[npt.NDArray[np.int64], ...]


@dataclass(frozen=True)
class SamplesToCompare:
    """The samples that a first look compares, at most `MOST_SAMPLES` on each side.

    Attributes:
        skipped: samples of the skipped range, ascending; those of the suspicious steps take precedence.
        suspicious: numbers of the samples of the steps from the spike's onset to its detection.
        corpus: samples from just outside of the skipped range, dealt by the same mixture.
    """

    skipped: list[Sample]
    suspicious: range
    corpus: list[Sample]


def samples_to_compare(reader: SampleReader, entry: Entry) -> SamplesToCompare:
    """Read the samples that a rollback skips, and others to compare them with."""
    assert entry.skipped is not None and entry.samples is not None
    start, stop = entry.skipped
    suspicious = range(*entry.samples)
    rest = [i for i in range(start, stop) if i not in suspicious][: max(0, MOST_SAMPLES - len(suspicious))]
    skipped = sorted([*_spread(suspicious, MOST_SAMPLES), *rest])
    around = [*range(max(0, start - 50 * MOST_SAMPLES), start), *range(stop, stop + 5 * MOST_SAMPLES)]
    return SamplesToCompare(
        [_sample(reader, i) for i in skipped],
        suspicious,
        [_sample(reader, i) for i in _spread(around, MOST_SAMPLES)],
    )


def token_measures(sample: Sample) -> dict[str, float]:
    """Measures of a sample that need no text."""
    tokens = sample.tokens
    bigrams = tokens[:-1] * (int(tokens.max()) + 1) + tokens[1:]
    return {
        "documents_in_the_sample": float(len(sample.pieces)),
        "distinct_tokens_share": len(np.unique(tokens)) / len(tokens),
        "repeated_token_pairs_share": 1 - len(np.unique(bigrams)) / len(bigrams),
    }


def source(sample: Sample) -> str:
    """Name of the dataset that a sample comes from."""
    return sample.dataset


def token_ids(sample: Sample) -> str:
    """The token ids of a sample, a line for each document."""
    return "\n".join(" ".join(map(str, piece.tolist())) for piece in sample.pieces)


def first_look(
    samples: SamplesToCompare,
    measure: Callable[[Sample], Mapping[str, float]] = token_measures,
    kinds: Mapping[str, Callable[[Sample], str]] | None = None,
) -> dict[str, Any]:
    """Compare the suspicious samples with the corpus around them.

    Args:
        measure: measures of a sample by name.
        kinds: functions that sort the samples into kinds, by a plural name; None: by source.

    Returns:
        `measures`: name -> mean over the suspicious samples and over the corpus, and the difference in standard errors;
        for each of `kinds`: name -> share of each side; `remarkable`: sentences for a person.
    """
    suspicious = [sample for sample in samples.skipped if sample.number in samples.suspicious]
    corpus = samples.corpus
    measures: dict[str, dict[str, float]] = {}
    remarkable = []
    ours, theirs = ([measure(sample) for sample in side] for side in (suspicious, corpus))
    for name in ours[0]:
        one, other = (np.array([values[name] for values in side]) for side in (ours, theirs))
        error = float(np.hypot(one.std() / np.sqrt(len(one)), other.std() / np.sqrt(len(other)))) or 1e-9
        errors = float(one.mean() - other.mean()) / error
        measures[name] = {"suspicious": float(one.mean()), "corpus": float(other.mean()), "standard_errors": errors}
        if abs(errors) > _REMARKABLE:
            remarkable.append(
                f"{name.replace('_', ' ')}: {one.mean():.3g} in the suspicious samples, {other.mean():.3g} in the "
                f"corpus ({errors:+.0f} standard errors)"
            )
    look: dict[str, Any] = {"measures": measures}
    for kind, kind_of in ({"sources": source} if kinds is None else kinds).items():
        counts = [Counter(map(kind_of, side)) for side in (suspicious, corpus)]
        look[kind] = {}
        for name in sorted({*counts[0], *counts[1]}):
            share, usual = counts[0][name] / len(suspicious), counts[1][name] / len(corpus)
            look[kind][name] = {"suspicious": share, "corpus": usual}
            pooled = (counts[0][name] + counts[1][name]) / (len(suspicious) + len(corpus))
            error = math.sqrt(pooled * (1 - pooled) * (1 / len(suspicious) + 1 / len(corpus)))
            if abs(share - usual) > _REMARKABLE * error:
                remarkable.append(
                    f"{kind[:-1]} {name}: {share:.0%} of the suspicious samples, {usual:.0%} of the corpus"
                )
    look["remarkable"] = remarkable or ["nothing remarkable against the corpus around it"]
    return look


def write_first_look(
    folder: Path,
    entry: Entry,
    samples: SamplesToCompare,
    look: Mapping[str, Any],
    text: Callable[[Sample], str] = token_ids,
) -> None:
    """Write `samples.txt`, for a person to read, and `first_look.json`."""
    assert entry.skipped is not None and entry.samples is not None
    start, stop = entry.skipped
    write_json(folder / LOOK_FILE, {"samples": list(entry.samples), "skipped": list(entry.skipped), **look})
    title = (
        f"{describe(entry)}\n{len(samples.skipped)} of the {stop - start} skipped samples; first look in {LOOK_FILE}\n"
    )
    parts = [
        f"{'=' * 100}\nsample {sample.number}{' (suspicious)' if sample.number in samples.suspicious else ''}: "
        f"{sample.place}\n{'-' * 100}\n{text(sample)}\n"
        for sample in samples.skipped
    ]
    write_text(folder / TEXT_FILE, title + "\n".join([*look["remarkable"], "", *parts]))


def write_skipped_samples(reader: SampleReader, entry: Entry, folder: Path) -> list[str]:
    """Write the token ids of the samples that a rollback skips, and a first look by measures of tokens.

    Returns:
        What is remarkable about them, a sentence each.
    """
    samples = samples_to_compare(reader, entry)
    look = first_look(samples)
    write_first_look(folder, entry, samples, look)
    remarkable: list[str] = look["remarkable"]
    return remarkable


def _sample(reader: SampleReader, number: int) -> Sample:
    description, tokens = reader.describe(number), reader.sample(number)
    documents = ", ".join(f"{part.document} [{part.start}, {part.stop})" for part in description.parts)
    return Sample(
        number,
        description.dataset,
        f"{description.dataset}, epoch {description.epoch}, window {description.window}; documents {documents}",
        tokens,
        tuple(tokens[part.offset : part.offset + part.stop - part.start] for part in description.parts),
    )


def _spread(numbers: Sequence[int], most: int) -> list[int]:
    """At most `most` of the numbers, evenly spread."""
    if len(numbers) <= most:
        return list(numbers)
    return [numbers[i * len(numbers) // most] for i in range(most)]
