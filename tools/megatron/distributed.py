"""megatron-core's distributed checkpoints (`torch_dist`): the folder of a step, read and written in one process by
torch's own reader and writer (`torch.distributed.checkpoint`).

A folder contains `metadata.json` (which format it is), `common.pt` (what is the same on all ranks, as the arguments
of the run), `.metadata` (a pickle: the shape of every tensor, its chunks and where each is stored) and
`__RANK_NUMBER.distcp` (the chunks, each as `torch.save` writes it).
"""

from __future__ import annotations

import argparse
import io
import json
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from foundation.atomic_files import write_json, write_text
from tools.importing import newest_step
from tools.pickles import read_pickle_with_stand_ins, read_plain_pickle

TRACKER = "latest_checkpointed_iteration.txt"
"""File that names the newest step: a number, or `release` for weights without a run."""
DEEPSPEEDS_TRACKER = "latest"
"""File of the forks that names the folder of the newest step."""
RELEASE = "release"
FORMAT_FILE, COMMON_FILE, METADATA_FILE = "metadata.json", "common.pt", ".metadata"
FORMAT = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}
"""Content of `metadata.json`. Source: `CheckpointingConfig` of megatron-core 0.16.1."""

_THEIRS = (
    *("megatron.", "transformer_engine.", "torch.distributed.checkpoint.", "numpy."),
    *("signal.Signals", "types.SimpleNamespace", "_io.BytesIO", "pathlib.PosixPath", "pathlib._local.PosixPath"),
)
"""Beginnings of names of what these files contain beside numbers, texts and tensors, and nothing here needs."""

_STORAGE_CLASSES = (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
    _MEM_FORMAT_ENCODING,
    _StorageInfo,
)
_KNOWN: dict[str, Any] = {
    **{f"{found.__module__}.{found.__qualname__}": found for found in _STORAGE_CLASSES},
    **{f"torch.{name}": found for name, found in vars(torch).items() if isinstance(found, torch.dtype)},
    "torch.Size": torch.Size,
    "torch.serialization._get_layout": torch.serialization._get_layout,
}
"""Classes and functions in `.metadata`."""

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_DAMAGED = (RuntimeError, ValueError, KeyError, AssertionError, EOFError, OSError, pickle.UnpicklingError)
"""What torch's reader raises for damaged files."""


def step_folder(folder: Path) -> Path:
    """The folder of a step: `folder`, or the one in it that a tracker names.

    Raises:
        ValueError: the tracker names a folder that is missing.
    """
    return newest_step(
        folder, [DEEPSPEEDS_TRACKER, TRACKER], lambda step: f"iter_{int(step):07d}" if step.isdecimal() else step
    )


def is_distributed(folder: Path) -> bool:
    """Whether a folder is that of a step in this format."""
    return (folder / FORMAT_FILE).is_file() or (folder / METADATA_FILE).is_file()


class DistributedFiles:
    """The files of a step, for reading.

    Attributes:
        folder: of the step.
        tensors: shape, dtype and chunks of every tensor, by key.

    Raises:
        ValueError: a file is missing, damaged, truncated, of another format, or contains what could run code.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _check_format(folder / FORMAT_FILE)
        path = folder / METADATA_FILE
        if not path.is_file():
            raise ValueError(f"{path}: missing; the save was not finished, or it was not copied with the others")
        metadata = read_plain_pickle(path, _KNOWN, _THEIRS)
        entries = getattr(metadata, "state_dict_metadata", None)
        stored = getattr(metadata, "storage_data", None)
        if not isinstance(metadata, Metadata) or not isinstance(entries, dict) or not isinstance(stored, dict):
            raise ValueError(f"{path}: damaged: it is not the metadata of a checkpoint")
        self.tensors: dict[str, TensorStorageMetadata] = {
            key: entry for key, entry in entries.items() if isinstance(entry, TensorStorageMetadata)
        }
        self._check_sizes(stored)
        self._reader = FileSystemReader(folder)
        self._reader.set_up_storage_reader(metadata, True)

    def _check_sizes(self, stored: Mapping[MetadataIndex, _StorageInfo]) -> None:
        needed: dict[str, int] = {}
        for place in stored.values():
            needed[place.relative_path] = max(needed.get(place.relative_path, 0), place.offset + place.length)
        for name, size in sorted(needed.items()):
            path = self.folder / name
            if Path(name).name != name:
                raise ValueError(f"{self.folder / METADATA_FILE}: {name!r}: a file outside of the folder")
            if not path.is_file():
                raise ValueError(f"{path}: missing")
            if path.stat().st_size < size:
                raise ValueError(f"{path}: truncated: {path.stat().st_size} bytes, but {size} are in use")

    def common(self) -> dict[str, Any]:
        """What all ranks have alike, from `common.pt`.

        Raises:
            ValueError: the file is missing, damaged, or contains what could run code.
        """
        path = self.folder / COMMON_FILE
        if not path.is_file():
            raise ValueError(f"{path}: missing")
        content = read_pickle_with_stand_ins(path, [argparse.Namespace], _THEIRS)
        if not isinstance(content, dict):
            raise ValueError(f"{path}: must contain entries by name")
        return content

    def read(self, key: str, layer: int | None = None) -> torch.Tensor:
        """A tensor, fp32; of its chunks one at a time is in memory beside it.

        Args:
            layer: index along the first axis, of which only that part is read; None: all of it.

        Raises:
            ValueError: a part of it is missing, damaged, or of a dtype of a quantized model.
        """
        entry = self.tensors[key]
        offsets, sizes = [0] * len(entry.size), list(entry.size)
        if layer is not None:
            offsets[0], sizes[0] = layer, 1
        if entry.properties.dtype not in _DTYPES:
            raise ValueError(
                f"{self.folder}: {key}: dtype {entry.properties.dtype} is not supported, only float32, bfloat16 and "
                "float16"
            )
        found = torch.empty(sizes, dtype=torch.float32)
        try:
            items = create_read_items_for_chunk_list(
                key, entry, [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))]
            )
            if sum(math.prod(item.lengths) for item in items) != found.numel():
                raise ValueError("its chunks do not cover it once")
            self._reader.read_data(LoadPlan(items), _Into(found))
        except _DAMAGED as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"{self.folder}: {key}: damaged: {reason}") from None
        return found if layer is None else found[0]


def _check_format(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: missing; the save was not finished, or it is not a distributed checkpoint")
    try:
        backend = json.loads(path.read_text(encoding="utf-8")).get("sharded_backend")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: damaged: {error}") from None
    if backend != FORMAT["sharded_backend"]:
        raise ValueError(
            f"{path}: sharded_backend: {backend!r} is not read, only 'torch_dist'; load it with the Megatron-LM that "
            "wrote it, and save it with --ckpt-format torch_dist"
        )


class _Into(DefaultLoadPlanner):
    """Makes torch's reader copy into one tensor."""

    def __init__(self, target: torch.Tensor) -> None:
        super().__init__()
        self._target = target

    def lookup_tensor(self, index: MetadataIndex) -> torch.Tensor:
        return self._target


@dataclass(frozen=True)
class Written:
    """A part of a tensor that is to be written.

    Attributes:
        key: of the tensor.
        shape: of the part.
        read: gives the part.
        layer, layers: index and size of the tensor's first axis, of which this is one entry; None: it is all of it.
    """

    key: str
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]
    layer: int | None = None
    layers: int = 0

    def item(self, dtype: torch.dtype) -> WriteItem:
        """The entry of torch's plan for writing."""
        stacked = self.layer is not None
        size = torch.Size([self.layers, *self.shape] if stacked else self.shape)
        offsets = torch.Size([self.layer or 0, *([0] * len(self.shape))] if stacked else [0] * len(self.shape))
        chunk = ChunkStorageMetadata(offsets, torch.Size([1, *self.shape] if stacked else self.shape))
        data = TensorWriteData(chunk, TensorProperties(dtype=dtype), size)
        return WriteItem(MetadataIndex(self.key, offsets), WriteItemType.SHARD, tensor_data=data)


def write_distributed(
    folder: Path, parts: Sequence[Written], objects: Sequence[str], common: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Write the folder of a step. In memory is the last part of each tensor, and the one that is written.

    Args:
        folder: does not exist yet.
        objects: keys of what is stored beside the tensors, each with an empty value.
        common: content of `common.pt`.
        dtype: of all parts.
    """
    folder.mkdir()
    writer, planner = FileSystemWriter(folder), _Parts(parts, objects, dtype)
    writer.set_up_storage_writer(True)
    plans, metadata = planner.create_global_plan([planner.create_local_plan()])
    (plan,) = writer.prepare_global_plan(plans)
    writer.finish(metadata, [writer.write_data(planner.finish_plan(plan), planner).wait()])
    torch.save(dict(common), folder / COMMON_FILE)
    write_json(folder / FORMAT_FILE, FORMAT)


class _Parts(DefaultSavePlanner):
    """Makes torch's writer take one part after the other."""

    def __init__(self, parts: Sequence[Written], objects: Sequence[str], dtype: torch.dtype) -> None:
        super().__init__(flatten_state_dict=False)
        self._parts = {(part.key, part.layer or 0): part for part in parts}
        self._items = [WriteItem(MetadataIndex(key), WriteItemType.BYTE_IO) for key in objects]
        self._items += [part.item(dtype) for part in parts]

    def create_local_plan(self) -> SavePlan:
        self.plan = SavePlan(self._items)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        if write_item.type == WriteItemType.BYTE_IO:
            empty = io.BytesIO()
            torch.save([None], empty)
            return empty
        assert write_item.index.offset is not None and write_item.tensor_data is not None
        key, data = write_item.index.fqn, write_item.tensor_data
        first = write_item.index.offset[0]
        return self._parts[key, first].read().reshape(data.chunk.sizes)


def write_tracker(folder: Path) -> None:
    """Name the `release` in a folder as its newest step."""
    write_text(folder / TRACKER, RELEASE)
