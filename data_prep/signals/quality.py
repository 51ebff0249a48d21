"""How much a text is like those of one kind, by a fastText classifier with two labels.

LLaMA kept pages that a linear classifier took for ones cited by Wikipedia, against random pages (Touvron et al. 2023,
arXiv:2302.13971, section 2.1); `tools/train_quality.py` trains one. What is read of a text: `SAMPLE_CHARACTERS`
characters in `SAMPLE_PIECES` pieces from its beginning to its end, in training and here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.signals.fasttext.model import UNKNOWN, FastTextModel, FastTextModelError

SAMPLE_CHARACTERS = 4000
SAMPLE_PIECES = 4


class QualityClassifier:
    """A model of which one label is good.

    Raises:
        FastTextModelError: there is no such model, it has not two labels, or none of them is the one that is asked for.
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
        """The probability of the label for each text; 0 where the model knows nothing of it.

        Args:
            data, offsets: text d is UTF-8 bytes [offsets[d], offsets[d + 1]).
        """
        found = self._model.predict(data, offsets, SAMPLE_CHARACTERS, SAMPLE_PIECES)
        return [
            probability if label == self._label else 0.0 if label == UNKNOWN else 1 - probability
            for label, probability in found
        ]
