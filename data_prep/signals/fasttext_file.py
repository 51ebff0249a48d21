"""Whether a file holds a whole fastText model, checked before fastText reads it: of a truncated one it never returns.

Layout, little-endian, version 12: magic and version; 12 settings of 32 bits and one of 64; the dictionary (sizes, then
entries of a zero-terminated word, 64-bit count and 8-bit type, then pairs of 32 bits of pruned ones); a flag and the
input matrix; a flag and the output matrix. A flagged matrix is quantised. Source: fastText's `saveModel`.
"""

from __future__ import annotations

import struct
from pathlib import Path

MAGIC = 793712314
VERSIONS = (11, 12)


class _Walk:
    """A position in the file's bytes that cannot pass their end."""

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

    def skip_entries(self, count: int) -> None:
        for _ in range(count):
            zero = self.data.find(0, self.at)
            self.skip((zero if zero >= 0 else len(self.data)) + 1 + 8 + 1 - self.at)

    def skip_matrix(self, is_quantised: int) -> None:
        if not is_quantised:
            rows, columns = self.take("qq")
            self.skip(rows * columns * 4)
            return
        has_norms, rows, _, codes = self.take("?qqi")
        self.skip(codes)
        self._skip_quantiser()
        if has_norms:
            self.skip(rows)
            self._skip_quantiser()

    def _skip_quantiser(self) -> None:
        dimension, _, _, _ = self.take("iiii")
        self.skip(dimension * 256 * 4)


def check_fasttext_file(path: Path) -> None:
    """Walk through the parts of the model.

    Raises:
        ValueError: it is no fastText model, of another version, or not whole; says which.
    """
    walk = _Walk(path.read_bytes())
    if len(walk.data) < 8:
        raise ValueError(f"it has {len(walk.data)} bytes")
    magic, version = walk.take("ii")
    if magic != MAGIC:
        raise ValueError("it does not begin as one")
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}, fastText reads {VERSIONS[0]} and {VERSIONS[1]}")
    walk.take("12id")
    entries, _, _, _, pruned = walk.take("iiiqq")
    walk.skip_entries(entries)
    walk.skip(8 * max(pruned, 0))
    for _ in range(2):
        (is_quantised,) = walk.take("?")
        walk.skip_matrix(is_quantised)
    if walk.at != len(walk.data):
        raise ValueError(f"{len(walk.data) - walk.at} bytes follow the model")
