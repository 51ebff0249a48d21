"""Perplexity under n-gram models (KenLM) of chosen text, one model for each language.

CCNet trains a tokenizer and a 5-gram model on the Wikipedia of each language and divides a language's pages by
perplexity into head, middle and tail (Wenzek et al. 2020, arXiv:1911.00359, "LM filtering"); ROOTS uses the same models
(Laurençon et al. 2022, arXiv:2303.03915). A text is normalised as in cc_net/text_normalizer.py, and each line is one
sentence of the model. cc_net/mine.py instead joins all lines of a page without a separator, so that the last word of a
line and the first one of the next are merged.

    perplexity = 10 ^ (-(sum of log10 P of the lines) / (pieces + lines)),

where each line's end counts as a piece, as in cc_net/perplexity.py.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sentencepiece import SentencePieceProcessor

from data_prep.config import LanguageModelConfig
from data_prep.languages import meant_for

_DIGIT = re.compile(r"\d")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PLAIN_PUNCTUATION = str.maketrans(
    {
        **dict.fromkeys("„“”«»「」《》", '"'),
        **dict.fromkeys("´’", "'"),
        **dict.fromkeys("，、", ","),
        **dict.fromkeys("∶：", ":"),
        **dict.fromkeys("–━►", "-"),
        **dict(zip("。；？！（）～〈〉【】％", ".;?!()~<>[]%", strict=True)),
        "．": ". ",
        "—": " - ",
        "…": "...",
    }
)
"""cc_net/text_normalizer.py, UNICODE_PUNCT, without its full-width 1: digits are replaced before punctuation."""


class PerplexityError(ValueError):
    """A language model or its tokenizer is missing or damaged, or KenLM is not installed."""


class Perplexity:
    """Language models by language.

    Args:
        models: files by ISO 639 code.

    Raises:
        PerplexityError: KenLM is not installed, or a file is missing or of another kind; names the setting.
    """

    def __init__(self, models: Mapping[str, LanguageModelConfig]) -> None:
        try:
            import kenlm
        except ImportError:
            raise PerplexityError("perplexity needs KenLM: `pip install .[perplexity]`") from None
        self._models: dict[str, tuple[SentencePieceProcessor, Any]] = {}
        for language, files in models.items():
            tokenizer, model = model_files(language, files)
            settings = kenlm.Config()
            settings.show_progress = False
            settings.arpa_complain = kenlm.ARPALoadComplain.NONE
            settings.load_method = kenlm.LoadMethod.LAZY  # memory-mapped, so that processes share a binary file
            try:
                self._models[language] = (
                    SentencePieceProcessor(model_file=str(tokenizer)),
                    kenlm.Model(str(model), settings),
                )
            except (OSError, RuntimeError) as error:
                raise PerplexityError(
                    f"perplexity.{language}: {model} must be a model of KenLM (binary or ARPA) and {tokenizer} one of "
                    f"SentencePiece: {error}"
                ) from error

    def measure(
        self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], languages: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """Return the perplexity of each text under the model of its language; NaN if there is no model or no line.

        Args:
            data, offsets: text d is UTF-8 bytes [offsets[d], offsets[d + 1]).
            languages: language of each text.
        """
        found = np.full(len(languages), np.nan)
        for d, (start, stop) in enumerate(pairwise(offsets.tolist())):
            language = meant_for(languages[d], self._models)
            if language is not None:
                found[d] = self._of_text(data[start:stop].tobytes().decode(), *self._models[language])
        return found

    @staticmethod
    def _of_text(text: str, tokenizer: SentencePieceProcessor, model: Any) -> float:
        lines = plain_lines(text)
        if not lines:
            return math.nan
        pieces = tokenizer.encode(lines, out_type=str, num_threads=1)
        total = sum(model.score(" ".join(line)) for line in pieces)
        return float(10 ** (-total / sum(len(line) + 1 for line in pieces)))


def plain_lines(text: str) -> list[str]:
    """Return the normalised lines of a text that are not empty: each is a sentence of the models."""
    return [plain for line in text.split("\n") if (plain := normalize(line))]


def normalize(line: str) -> str:
    """Normalise a line: lower case, no accents, each digit 0, ASCII punctuation, no control characters, trimmed.

    Source: cc_net/text_normalizer.py, normalize.
    """
    line = unicodedata.normalize("NFD", line.strip().lower())
    line = "".join(character for character in line if unicodedata.category(character) != "Mn")
    return _CONTROL.sub("", _DIGIT.sub("0", line).translate(_PLAIN_PUNCTUATION)).strip()


def model_files(language: str, files: LanguageModelConfig) -> tuple[Path, Path]:
    """Return the paths of tokenizer and model of a language.

    Raises:
        PerplexityError: there is no such file; names the setting.
    """
    tokenizer, model = files.tokenizer.expanduser(), files.model.expanduser()
    for setting, path in (("tokenizer", tokenizer), ("model", model)):
        if not path.is_file():
            raise PerplexityError(f"perplexity.{language}.{setting}: there is no file {path}")
    return tokenizer, model
