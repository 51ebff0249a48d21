"""Origins of the documents of a token file: `<prefix>.origins.npy` beside `<prefix>.bin`.

An int64 for each document in the order of the file: number of its shard << 32 | its row in the shard. Together with the
name of the source this is the document's id, by which text, URL and signals are found. In packed files it is one for
each sequence, -1 for padding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.indexed_dataset.format import TokenFileError
from foundation.atomic_files import NewFile, whole_file, write_array

PADDING = -1
"""Origin of padding."""
_IDENTITY = re.compile(r".+-(\d+)/(\d+)")


def origins_path(prefix: Path) -> Path:
    """Return `<prefix>.origins.npy`; the prefix may contain dots."""
    return Path(f"{prefix}.origins.npy")


def pack(identities: Iterable[str]) -> npt.NDArray[np.int64]:
    """Encode ids, `<source>-<shard>/<row>`, as numbers."""
    shards: dict[str, int] = {}
    packed = []
    for identity in identities:
        shard, _, row = identity.rpartition("/")
        if shard not in shards or not row.isdecimal():
            match = _IDENTITY.fullmatch(identity)
            if match is None:
                raise ValueError(f"document id {identity!r} is not of the form <source>-<shard>/<row>")
            shards[shard] = int(match[1]) << 32
        packed.append(shards[shard] | int(row))
    return np.array(packed, np.int64)


def write_origins(prefix: Path, packed: npt.NDArray[np.int64], new_file: NewFile = whole_file) -> Path:
    """Write the file of a prefix atomically."""
    path = origins_path(prefix)
    write_array(path, packed, new_file)
    return path


class Origins:
    """Ids of the documents of a token file.

    Args:
        prefix: path of the token file, without `.bin`.
        source: name of the source of the file.
        documents: number of documents in the token file.

    Raises:
        TokenFileError: there is no such file, or it belongs to another token file.
    """

    def __init__(self, prefix: Path, source: str, documents: int) -> None:
        path = origins_path(prefix)
        if not path.is_file():
            raise TokenFileError(f"{path}: no such file; only `altiplano data tokenize` writes it")
        self.source = source
        self.packed: npt.NDArray[np.int64] = np.load(path, mmap_mode="r")
        if len(self.packed) != documents:
            raise TokenFileError(f"{path}: {len(self.packed)} documents, but the token file beside it has {documents}")

    def identity(self, document: int) -> str | None:
        """Return the id of a document, as in the corpus, the ledger and `why`; None for padding."""
        packed = int(self.packed[document])
        if packed == PADDING:
            return None
        return f"{self.source}-{packed >> 32:05d}/{packed & 0xFFFFFFFF:07d}"
