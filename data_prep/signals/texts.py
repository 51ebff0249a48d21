"""The texts of a row group with what several measurements share, and the form of a measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep.config import DataConfig, FingerprintConfig, ScoreConfig
from data_prep.signals.bad_words import BadWords
from data_prep.signals.evaluations import EvaluationItems
from data_prep.signals.language import LanguageIdentifier
from data_prep.signals.perplexity import Perplexity
from data_prep.signals.quality import QualityClassifier
from data_prep.signals.segmentation import mark_words
from data_prep.signals.text_statistics import measure_text
from data_prep.signals.urls import UrlLists


@dataclass(frozen=True)
class Instruments:
    """Models that texts are measured with."""

    identifier: LanguageIdentifier
    identifies_lines: bool = False
    classifier: QualityClassifier | None = None
    perplexity: Perplexity | None = None
    urls: UrlLists | None = None
    evaluations: EvaluationItems | None = None
    bad_words: BadWords | None = None
    scores: Mapping[str, ScoreConfig] = field(default_factory=dict)
    """Fields of the metadata that are scores."""
    finds_user_names: bool = False

    @classmethod
    def of(cls, config: DataConfig) -> Instruments:
        """Load the models that the configuration names.

        Raises:
            FastTextModelError, PerplexityError, ValueError: a model or a list is missing or damaged; names the setting.
        """
        classifier = QualityClassifier(config.quality.model, config.quality.label) if config.quality.model else None
        perplexity = Perplexity(config.perplexity) if config.perplexity else None
        urls = UrlLists(config.urls) if config.urls.has_lists else None
        evaluations = EvaluationItems.of(config.decontamination) if config.decontamination else None
        identifier = LanguageIdentifier(config.language.model)
        bad_words = BadWords(config.bad_words) if config.bad_words else None
        lines = config.language.lines
        return cls(identifier, lines, classifier, perplexity, urls, evaluations, bad_words, config.scores)


@dataclass(frozen=True)
class Texts:
    """Documents of a row group, concatenated as in an Arrow string column; iterates over them as strings.

    Args:
        data: UTF-8 bytes of all documents.
        offsets: document d is bytes [offsets[d], offsets[d + 1]); one longer than the number of documents.
        urls: where each document is from.
        metadata: JSON object of each document; empty if nothing in it is measured.
    """

    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    fingerprints: FingerprintConfig
    instruments: Instruments
    urls: Sequence[str | None]
    metadata: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[str]:
        for start, stop in pairwise(self.offsets.tolist()):
            yield self.data[start:stop].tobytes().decode()

    @cached_property
    def languages(self) -> list[tuple[str, float]]:
        """Language of each document and its probability."""
        return self.instruments.identifier.identify_many(self.data, self.offsets)

    @cached_property
    def word_starts(self) -> npt.NDArray[np.bool_]:
        """For each byte whether a word of a script without spaces starts there, see `segmentation.mark_words`."""
        return mark_words(self.data, self.offsets)

    @cached_property
    def statistics(self) -> npt.NDArray[np.float64]:
        """Result of `text_statistics.measure_text`."""
        return measure_text(self.data, self.offsets, self.word_starts)


@dataclass(frozen=True)
class Measurement:
    """Columns of the signals that one function computes.

    Args:
        columns: name and type of each column.
        measure: computes the columns in this order, one value for each text (a list, an array of numpy or Arrow); None
            is a column of nulls.
    """

    columns: Mapping[str, pa.DataType]
    measure: Callable[[Texts], Sequence[Any]]
