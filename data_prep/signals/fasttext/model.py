"""fastText classifiers from files that users name."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.signals.fasttext.file import read_fasttext_file
from data_prep.signals.fasttext.kernel import LABEL, FastTextKernel, is_supported, sample_text

UNKNOWN = "und"
"""Label of a text in which the model recognizes nothing; its probability is 0."""


class FastTextModelError(ValueError):
    """A fastText model is missing, damaged, or of another kind than required."""


class FastTextModel:
    """Loaded model, run by compiled code if supported, else by fastText's library.

    Args:
        setting: name of the setting of the path, for errors.

    Raises:
        FastTextModelError: there is no such file, or it is not a fastText model.
    """

    def __init__(self, path: Path, setting: str) -> None:
        self.path = path.expanduser()
        if not self.path.is_file():
            raise FastTextModelError(f"{setting}: there is no file {self.path}; give the path of a fastText model")
        try:
            file = read_fasttext_file(self.path)  # the library does not check files
            self.labels = tuple(label.decode().removeprefix(LABEL) for label in file.labels)
            self._kernel = FastTextKernel(file) if is_supported(file) else None
            self._library: Any = None if self._kernel else _load_library(self.path)
        except (ValueError, RuntimeError, MemoryError) as error:
            raise FastTextModelError(
                f"{setting}: {self.path} is not a complete fastText model (.bin or .ftz): {error}"
            ) from error

    def predict(
        self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], characters: int, pieces: int
    ) -> list[tuple[str, float]]:
        """Return the most probable label of each text and its probability, 0 to 1.

        Args:
            data, offsets: text d is UTF-8 bytes [offsets[d], offsets[d + 1]).
            characters, pieces: number of characters that are read of a longer text, in pieces from its beginning to its
                end.
        """
        if self._kernel is None:
            bounds = offsets.tolist()
            texts = (data[start:stop].tobytes() for start, stop in pairwise(bounds))
            return [self._ask_library(sample_text(text, characters, pieces)) for text in texts]
        names = (*self._kernel.labels, UNKNOWN)  # label -1 is the last
        labels, probabilities = self._kernel.predict(data, offsets, characters, pieces)
        return [(names[label], probability) for label, probability in zip(labels, probabilities.tolist(), strict=True)]

    def _ask_library(self, taken: bytes) -> tuple[str, float]:
        labels, probabilities = self._library.predict(taken.decode().replace("\n", " "), k=1)
        if not labels:
            return UNKNOWN, 0.0
        return labels[0].removeprefix(LABEL), min(float(probabilities[0]), 1.0)  # rounding gives 1.00001


def _load_library(path: Path) -> Any:
    import fasttext

    return fasttext.load_model(str(path))
