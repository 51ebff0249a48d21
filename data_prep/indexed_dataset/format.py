"""The byte layout of Megatron's `.bin/.idx` pair.

`.bin` is the flat stream of token ids. `.idx` is, in little-endian order:

    9 bytes   magic `MMIDIDX\\0\\0`
    8 bytes   version, 1
    1 byte    code of the token type
    8 bytes   S, number of sequences
    8 bytes   D + 1, where D is the number of documents
    4 S       tokens of each sequence, int32
    8 S       byte offset of each sequence in `.bin`, int64
    8 (D + 1) first sequence of each document, int64; the last entry is S

In files of ours a document is one sequence. In packed ones it is a pack, whose sequences are conversations and at last
padding, and every pack has the same number of tokens, the last one more. A third section of S int8 "modes" exists in
multimodal files only.

`.loss_mask` is our addition, if the loss excludes some tokens: a byte for each token of `.bin`, 1 if the loss counts
its prediction, else 0.

Source: megatron-core 0.16.1, `megatron/core/datasets/indexed_dataset.py`, with which tests compare this.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
HEADER_BYTES = _HEADER.size

SIZE_DTYPE = np.dtype("<i4")
POINTER_DTYPE = np.dtype("<i8")
MAXIMUM_SEQUENCE_TOKENS = int(np.iinfo(SIZE_DTYPE).max)

TOKEN_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<u1"),
    2: np.dtype("<i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    8: np.dtype("<u2"),
}
"""Integer token types by their code; codes 6 and 7 are floating point, which token streams do not use."""


class TokenFileError(ValueError):
    """A `.bin/.idx` pair is damaged, incomplete or of an unknown kind; the message names the file and the values."""


def bin_path(prefix: Path) -> Path:
    """Return `<prefix>.bin`; the prefix may contain dots (`wiki.heldout`)."""
    return Path(f"{prefix}.bin")


def idx_path(prefix: Path) -> Path:
    """Return `<prefix>.idx`."""
    return Path(f"{prefix}.idx")


def loss_mask_path(prefix: Path) -> Path:
    """Return `<prefix>.loss_mask`."""
    return Path(f"{prefix}.loss_mask")


def token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """Return the type of a token: uint16 below 65,500 entries, else int32.

    Megatron's limit is 65,500 and not 65,536; its readers do not depend on it, but tools compare bytes.
    """
    if vocabulary_size < 1:
        raise ValueError(f"vocabulary_size {vocabulary_size} must be positive")
    return np.dtype("<u2") if vocabulary_size < 65_500 else np.dtype("<i4")


@dataclass(frozen=True)
class IndexHeader:
    """The fixed part of an `.idx` file."""

    dtype: np.dtype[Any]
    sequences: int
    documents: int

    def pack(self) -> bytes:
        code = next(code for code, dtype in TOKEN_DTYPES.items() if dtype == self.dtype)
        return _HEADER.pack(MAGIC, VERSION, code, self.sequences, self.documents + 1)

    @property
    def sizes_offset(self) -> int:
        return HEADER_BYTES

    @property
    def pointers_offset(self) -> int:
        return self.sizes_offset + self.sequences * SIZE_DTYPE.itemsize

    @property
    def documents_offset(self) -> int:
        return self.pointers_offset + self.sequences * POINTER_DTYPE.itemsize

    @property
    def file_bytes(self) -> int:
        """Size of the `.idx` file."""
        return self.documents_offset + (self.documents + 1) * POINTER_DTYPE.itemsize


def read_header(path: Path) -> IndexHeader:
    """Read the header of an `.idx` file and check it against the size of the file.

    Raises:
        TokenFileError: not an index, another version, an unknown token type, or more or fewer bytes than it announces.
    """
    file_bytes = path.stat().st_size
    with open(path, "rb") as stream:
        head = stream.read(HEADER_BYTES)
    if head[: len(MAGIC)] != MAGIC[: len(head)] or not head:
        raise TokenFileError(
            f"{path}: not a Megatron index: begins with {head[: len(MAGIC)]!r} where {MAGIC!r} belongs"
        )
    if len(head) < HEADER_BYTES:
        raise TokenFileError(f"{path}: truncated: {file_bytes} bytes, the header alone takes {HEADER_BYTES}")
    _, version, code, sequences, documents_and_one = _HEADER.unpack(head)
    if version != VERSION:
        raise TokenFileError(f"{path}: index version {version}; only version {VERSION} is known")
    if code not in TOKEN_DTYPES:
        known = ", ".join(f"{code} {dtype.name}" for code, dtype in TOKEN_DTYPES.items())
        raise TokenFileError(f"{path}: unknown token type {code}; known are {known}")
    if documents_and_one == 0:
        raise TokenFileError(f"{path}: announces 0 document boundaries; even an index without documents has 1")
    header = IndexHeader(TOKEN_DTYPES[code], sequences, documents_and_one - 1)
    if file_bytes == header.file_bytes + sequences and sequences:
        raise TokenFileError(f"{path}: a multimodal index (it has a mode for each sequence); only text is supported")
    if file_bytes != header.file_bytes:
        damage = "truncated" if file_bytes < header.file_bytes else "too long"
        raise TokenFileError(
            f"{path}: {damage}: {file_bytes} bytes, but {sequences} sequences and {header.documents} documents "
            f"take {header.file_bytes}"
        )
    return header
