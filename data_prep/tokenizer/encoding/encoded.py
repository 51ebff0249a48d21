"""Common parts of tokenizers, and the input and output of encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, overload

import numpy as np
import numpy.typing as npt

from data_prep.kernels.kernel import read_only

UNKNOWN, BEGIN, END_OF_DOCUMENT, PAD = "<unk>", "<s>", "</s>", "<pad>"
"""Names of the control entries; `</s>` ends a document."""

SPACE = "\u2581"
"""Character that represents a space in SentencePiece's pieces."""


def reserved_names(count: int) -> tuple[str, ...]:
    """Return the names of the reserved entries, for use in later training."""
    return tuple(f"<|reserved_{i}|>" for i in range(count))


class TokenizerError(ValueError):
    """A tokenizer cannot be trained, or cannot be used for token files."""


class Texts(Sequence[str]):
    """Documents as concatenated UTF-8, as in an Arrow string column; a document becomes a `str` only when accessed.

    Attributes:
        data: uint8, read only; there may be more bytes before the first document and after the last.
        offsets: int64, [documents + 1]: document i is bytes [offsets[i], offsets[i + 1]).
    """

    def __init__(self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> None:
        self.data = read_only(data)
        self.offsets = read_only(offsets)

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        return texts if isinstance(texts, Texts) else cls.of_bytes([text.encode() for text in texts])

    @classmethod
    def of_bytes(cls, documents: Sequence[bytes | memoryview]) -> Texts:
        offsets = np.zeros(len(documents) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, documents), np.int64, len(documents)), out=offsets[1:])
        return cls(np.frombuffer(b"".join(documents), np.uint8), offsets)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Bytes of each document."""
        return np.diff(self.offsets)

    def as_bytes(self) -> list[memoryview]:
        """Each document, not copied."""
        data = self.data.data
        return [data[start:stop] for start, stop in pairwise(self.offsets.tolist())]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> Texts: ...
    def __getitem__(self, i: int | slice) -> str | Texts:
        if isinstance(i, slice):
            start, stop, _ = i.indices(len(self))
            return Texts(self.data, self.offsets[start : max(start, stop) + 1])
        i = range(len(self))[i]
        return str(self.data[self.offsets[i] : self.offsets[i + 1]].data, "utf-8")


@dataclass(frozen=True)
class Encoded:
    """Concatenated documents, each with an end-of-document token at its end.

    tokens: uint32, [sum of sizes]; sizes: int64, [documents].
    """

    tokens: npt.NDArray[np.uint32]
    sizes: npt.NDArray[np.int64]


class PlainEncoder(Protocol):
    """Encoder of documents to tokens, with an end-of-document token after each."""

    name: str

    def encode(self, texts: Sequence[str]) -> Encoded: ...


class Encoder(PlainEncoder, Protocol):
    """Encoder that token files are written with."""

    end_of_document: int

    @property
    def vocabulary_size(self) -> int: ...

    def continuing(self) -> Encoder:
        """Return the encoder of texts that continue a text: without the prefix that is put before a text."""
