"""What every encoder takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


class TokenizerError(ValueError):
    """A tokenizer cannot be made, or cannot be used for token files."""


@dataclass(frozen=True)
class Encoded:
    """Documents one after another; every one ends with the end-of-document token.

    tokens: uint32, [sum of sizes]; sizes: int64, [documents].
    """

    tokens: npt.NDArray[np.uint32]
    sizes: npt.NDArray[np.int64]


class Encoder(Protocol):
    """Documents to tokens, an end-of-document token behind each."""

    name: str
    end_of_document: int
    vocabulary_size: int

    def encode(self, texts: Sequence[str]) -> Encoded: ...
