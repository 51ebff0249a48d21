"""Streaming writer of a `.bin/.idx` pair: its memory does not grow with tokens, and takes 4 bytes per sequence."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from data_prep.indexed_dataset.format import (
    MAXIMUM_SEQUENCE_TOKENS,
    POINTER_DTYPE,
    SIZE_DTYPE,
    IndexHeader,
    TokenFileError,
    bin_path,
    idx_path,
    loss_mask_path,
    token_dtype,
)
from foundation.atomic_files import room_for, whole_file

_CHUNK = 1 << 20
"""Number of documents whose sizes, offsets and boundaries are converted at a time."""


class IndexedDatasetWriter:
    """Context manager that writes `<prefix>.bin`, `<prefix>.idx` and optionally a loss mask atomically.

    They are written under temporary names and renamed at the end, `.idx` last: if there is an `.idx`, its `.bin` is
    complete.

    Args:
        prefix: path without `.bin`.
        vocabulary_size: entries of the tokenizer; determines the token type, and ids outside it are refused.
        with_loss_mask: also write a loss mask; otherwise that of an earlier run is removed.
        with_digests: compute digests of the files.
        keep_first: existing files must have the same bytes and are kept, see `whole_file`.

    Attributes:
        documents, sequences, tokens: numbers written so far; a document is one sequence unless `groups` says otherwise.
        paths: the files; digests: SHA-256 of each after the `with` block, if `with_digests`.
    """

    digests: dict[Path, str]

    def __init__(
        self,
        prefix: Path,
        vocabulary_size: int,
        *,
        with_loss_mask: bool = False,
        with_digests: bool = True,
        keep_first: bool = False,
    ) -> None:
        self.prefix = prefix
        self.vocabulary_size = vocabulary_size
        self.dtype: np.dtype[Any] = token_dtype(vocabulary_size)
        self.documents = 0
        self.sequences = 0
        self.tokens = 0
        self._groups: list[npt.NDArray[np.int64]] = []
        self._full_chunks: list[npt.NDArray[np.int32]] = []
        self._chunk = np.empty(_CHUNK, SIZE_DTYPE)
        self._used = 0
        self.with_loss_mask = with_loss_mask
        # Exited in reverse order: the mask and .bin are closed and renamed before .idx.
        self.paths = [idx_path(prefix), bin_path(prefix), *([loss_mask_path(prefix)] if with_loss_mask else [])]
        self._hashes = {path: hashlib.sha256() for path in self.paths} if with_digests else {}
        self._files: dict[Path, BinaryIO] = {}
        self.keep_first = keep_first
        self._stack = ExitStack()

    def __enter__(self) -> IndexedDatasetWriter:
        with ExitStack() as stack:
            for path in self.paths:
                temporary = stack.enter_context(whole_file(path, keep_first=self.keep_first))
                self._files[path] = stack.enter_context(open(temporary, "wb", buffering=1 << 20))
            self._stack = stack.pop_all()
        return self

    def add_document(self, tokens: npt.NDArray[np.integer[Any]]) -> None:
        """Append a document, including its end-of-document token; [length], any integer type."""
        self.add_documents(tokens, np.array([len(tokens)]))

    def add_documents(
        self,
        tokens: npt.NDArray[np.integer[Any]],
        sizes: npt.NDArray[np.integer[Any]],
        loss_mask: npt.NDArray[np.bool_] | None = None,
        groups: npt.NDArray[np.integer[Any]] | None = None,
    ) -> None:
        """Append many documents at once.

        Args:
            tokens: the concatenated documents, [sum of sizes], any integer type.
            sizes: tokens of each sequence, [sequences], each at least 1.
            loss_mask: whether the loss counts each token, [sum of sizes]; left out: all.
            groups: number of sequences of each document, [documents], in every call or in none; left out: one.

        Raises:
            TokenFileError: an empty or overlong document, an id outside the vocabulary, or a mask that does not fit.
        """
        if len(sizes) == 0:
            return
        if int(sizes.sum()) != len(tokens):
            raise TokenFileError(f"{self.prefix}: {len(tokens)} tokens, but the sizes add up to {int(sizes.sum())}")
        shortest, longest = int(sizes.min()), int(sizes.max())
        if shortest < 1:
            raise TokenFileError(
                f"{self.prefix}: document {self.documents + int(sizes.argmin())} has {shortest} tokens; "
                "even an empty one has its end-of-document token"
            )
        if longest > MAXIMUM_SEQUENCE_TOKENS:
            raise TokenFileError(
                f"{self.prefix}: document {self.documents + int(sizes.argmax())} has {longest} tokens; "
                f"the format counts to {MAXIMUM_SEQUENCE_TOKENS}"
            )
        lowest, highest = int(tokens.min()), int(tokens.max())
        if lowest < 0 or highest >= self.vocabulary_size:
            wrong = lowest if lowest < 0 else highest
            raise TokenFileError(
                f"{self.prefix}: token id {wrong} among documents {self.documents} to "
                f"{self.documents + len(sizes)} is outside the vocabulary [0, {self.vocabulary_size})"
            )
        if loss_mask is not None and not (self.with_loss_mask and len(loss_mask) == len(tokens)):
            raise TokenFileError(f"{self.prefix}: a loss mask of {len(loss_mask)} entries for {len(tokens)} tokens")
        self._write(bin_path(self.prefix), np.ascontiguousarray(tokens, dtype=self.dtype).data.cast("B"))
        if self.with_loss_mask:
            counted = np.ones(len(tokens), np.bool_) if loss_mask is None else np.ascontiguousarray(loss_mask)
            self._write(loss_mask_path(self.prefix), counted.data.cast("B"))
        self._add_sizes(sizes)
        if groups is not None:
            assert int(groups.sum()) == len(sizes)
            self._groups.append(np.asarray(groups, np.int64))
        self.documents += len(sizes) if groups is None else len(groups)
        self.sequences += len(sizes)
        self.tokens += len(tokens)

    def _add_sizes(self, sizes: npt.NDArray[np.integer[Any]]) -> None:
        start = 0
        while start < len(sizes):
            if self._used == _CHUNK:
                self._full_chunks.append(self._chunk)
                self._chunk, self._used = np.empty(_CHUNK, SIZE_DTYPE), 0
            stop = min(len(sizes), start + _CHUNK - self._used)
            self._chunk[self._used : self._used + stop - start] = sizes[start:stop]
            self._used += stop - start
            start = stop

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._finish()
            except BaseException as failure:
                self._stack.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._stack.__exit__(kind, error, trace)

    def _finish(self) -> None:
        if self.documents == 0:
            # An empty .bin cannot be mapped into memory, here or in Megatron.
            raise TokenFileError(f"{self.prefix}: no documents were written; a token file has at least one")
        self._write_index()
        if not self.keep_first:
            # An index of an earlier run must not exist beside the new .bin, not even between two renames.
            idx_path(self.prefix).unlink(missing_ok=True)
            loss_mask_path(self.prefix).unlink(missing_ok=True)
        self.digests = {path: hashed.hexdigest() for path, hashed in self._hashes.items()}

    def _write(self, path: Path, data: bytes | memoryview) -> None:
        if path in self._hashes:
            self._hashes[path].update(data)
        with room_for(path):
            self._files[path].write(data)

    def _write_index(self) -> None:
        write = partial(self._write, idx_path(self.prefix))
        chunks = [*self._full_chunks, self._chunk[: self._used]]
        write(IndexHeader(self.dtype, self.sequences, self.documents).pack())
        for sizes in chunks:
            write(sizes.tobytes())
        offset = 0
        for sizes in chunks:
            ends = np.cumsum(sizes, dtype=POINTER_DTYPE)
            starts = ends - sizes
            write(((starts + offset) * self.dtype.itemsize).astype(POINTER_DTYPE).tobytes())
            offset += int(ends[-1])
        if self._groups:
            bounds = np.concatenate([[0], np.cumsum(np.concatenate(self._groups))])
            assert len(bounds) == self.documents + 1, "groups are given in every call or in none"
            write(bounds.astype(POINTER_DTYPE).tobytes())
            return
        for start in range(0, self.documents + 1, _CHUNK):
            stop = min(start + _CHUNK, self.documents + 1)
            write(np.arange(start, stop, dtype=POINTER_DTYPE).tobytes())
