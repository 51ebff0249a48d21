"""Scores that come with the documents, such as FineWeb-Edu's: numeric fields of their metadata.

A column of a Parquet file, or a field of a JSON object, is in the metadata of the document that the source makes of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from data_prep.sources.fields import FieldError, field_of

if TYPE_CHECKING:
    from data_prep.config import ScoreConfig

PREFIX = "scores."
"""Beginning of the name of a score as a signal: `scores.educational`."""


def scores_of(metadata: Sequence[str], settings: Mapping[str, ScoreConfig]) -> list[list[tuple[str, float]]]:
    """Return the scores of documents by name; those that a document does not have, or that are no numbers, are left
    out.

    Args:
        metadata: JSON object of each document.
    """
    found: list[list[tuple[str, float]]] = []
    for text in metadata:
        record = json.loads(text)
        scores = []
        for name, setting in settings.items():
            try:
                value = field_of(record, setting.field)
            except FieldError:
                continue
            if type(value) in (int, float) and math.isfinite(value):
                scores.append((name, float(value)))
        found.append(scores)
    return found
