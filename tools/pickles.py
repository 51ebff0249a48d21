"""Files of `torch.save` and of the `pickle` module, read by restricted unpicklers, which run no code of theirs."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import KeysView, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

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


class StandIn:
    """In place of an object of another program, of which nothing is needed: takes whatever a pickle gives it, and does
    nothing."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def read_pickle_with_stand_ins(path: Path, allowed: Sequence[Any], programs: Sequence[str]) -> Any:
    """Content of a file of `torch.save`, with a `StandIn` for every object of some programs.

    Args:
        allowed: see `read_pickle`.
        programs: beginnings of the names of classes and functions that are replaced.

    Raises:
        ValueError: see `read_pickle`.
    """
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError):
        unknown = []  # read_pickle names the fault
    names = [name for name in unknown if name.startswith(tuple(programs))]
    return read_pickle(path, [*allowed, *((StandIn, name) for name in names)])


class _Restricted(pickle.Unpickler):
    """Makes objects of known classes only.

    Args:
        known: classes and functions by full name; any other is refused.
        programs: beginnings of the names of those that are replaced by `StandIn`.
    """

    def __init__(self, file: BinaryIO, known: Mapping[str, Any], programs: Sequence[str]) -> None:
        super().__init__(file)
        self._known, self._programs = known, tuple(programs)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in self._known:
            return self._known[full]
        if full.startswith(self._programs):
            return StandIn
        raise pickle.UnpicklingError(f"it names {full}")


def read_plain_pickle(path: Path, known: Mapping[str, Any], programs: Sequence[str]) -> Any:
    """Content of a file that the `pickle` module wrote.

    Args:
        known: classes and functions that it may contain, by full name.
        programs: beginnings of the names of those that are replaced by `StandIn`.

    Raises:
        ValueError: the file is damaged, or contains something else.
    """
    try:
        with path.open("rb") as file:
            return _Restricted(file, known, programs).load()
    except OSError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{path}: damaged, or a pickle of more than such files contain, which is refused: {reason}"
        ) from None


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
