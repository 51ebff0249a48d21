"""Reader of a `.bin/.idx` pair through memory maps; opening takes the same time for a thousand tokens as for a
trillion."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import weakref
from bisect import bisect_right
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.indexed_dataset.format import (
    POINTER_DTYPE,
    SIZE_DTYPE,
    TokenFileError,
    bin_path,
    idx_path,
    loss_mask_path,
    read_header,
)
from data_prep.indexed_dataset.withdrawn import Withdrawn, withdrawn_path

_CHECKED_ON_OPENING = 1 << 22
"""Largest number of sequences whose whole index is checked on opening (some 20 ms); of a larger one, only its ends
are."""

_CHUNK = 1 << 22


class IndexedDataset:
    """Documents of a token file, and the flat stream of their tokens.

    A document is the sequences between two document boundaries: one in our files, one or more in others'. Returned
    arrays are read-only views of the file; nothing is loaded into memory.

    Args:
        prefix: path without `.bin`.
        is_packed: the documents of the file are packs, see `data_prep/conversations/packing.py`: its sequences, which
            are conversations and padding, are taken as documents.

    Raises:
        TokenFileError: a file is missing, truncated, or does not match the other one.
    """

    def __init__(self, prefix: Path, *, is_packed: bool = False) -> None:
        self.prefix = Path(prefix)
        self.is_packed = is_packed
        index, data = idx_path(self.prefix), bin_path(self.prefix)
        for path in (index, data):
            if not path.is_file():
                raise TokenFileError(f"{path}: no such file; a dataset is a pair of {data.name} and {index.name}")
        header = read_header(index)
        self.dtype: np.dtype[Any] = header.dtype
        self._documents = header.documents
        # One map for its three parts: a process may have 65,530 maps, and there may be thousands of datasets.
        content = _map(index, np.dtype(np.uint8), header.file_bytes)
        self.sequence_sizes: npt.NDArray[np.int32] = np.frombuffer(
            content, SIZE_DTYPE, header.sequences, header.sizes_offset
        )
        """Number of tokens of each sequence, [sequences]."""
        self._pointers = np.frombuffer(content, POINTER_DTYPE, header.sequences, header.pointers_offset)
        self.document_bounds: npt.NDArray[np.int64] = np.frombuffer(
            content, POINTER_DTYPE, header.documents + 1, header.documents_offset
        )
        """First sequence of each document, followed by the number of sequences, [documents + 1]."""
        self._bin_bytes = data.stat().st_size
        self._check_ends()
        if header.sequences <= _CHECKED_ON_OPENING:
            self.check_index()
        self.packs = self._documents if is_packed else 0
        """Number of packs."""
        if is_packed:
            self._documents = header.sequences
            self.document_bounds = np.arange(header.sequences + 1)
        self.token_count = self._bin_bytes // self.dtype.itemsize
        self._tokens = _map(data, self.dtype, self.token_count)
        self._loss_mask: npt.NDArray[np.bool_] | None = None
        mask = loss_mask_path(self.prefix)
        if mask.is_file():
            if mask.stat().st_size != self.token_count:
                raise TokenFileError(
                    f"{mask}: {mask.stat().st_size} bytes, but {data.name} has {self.token_count} tokens, each with a "
                    "byte there; one of them belongs to other token files"
                )
            self._loss_mask = _map(mask, np.dtype(np.bool_), self.token_count)
        self.withdrawn = Withdrawn.read(self.prefix)
        """Documents that were taken out; None: there are none."""
        if self.withdrawn and len(self.withdrawn.ranges) and self.withdrawn.ranges[-1, 1] > self.token_count:
            raise TokenFileError(
                f"{withdrawn_path(self.prefix)}: lists tokens up to {self.withdrawn.ranges[-1, 1]}, but {data.name} "
                f"has {self.token_count}; one of them belongs to other token files"
            )

    def __len__(self) -> int:
        """Number of documents."""
        return self._documents

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Number of tokens of each document, [documents], computed on each call."""
        totals = np.zeros(len(self.sequence_sizes) + 1, np.int64)
        np.cumsum(self.sequence_sizes, out=totals[1:])
        return np.diff(totals[self.document_bounds])

    def document(self, i: int) -> npt.NDArray[Any]:
        """Return the tokens of document `i`, including its end-of-document token."""
        start, stop = self.document_range(i)
        return self._tokens[start:stop]

    def document_range(self, i: int) -> tuple[int, int]:
        """Return the range of document `i` in the stream: tokens [start, stop)."""
        if not 0 <= i < self._documents:
            raise IndexError(f"{self.prefix}: no document {i}; there are {self._documents}")
        return self._sequence_start(int(self.document_bounds[i])), self._sequence_start(
            int(self.document_bounds[i + 1])
        )

    def starts(self, documents: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the first token of each of these documents, none of which is empty."""
        return self._pointers[self.document_bounds[documents]] // self.dtype.itemsize

    def starts_of_sequences(self, sequences: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the first token of each of these sequences."""
        return self._pointers[sequences].astype(np.int64) // self.dtype.itemsize

    def tokens(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return tokens [start, stop) of the stream, across documents."""
        if not 0 <= start <= stop <= self.token_count:
            raise IndexError(f"{self.prefix}: no tokens [{start}, {stop}); there are {self.token_count}")
        return self._tokens[start:stop]

    @property
    def has_mask_file(self) -> bool:
        """Whether there is a loss mask beside the tokens."""
        return self._loss_mask is not None

    @property
    def has_loss_mask(self) -> bool:
        """Whether some of the tokens may not count in the loss."""
        return self.has_mask_file or self.withdrawn is not None

    def loss_mask(self, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Return whether the loss counts the prediction of each of the tokens [start, stop): what the mask says, all
        True without one, and False for documents that were taken out."""
        counted = np.ones(stop - start, np.bool_) if self._loss_mask is None else self._loss_mask[start:stop]
        return counted if self.withdrawn is None else self.withdrawn.without(counted, start)

    def document_at(self, token: int) -> int:
        """Return the document that contains this token of the stream, in logarithmic time."""
        if not 0 <= token < self.token_count:
            raise IndexError(f"{self.prefix}: no token {token}; there are {self.token_count}")
        # bisect and not np.searchsorted: the maps are not aligned to 8 bytes, so numpy would copy all of them.
        sequence = bisect_right(self._pointers, token * self.dtype.itemsize) - 1
        return bisect_right(self.document_bounds, sequence) - 1

    def document_starts(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the first tokens of the documents that begin in [start, stop), in order; an empty document has
        none."""
        if start >= stop:
            return np.empty(0, np.int64)
        bounds = self.document_bounds[self.document_at(start) : self.document_at(stop - 1) + 1].astype(np.int64)
        pointers = self._pointers[bounds[0] : bounds[-1] + 1].astype(np.int64)
        starts = np.unique(pointers[bounds - bounds[0]] // self.dtype.itemsize)
        return starts[starts >= start]

    def check_index(self) -> None:
        """Check every entry of the index: sizes add up to `.bin`, offsets follow from sizes, boundaries ascend.

        Raises:
            TokenFileError: an entry is wrong; names the file, the first such entry, and what would be right.
        """
        index, count, item = idx_path(self.prefix), len(self.sequence_sizes), self.dtype.itemsize
        offset = 0
        for start in range(0, count, _CHUNK):
            sizes = self.sequence_sizes[start : start + _CHUNK].astype(np.int64)
            if sizes.min() < 0:
                wrong = start + int(sizes.argmin())
                raise TokenFileError(f"{index}: sequence {wrong} has {int(sizes.min())} tokens")
            ends = np.cumsum(sizes) * item + offset
            right = ends - sizes * item
            differs = np.flatnonzero(self._pointers[start : start + _CHUNK] != right)
            if len(differs):
                wrong = int(differs[0])
                raise TokenFileError(
                    f"{index}: sequence {start + wrong} begins at byte "
                    f"{int(self._pointers[start + wrong])}, but the sizes before it add up to {int(right[wrong])}"
                )
            offset = int(ends[-1])
        if offset != self._bin_bytes:
            raise TokenFileError(
                f"{index}: its sizes add up to {offset // item} tokens, {offset} bytes, but "
                f"{bin_path(self.prefix)} has {self._bin_bytes} bytes"
            )
        for start in range(0, self._documents, _CHUNK):
            bounds = self.document_bounds[start : start + _CHUNK + 1]
            descends = np.flatnonzero(np.diff(bounds) < 0)
            if len(descends):
                wrong = start + int(descends[0])
                raise TokenFileError(
                    f"{index}: document {wrong} ends at sequence {int(self.document_bounds[wrong + 1])}, "
                    f"before its beginning, {int(self.document_bounds[wrong])}"
                )

    def _check_ends(self) -> None:
        index, data, count = idx_path(self.prefix), bin_path(self.prefix), len(self.sequence_sizes)
        first, last = int(self.document_bounds[0]), int(self.document_bounds[-1])
        if (first, last) != (0, count):
            raise TokenFileError(f"{index}: its documents span sequences [{first}, {last}) where [0, {count}) is right")
        right = int(self._pointers[-1]) + int(self.sequence_sizes[-1]) * self.dtype.itemsize if count else 0
        if self._bin_bytes != right:
            damage = "truncated" if self._bin_bytes < right else "too long"
            raise TokenFileError(
                f"{data}: {damage}: {self._bin_bytes} bytes, but by {index.name} its {right // self.dtype.itemsize} "
                f"tokens of type {self.dtype.name} take {right}"
            )

    def _sequence_start(self, sequence: int) -> int:
        if sequence == len(self._pointers):
            return self.token_count
        return int(self._pointers[sequence]) // self.dtype.itemsize


def _map(path: Path, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    if count == 0:  # an empty range cannot be mapped
        return np.empty(0, dtype)
    # Not np.memmap: its slicing takes ten times as long, and it keeps the file open, of which there may be thousands.
    size = count * dtype.itemsize
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < size:
            raise TokenFileError(f"{path}: has less than {size:,} bytes")
        address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        reason = os.strerror(number)
        if number == errno.ENOMEM:
            reason += "; this process may have mapped as many files as the system allows, see `sysctl vm.max_map_count`"
        raise OSError(number, reason, str(path))
    content = (ctypes.c_uint8 * size).from_address(address)
    # Not at exit: a thread that makes batches may still be reading then, and the system unmaps it anyway.
    weakref.finalize(content, _LIBC.munmap, address, size).atexit = False
    array = np.frombuffer(memoryview(content), dtype, count)
    array.flags.writeable = False
    return array


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
