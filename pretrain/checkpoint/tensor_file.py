"""Tensors of a safetensors file, read on demand, however large the file is.

The library checks the header. It would also read the tensors, through a mapping that it could write to, which Linux
refuses for a file that is larger than the machine's memory, although nothing is written
(https://docs.kernel.org/mm/overcommit-accounting.html, mode 0). Here the mapping is for reading only.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of the format (https://huggingface.co/docs/safetensors, "Format")."""


class TensorFile:
    """The tensors of a file, by the methods of safetensors' `safe_open`; each is a copy.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            with safe_open(path, framework="np"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged: {error}") from None
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self._header: dict[str, Any] = json.loads(file.read(length))
        self._header.pop("__metadata__", None)
        self._bytes = np.memmap(path, np.uint8, "r", offset=8 + length) if self._header else np.empty(0, np.uint8)
        self._path = path

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return list(self._header)

    def get_tensor(self, name: str) -> torch.Tensor:
        """A whole tensor."""
        rows = self.get_slice(name)
        return rows.read(0, rows.size)

    def get_slice(self, name: str) -> TensorRows:
        """A tensor of which rows are read.

        Raises:
            ValueError: it has a dtype that torch has not.
        """
        entry = self._header[name]
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{self._path}: {name}: dtype {entry['dtype']} is not supported")
        start, stop = entry["data_offsets"]
        return TensorRows(self._bytes[start:stop], tuple(entry["shape"]), entry["dtype"])


class TensorRows:
    """A tensor in a file: `rows[a:b]` are its rows [a, b) along dim 0."""

    def __init__(self, content: np.ndarray[Any, np.dtype[np.uint8]], shape: tuple[int, ...], dtype: str) -> None:
        self._content = content
        self._shape = shape
        self._dtype = dtype

    @property
    def size(self) -> int:
        """Number of rows; 1 of a single number, which has none."""
        return self._shape[0] if self._shape else 1

    def get_shape(self) -> list[int]:
        """Shape of the whole tensor."""
        return list(self._shape)

    def get_dtype(self) -> str:
        """Its dtype by the name of the format."""
        return self._dtype

    def __getitem__(self, rows: slice) -> torch.Tensor:
        start, stop, step = rows.indices(self.size)
        if step != 1:
            raise ValueError(f"rows in steps of {step}: only of 1")
        return self.read(start, max(start, stop))

    def read(self, start: int, stop: int, into: torch.Tensor | None = None) -> torch.Tensor:
        """Rows [start, stop).

        Args:
            into: where to put them: contiguous, of their dtype and number of elements; None: a new tensor.
        """
        inner = self._shape[1:]
        result = into
        if result is None:
            result = torch.empty((stop - start, *inner) if self._shape else (), dtype=DTYPES[self._dtype])
        assert result.dtype == DTYPES[self._dtype] and result.is_contiguous()
        row = math.prod(inner) * result.itemsize
        if result.numel():
            result.view(-1).view(torch.uint8).numpy()[:] = self._content[start * row : stop * row]
        return result
