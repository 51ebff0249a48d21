"""Tensors in files that `torch.save` wrote, read by torch's restricted unpickler, which runs no code of theirs."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import KeysView, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tools.hugging_face.files import SAFETENSORS_NAMES


def read_pickle(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """Content of a file. Its tensors stay in the file until they are used, but for those of torch before 1.6.

    Args:
        allowed: what it may contain beside tensors and containers, see `torch.serialization.safe_globals`.

    Raises:
        ValueError: the file is damaged, or contains something else.
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: damaged, or a pickle of more than tensors, which is refused: {reason}") from None


def tensors_of(content: Any, place: str) -> Mapping[str, torch.Tensor]:
    """What was read, if it is tensors by name.

    Args:
        place: where it is from, for messages.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f"{place}: must contain tensors by name and nothing else")
    return content


class PickledTensors:
    """The tensors of a file, by the methods of safetensors' `safe_open`.

    Raises:
        ValueError: the file is damaged, or contains more than tensors by name.
    """

    def __init__(self, path: Path) -> None:
        self._tensors = tensors_of(read_pickle(path), str(path))

    def keys(self) -> KeysView[str]:
        return self._tensors.keys()

    def get_tensor(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def get_slice(self, name: str) -> PickledSlice:
        return PickledSlice(self._tensors[name])


class PickledSlice:
    """A tensor by the methods of safetensors' slices."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        return list(self._tensor.shape)

    def get_dtype(self) -> str:
        name = str(self._tensor.dtype).removeprefix("torch.")
        return SAFETENSORS_NAMES.get(name, name)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        return self._tensor[rows]
