"""Writes the skipped samples out as text, for a person to read, with a first look at what is odd about them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foundation.atomic_files import write_json, write_text
from pretrain.data.loader import SampleReader
from pretrain.spikes.ledger import Entry, describe

TEXT_FILE, LOOK_FILE = "samples.txt", "first_look.json"
MOST_SAMPLES = 200
"""So many are written and measured, and as many from elsewhere in the corpus: seconds, not minutes of a run."""
_REMARKABLE = 3.0
"""Standard errors between the skipped samples and the corpus from which on a measure is pointed out."""

_TEXT_MEASURES = (
    "duplicate_5_gram_character_share",
    "duplicate_10_gram_character_share",
    "top_2_gram_character_share",
    "duplicate_line_character_share",
    "alphabetic_word_share",
    "mean_word_length",
    "hash_symbols_per_word",
    "alphanumeric_share",
)
"""Of `data_prep.signals.text_statistics`."""


@dataclass(frozen=True)
class Sample:
    """One sample: where it comes from, and its text or, without a tokenizer, its tokens."""

    number: int
    dataset: str
    place: str
    text: str
    tokens: npt.NDArray[np.int64]
    documents: int


def write_skipped_samples(reader: SampleReader, entry: Entry, folder: Path) -> list[str]:
    """Write `samples.txt` and `first_look.json` about the range that a rollback skips.

    The samples of the suspicious steps come first, from the onset on; there is room for 200.

    Returns:
        What is remarkable, a sentence each.
    """
    assert entry.skipped is not None and entry.samples is not None
    suspicious = range(*entry.samples)
    rest = [i for i in range(*entry.skipped) if i not in suspicious][: max(0, MOST_SAMPLES - len(suspicious))]
    numbers = sorted([*_spread(suspicious, MOST_SAMPLES), *rest])
    # As many from the same stretch of the plan outside of the range, which the same mixture has dealt.
    start, stop = entry.skipped
    around = [*range(max(0, start - 50 * MOST_SAMPLES), start), *range(stop, stop + 5 * MOST_SAMPLES)]
    decode = _decoder(reader)
    skipped = [_sample(reader, decode, i) for i in numbers]
    corpus = [_sample(reader, decode, i) for i in _spread(around, MOST_SAMPLES)]
    look = first_look(
        [sample for sample in skipped if sample.number in suspicious], corpus, has_text=decode is not None
    )
    write_json(folder / LOOK_FILE, {"samples": list(entry.samples), "skipped": list(entry.skipped), **look})
    title = f"{describe(entry)}\n{len(numbers)} of the {stop - start} skipped samples; first look in {LOOK_FILE}\n"
    parts = [
        f"{'=' * 100}\nsample {sample.number}{' (suspicious)' if sample.number in suspicious else ''}: "
        f"{sample.place}\n{'-' * 100}\n{sample.text}\n"
        for sample in skipped
    ]
    write_text(folder / TEXT_FILE, title + "\n".join([*look["remarkable"], "", *parts]))
    remarkable: list[str] = look["remarkable"]
    return remarkable


def first_look(suspicious: Sequence[Sample], corpus: Sequence[Sample], has_text: bool) -> dict[str, Any]:
    """Repetition, language, length and source of the suspicious samples against the corpus.

    Returns:
        `measures`: name -> mean over the suspicious ones and over the corpus, and the difference in standard errors;
        `sources` and `languages`: name -> share of each; `remarkable`: sentences.
    """
    measures: dict[str, dict[str, float]] = {}
    remarkable = []
    ours, theirs = ([_measures(sample, has_text) for sample in samples] for samples in (suspicious, corpus))
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
    kinds: list[tuple[str, Callable[[Sample], str]]] = [("sources", lambda sample: sample.dataset)]
    language = _language_of() if has_text else None
    if language is not None:
        kinds.append(("languages", language))
    for kind, of in kinds:
        counts = [Counter(map(of, samples)) for samples in (suspicious, corpus)]
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


def _measures(sample: Sample, has_text: bool) -> dict[str, float]:
    tokens = sample.tokens
    bigrams = tokens[:-1] * (int(tokens.max()) + 1) + tokens[1:]
    measures = {
        "documents_in_the_sample": float(sample.documents),
        "distinct_tokens_share": len(np.unique(tokens)) / len(tokens),
        "repeated_token_pairs_share": 1 - len(np.unique(bigrams)) / len(bigrams),
    }
    if has_text:
        from data_prep.signals.text_statistics import measure_string

        statistics = measure_string(sample.text)
        measures |= {name: statistics[name] for name in _TEXT_MEASURES}
        measures["characters_per_token"] = len(sample.text) / len(tokens)
    return measures


def _sample(reader: SampleReader, decode: Callable[[Any], str] | None, number: int) -> Sample:
    description, tokens = reader.describe(number), reader.sample(number)
    pieces = [tokens[part.offset : part.offset + part.stop - part.start] for part in description.parts]
    text = "\n".join(decode(piece) if decode else " ".join(map(str, piece.tolist())) for piece in pieces)
    documents = ", ".join(f"{part.document} [{part.start}, {part.stop})" for part in description.parts)
    place = f"{description.dataset}, epoch {description.epoch}, window {description.window}; documents {documents}"
    return Sample(number, description.dataset, place, text, tokens, len(description.parts))


def _decoder(reader: SampleReader) -> Callable[[Any], str] | None:
    """None when the tokenizer does not lie beside the token files."""
    try:
        from data_prep.tokenizer.encoding.encode import ReferenceEncoder

        return ReferenceEncoder(reader.mixture.tokenizer).decode
    except (ImportError, ValueError, OSError):
        return None


def _language_of() -> Callable[[Sample], str] | None:
    """None without fastText."""
    try:
        from data_prep.signals.language import LanguageIdentifier

        identifier = LanguageIdentifier()
    except (ImportError, ValueError, OSError):
        return None
    return lambda sample: identifier.identify(sample.text)[0]


def _spread(numbers: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly."""
    if len(numbers) <= most:
        return list(numbers)
    return [numbers[i * len(numbers) // most] for i in range(most)]
