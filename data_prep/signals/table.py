"""The table of signals: every measurement, in the order of its columns in `signals/<shard>.parquet`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep.languages import without_script
from data_prep.signals.fingerprints import exact_hash, fingerprint_text
from data_prep.signals.pii.find import find_pii_in_documents
from data_prep.signals.roots.statistics import ROOTS_STATISTICS, measure_roots
from data_prep.signals.scores import scores_of
from data_prep.signals.text_statistics import COUNTS, STATISTICS
from data_prep.signals.texts import Measurement, Texts
from data_prep.signals.web_statistics import WEB_COUNTS, WEB_STATISTICS, measure_web

_ROOTS_COUNTS = ("roots_word_count",)
_LINE_TYPES = (pa.list_(pa.string()), pa.list_(pa.float32()))
_URL_COLUMNS = {
    **dict.fromkeys(("url_blocked", "url_allowed", "url_words", "url_soft_words"), pa.int64()),
    "url_matches": pa.list_(pa.string()),
}
_EVALUATION_COLUMNS = {
    "evaluation_collisions": pa.int64(),
    "evaluation_ngram_share": pa.float64(),
    "evaluation_token_share": pa.float64(),
    "evaluation_matches": pa.list_(
        pa.struct(
            [
                ("set", pa.string()),
                ("item", pa.string()),
                *((name, pa.int64()) for name in ("at", "words", "start", "end")),
            ]
        )
    ),
}
_SCORES = pa.map_(pa.string(), pa.float64())
_SPANS = pa.list_(pa.struct([("kind", pa.string()), ("start", pa.int64()), ("end", pa.int64())]))
"""Half-open ranges of bytes of the UTF-8 text, each with the placeholder that replaces it, without `PI:`."""


def _types(names: Sequence[str], counts: Collection[str]) -> Mapping[str, pa.DataType]:
    return {name: pa.int64() if name in counts else pa.float64() for name in names}


def _columns(
    rows: npt.NDArray[np.float64], names: Sequence[str], counts: Collection[str]
) -> list[npt.NDArray[np.int64 | np.float64]]:
    return [rows[:, k].astype(np.int64 if name in counts else np.float64) for k, name in enumerate(names)]


def _text(texts: Texts) -> Sequence[Any]:
    return _columns(texts.statistics, STATISTICS, COUNTS)


def _web(texts: Texts) -> Sequence[Any]:
    return _columns(measure_web(texts.data, texts.offsets, texts.statistics), WEB_STATISTICS, WEB_COUNTS)


def _roots(texts: Texts) -> Sequence[Any]:
    languages = [without_script(language) for language, _ in texts.languages]
    rows = measure_roots(texts.data, texts.offsets, texts.word_starts, languages)
    return _columns(rows, ROOTS_STATISTICS, _ROOTS_COUNTS)


def _language(texts: Texts) -> Sequence[Any]:
    return [language for language, _ in texts.languages], [probability for _, probability in texts.languages]


def _lines(texts: Texts) -> Sequence[Any]:
    if not texts.instruments.identifies_lines:
        return None, None
    lines, bounds = texts.instruments.identifier.identify_lines(texts.data, texts.offsets)
    columns = zip(*lines, strict=True) if lines else ((), ())
    return [
        pa.ListArray.from_arrays(bounds.astype(np.int32), pa.array(values, type_.value_type))
        for values, type_ in zip(columns, _LINE_TYPES, strict=True)
    ]


def _quality(texts: Texts) -> Sequence[Any]:
    classifier = texts.instruments.classifier
    return (None if classifier is None else classifier.probabilities(texts.data, texts.offsets),)


def _perplexity(texts: Texts) -> Sequence[Any]:
    models = texts.instruments.perplexity
    if models is None:
        return (None,)
    found = models.measure(texts.data, texts.offsets, [language for language, _ in texts.languages])
    return (pa.array(found, from_pandas=True),)  # not a number is null


def _scores(texts: Texts) -> Sequence[Any]:
    settings = texts.instruments.scores
    return (pa.array(scores_of(texts.metadata, settings), _SCORES) if settings else None,)


def _urls(texts: Texts) -> Sequence[Any]:
    lists = texts.instruments.urls
    if lists is None:
        return (None,) * len(_URL_COLUMNS)
    found = [lists.match(url) for url in texts.urls]
    return [[match[k] for match in found] for k in range(len(_URL_COLUMNS))]


def _bad_words(texts: Texts) -> Sequence[Any]:
    lists = texts.instruments.bad_words
    if lists is None:
        return None, None
    found = lists.find(texts.data, texts.offsets, [language for language, _ in texts.languages])
    return [None if words is None else len(words) for words in found], found


def _evaluations(texts: Texts) -> Sequence[Any]:
    items = texts.instruments.evaluations
    if items is None:
        return (None,) * len(_EVALUATION_COLUMNS)
    found = items.find(texts.data, texts.offsets)
    return (
        [document.collisions for document in found],
        [document.ngram_share for document in found],
        [document.token_share for document in found],
        pa.array(
            [[run._asdict() for run in document.runs] for document in found], _EVALUATION_COLUMNS["evaluation_matches"]
        ),
    )


def _fingerprints(texts: Texts) -> Sequence[Any]:
    view = texts.data.data
    hashes = [exact_hash(view[start:stop]) for start, stop in pairwise(texts.offsets.tolist())]
    prints = fingerprint_text(texts.data, texts.offsets, texts.fingerprints)
    has_shingles = prints.counts > 0
    bounds = np.zeros(len(texts) + 1, dtype=np.int32)
    np.cumsum(np.where(has_shingles, prints.minima.shape[1], 0), out=bounds[1:])
    minhash = pa.ListArray.from_arrays(bounds, prints.minima[has_shingles].ravel())
    return (
        hashes,
        prints.counts,
        minhash,
        pa.ListArray.from_arrays(prints.sample_bounds.astype(np.int32), prints.samples),
    )


def _personal_data(texts: Texts) -> Sequence[Any]:
    found = find_pii_in_documents(texts.data, texts.offsets, texts.instruments.finds_user_names)
    return (pa.array([[span._asdict() for span in spans] for spans in found], _SPANS),)


MEASUREMENTS: tuple[Measurement, ...] = (
    Measurement(_types(STATISTICS, COUNTS), _text),
    Measurement(_types(WEB_STATISTICS, WEB_COUNTS), _web),
    Measurement(_types(ROOTS_STATISTICS, _ROOTS_COUNTS), _roots),
    Measurement({"language": pa.string(), "language_probability": pa.float64()}, _language),
    # null unless language.lines
    Measurement(dict(zip(("line_languages", "line_language_probabilities"), _LINE_TYPES, strict=True)), _lines),
    # null unless quality.model
    Measurement({"quality_probability": pa.float64()}, _quality),
    # null unless `perplexity` has a model of the language
    Measurement({"perplexity": pa.float64()}, _perplexity),
    # null unless `scores` names fields
    Measurement({"scores": _SCORES}, _scores),
    # null unless `urls` has lists
    Measurement(_URL_COLUMNS, _urls),
    # null unless `bad_words` has a list of the language
    Measurement({"bad_word_count": pa.int64(), "bad_word_matches": pa.list_(pa.string())}, _bad_words),
    # null unless `decontamination` has sets
    Measurement(_EVALUATION_COLUMNS, _evaluations),
    Measurement(
        {
            "exact_hash": pa.binary(16),
            "shingle_count": pa.int64(),
            "minhash": pa.list_(pa.uint32()),
            "sampled_shingles": pa.list_(pa.uint64()),
        },
        _fingerprints,
    ),
    Measurement({"pii_spans": _SPANS}, _personal_data),
)

SIGNALS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        *(pa.field(name, type_) for measurement in MEASUREMENTS for name, type_ in measurement.columns.items()),
    ]
)
"""Columns of `signals/<shard>.parquet`."""
