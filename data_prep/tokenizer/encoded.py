"""What every tokenizer has, and what every encoder takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

UNKNOWN, BEGIN, END_OF_DOCUMENT, PAD = "<unk>", "<s>", "</s>", "<pad>"
"""Names of the control entries; `</s>` ends a document."""

SPACE = "\u2581"
"""What stands for a space in a piece of SentencePiece's."""


def reserved_names(count: int) -> tuple[str, ...]:
    """Names of the reserved entries, which later training may give a meaning."""
    return tuple(f"<|reserved_{i}|>" for i in range(count))


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

    @property
    def vocabulary_size(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> Encoded: ...
