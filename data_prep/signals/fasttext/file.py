"""Reading and checking of fastText model files: fastText itself hangs on a truncated one.

Layout, little-endian, version 12: magic and version; 12 settings of 32 bits and one of 64; the dictionary (sizes, then
entries of a zero-terminated word, 64-bit count and 8-bit type, then pairs of 32 bits of pruned ones); a flag and the
input matrix; a flag and the output matrix. A flagged matrix is quantised. Source: fastText's `saveModel`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

MAGIC = 793712314
VERSIONS = (11, 12)
HIERARCHICAL_SOFTMAX, SOFTMAX = 1, 3
SUPERVISED = 3
_CENTROIDS = 256


@dataclass(frozen=True)
class FastTextFile:
    """Content of a model file."""

    dimension: int
    word_grams: int
    loss: int
    model: int
    buckets: int
    shortest_gram: int
    longest_gram: int
    words: tuple[bytes, ...]
    labels: tuple[bytes, ...]
    label_counts: npt.NDArray[np.int64]
    pruned: npt.NDArray[np.int32] | None
    """Pairs of a bucket and its row, `int32[buckets kept, 2]`; None: every bucket has its own row."""
    inputs: npt.NDArray[np.float32]
    """`float32[words and buckets, dimension]`, dequantised."""
    outputs: npt.NDArray[np.float32]
    """`float32[labels or inner nodes, dimension]`"""


class _Walk:
    """Reading position in the file's bytes, with a check for their end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, layout: str) -> tuple[int, ...]:
        start = self.at
        self.skip(struct.calcsize("<" + layout))
        return struct.unpack_from("<" + layout, self.data, start)

    def skip(self, size: int) -> None:
        if size < 0 or self.at + size > len(self.data):
            raise ValueError(f"it ends after {len(self.data)} bytes, in the middle of the model")
        self.at += size

    def array(self, type_: str, count: int) -> npt.NDArray[np.generic]:
        start = self.at
        self.skip(count * np.dtype(type_).itemsize)
        return np.frombuffer(self.data, type_, count, start)

    def entry(self) -> tuple[bytes, int, int]:
        start = self.at
        zero = self.data.find(0, start)
        self.skip((zero if zero >= 0 else len(self.data)) + 1 - start)
        count, kind = self.take("qb")
        return self.data[start:zero], count, kind

    def matrix(self, is_quantised: int) -> npt.NDArray[np.float32]:
        if not is_quantised:
            rows, columns = self.take("qq")
            return self.array("<f4", rows * columns).reshape(rows, columns).astype(np.float32, copy=False)
        has_norms, rows, columns, size = self.take("?qqi")
        codes = self.array("u1", size)
        restored = self._restored(codes, rows, columns)
        if has_norms:
            restored *= self._restored(self.array("u1", rows), rows, 1)
        return restored

    def _restored(self, codes: npt.NDArray[np.generic], rows: int, columns: int) -> npt.NDArray[np.float32]:
        """Read a quantised matrix: each row is several parts, each a code of one of the part's 256 vectors."""
        dimension, parts, width, last_width = self.take("iiii")
        centroids = self.array("<f4", dimension * _CENTROIDS)
        if dimension != columns or len(codes) != rows * parts or (parts - 1) * width + last_width != dimension:
            raise ValueError(f"a quantised matrix of {rows} x {columns} cannot be {parts} parts of {width} columns")
        table = codes.reshape(rows, parts).astype(np.int64)
        restored = np.empty((rows, columns), dtype=np.float32)
        for part in range(parts):
            start = part * width
            size = last_width if part == parts - 1 else width
            vectors = centroids[start * _CENTROIDS : (start + size) * _CENTROIDS].reshape(_CENTROIDS, size)
            restored[:, start : start + size] = vectors[table[:, part]]
        return restored


def read_fasttext_file(path: Path) -> FastTextFile:
    """Read a model.

    Raises:
        ValueError: it is not a fastText model, of another version, or incomplete.
    """
    walk = _Walk(path.read_bytes())
    if len(walk.data) < 8:
        raise ValueError(f"it has {len(walk.data)} bytes")
    magic, version = walk.take("ii")
    if magic != MAGIC:
        raise ValueError("it does not begin as one")
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}, fastText reads {VERSIONS[0]} and {VERSIONS[1]}")
    dimension, _, _, _, _, word_grams, loss, model, buckets, shortest, longest, _, _ = walk.take("12id")
    if version == VERSIONS[0] and model == SUPERVISED:
        longest = 0  # as fastText does: these were trained without n-grams of characters
    entries, _, _, _, pruned = walk.take("iiiqq")
    words, labels, counts = [], [], []
    for _ in range(entries):
        word, count, is_label = walk.entry()
        if is_label:
            labels.append(word)
            counts.append(count)
        else:
            words.append(word)
    pairs = walk.array("<i4", 2 * pruned).reshape(-1, 2).astype(np.int32) if pruned >= 0 else None
    (is_quantised,) = walk.take("?")
    inputs = walk.matrix(is_quantised)
    (is_quantised,) = walk.take("?")
    outputs = walk.matrix(is_quantised)
    if walk.at != len(walk.data):
        raise ValueError(f"{len(walk.data) - walk.at} bytes follow the model")
    return FastTextFile(
        dimension,
        word_grams,
        loss,
        model,
        buckets,
        shortest,
        longest,
        tuple(words),
        tuple(labels),
        np.array(counts, dtype=np.int64),
        pairs,
        inputs,
        outputs,
    )
