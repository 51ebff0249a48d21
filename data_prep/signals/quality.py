"""Similarity of a text to those of one kind, by a fastText classifier with two labels.

LLaMA kept pages that a linear classifier predicted to be cited by Wikipedia rather than random (Touvron et al. 2023,
arXiv:2302.13971, section 2.1); `tools/train_quality.py` trains one. Training and prediction read `SAMPLE_CHARACTERS`
characters of a text, in `SAMPLE_PIECES` pieces from its beginning to its end.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.signals.fasttext.model import UNKNOWN, FastTextModel, FastTextModelError

SAMPLE_CHARACTERS = 4000
SAMPLE_PIECES = 4


class QualityClassifier:
    """Loaded classifier, one of whose labels is that of wanted texts.

    Raises:
        FastTextModelError: there is no such model, it does not have two labels, or none of them is `label`.
    """

    def __init__(self, path: Path, label: str) -> None:
        self._model = FastTextModel(path, "quality.model")
        self._label = label
        if len(self._model.labels) != 2 or label not in self._model.labels:
            raise FastTextModelError(
                f"quality.model: {path} has the labels {', '.join(self._model.labels)}; it must have two, of which "
                f"quality.label {label!r} is one"
            )

    def probabilities(self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> list[float]:
        """Return the probability of the label for each text; 0 if the model recognizes nothing in it.

        Args:
            data, offsets: text d is UTF-8 bytes [offsets[d], offsets[d + 1]).
        """
        found = self._model.predict(data, offsets, SAMPLE_CHARACTERS, SAMPLE_PIECES)
        return [
            probability if label == self._label else 0.0 if label == UNKNOWN else 1 - probability
            for label, probability in found
        ]
