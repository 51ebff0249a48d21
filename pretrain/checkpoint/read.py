"""Reads a checkpoint without a process group: whole parameters, or any range of a shard under any tensor degree."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from foundation.atomic_files import digest, sha256_file
from foundation.checksums import verified_meanwhile
from foundation.progress import Progress
from pretrain.checkpoint.layout import (
    DIGEST,
    FORMAT_VERSION,
    INDEX_FILE,
    STATES,
    CheckpointError,
    StoredFragment,
    complete_checkpoints,
    partition_from_json,
)
from pretrain.checkpoint.tensor_file import TensorFile
from pretrain.model.partition import Partition
from pretrain.topology import Topology

BY_TOKEN = ("embedding.weight", "head.weight")
"""Weights with a row for each token, followed by padding rows."""
_REMEDY = "restore it, or remove the folder to go back to the previous checkpoint"


def damaged_file(path: Path) -> CheckpointError:
    """The error for a file with another checksum than the recorded one."""
    return CheckpointError(f"{path}: damaged: its SHA-256 is not the recorded one; {_REMEDY}")


class CheckpointReader:
    """One finished checkpoint.

    Args:
        path: a `step-…` folder, or a `checkpoints` folder, whose newest checkpoint is read.

    Raises:
        CheckpointError: there is no checkpoint, or one of its files is missing or of another size than recorded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (
            path / INDEX_FILE
        ).is_file():  # not by the file `latest`, which is for people and may be missing or wrong
            whole = (folder for folder in complete_checkpoints(path) if (folder / INDEX_FILE).is_file())
            self.path = next(whole, path)
        index_path = self.path / INDEX_FILE
        if not index_path.is_file():
            raise CheckpointError(
                f"{index_path}: missing, so {path} is not a finished checkpoint; give a folder step-… that contains "
                "one, or a run's checkpoints folder"
            )
        try:
            self.index: dict[str, Any] = json.loads(index_path.read_text())
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{index_path}:{error.lineno}: damaged: {error.msg}; {_REMEDY}") from None
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{index_path}: damaged: {error}; {_REMEDY}") from None
        if self.index.get("format") != FORMAT_VERSION:
            raise CheckpointError(
                f"{index_path}: format {self.index.get('format')!r}, this version reads {FORMAT_VERSION}"
            )
        rest = {key: value for key, value in self.index.items() if key != DIGEST}
        if self.index.get(DIGEST, digest(rest)) != digest(rest):  # an index of an earlier version has no digest
            raise CheckpointError(f"{index_path}: damaged: its digest is not the recorded one; {_REMEDY}")
        self._check_sizes()
        self._places: dict[str, dict[int, list[tuple[str, StoredFragment]]]] = defaultdict(lambda: defaultdict(list))
        for file_name, entry in self.index["files"].items():
            for name, tensor_rank, start, stop in entry["fragments"]:
                fragment = StoredFragment(name, tensor_rank, start, stop)
                self._places[name][tensor_rank].append((file_name, fragment))
        self._open_files: dict[str, TensorFile] = {}

    def _check_sizes(self) -> None:
        for file_name, entry in self.index["files"].items():
            file = self.path / file_name
            if not file.is_file():
                raise CheckpointError(
                    f"{file}: missing; {self.path.name} has {len(self.index['files'])} rank files and needs all of "
                    f"them: {_REMEDY}"
                )
            if file.stat().st_size != entry["bytes"]:
                raise CheckpointError(f"{file}: {file.stat().st_size} bytes where {entry['bytes']} were written")

    def verify(self, part: int = 0, parts: int = 1) -> None:
        """Compare the SHA-256 of every `parts`-th file with the recorded one.

        Raises:
            CheckpointError: a file differs; names the first one.
        """
        for path, recorded in self.checksums()[part::parts]:
            if sha256_file(path) != recorded:
                raise damaged_file(path)

    def checksums(self) -> list[tuple[Path, str]]:
        """Each file, and its recorded SHA-256."""
        return [(self.path / name, entry["sha256"]) for name, entry in sorted(self.index["files"].items())]

    def verified_meanwhile(self) -> AbstractContextManager[None]:
        """Context that compares the checksums of all files while they are read, see `foundation.checksums`.

        Raises:
            CheckpointError: a file differs; names the first one.
        """
        return verified_meanwhile(self.checksums(), damaged_file)

    @property
    def digest(self) -> str:
        """SHA-256 of the index, which contains the checksums of all files."""
        return str(self.index.get(DIGEST) or digest(self.index))

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return int(self.index["step"])

    @property
    def updates(self) -> int:
        """Number of steps whose update was applied, not dropped."""
        return int(self.index.get("updates", self.step))

    @property
    def imported_updates(self) -> int:
        """Number of another program's updates whose moments were imported with the weights; 0: none were."""
        return self.updates if self.step == 0 else 0

    @property
    def consumed_samples(self) -> int:
        return int(self.index["consumed_samples"])

    @property
    def skipped_samples(self) -> list[tuple[int, int]]:
        """Half-open ranges of samples that the run has left out."""
        return [(int(start), int(stop)) for start, stop in self.index.get("skipped_samples", [])]

    @property
    def config(self) -> dict[str, Any]:
        """Resolved configuration of the run that wrote it."""
        return dict(self.index["config"])

    @property
    def data_digest(self) -> str:
        """Digest of the sample order and the token files."""
        return str(self.index["data_digest"])

    @property
    def topology(self) -> Topology:
        """Topology that wrote it, or that it was reshaped for."""
        return Topology(**self.index["topology"])

    @property
    def tensor_degree(self) -> int:
        return self.topology.tensor

    def names(self) -> list[str]:
        """Global names of the parameters."""
        return list(self.index["parameters"])

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the whole parameter, without padding rows of the vocabulary, whose number depends on the
        topology."""
        stored = self._stored_shape(name)
        return (self._vocabulary_size, *stored[1:]) if name in BY_TOKEN else stored

    @property
    def _vocabulary_size(self) -> int:
        return int(self.index["config"]["model"]["vocabulary_size"])

    def states(self, name: str) -> tuple[str, ...]:
        """States of the parameter: `STATES`, or those of them that it has."""
        self._stored_shape(name)
        return tuple(self.index["parameters"][name].get("states", STATES))

    def partition(self, name: str) -> Partition | None:
        """Split of the parameter over the tensor axis in the checkpoint; None: every rank has all of it."""
        self._stored_shape(name)
        return partition_from_json(self.index["parameters"][name]["partition"])

    def _stored_shape(self, name: str) -> tuple[int, ...]:
        if name not in self.index["parameters"]:
            raise CheckpointError(f"{self.path}: has no parameter {name!r}")
        return tuple(self.index["parameters"][name]["shape"])

    def tensor(self, name: str, state: str = "weight") -> torch.Tensor:
        """The whole parameter, or its moment `exp_avg` or `exp_avg_sq`; fp32 on the CPU, with the shape
        `shape(name)`."""
        shape, partition = self._stored_shape(name), self.partition(name)
        if partition is None:
            return self._range(name, state, 0, 0, math.prod(shape)).view(shape)
        shards = []
        for rank in range(self.tensor_degree):
            shard_shape = partition.shard_shape(shape, rank, self.tensor_degree)
            shards.append(self._range(name, state, rank, 0, math.prod(shard_shape)).view(shard_shape))
        whole = partition.merge(shards)
        return whole[: self._vocabulary_size] if name in BY_TOKEN else whole

    def is_stored(self, name: str) -> bool:
        """Whether rows of a weight can be read alone; they can, see `WholeWeights.is_stored`."""
        return True

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of a weight, fp32; no others are in memory."""
        inner = self._stored_shape(name)[1:]
        row = math.prod(inner)
        return self.shard_range(name, STATES[0], 0, 1, start * row, stop * row).view(stop - start, *inner)

    def shard_range(
        self,
        name: str,
        state: str,
        tensor_rank: int,
        tensor_degree: int,
        start: int,
        stop: int,
        partition: Partition | None = None,
    ) -> torch.Tensor:
        """Elements [start, stop) of the flattened shard of a tensor rank under any tensor degree, fp32.

        Args:
            partition: split of the parameter under that degree. It may have other padding rows of the vocabulary, which
                are zero where the checkpoint has none. None: as in the checkpoint.
        """
        stored = self.partition(name)
        if stored is None:
            return self._range(name, state, 0, start, stop)
        partition = partition or stored
        if tensor_degree == self.tensor_degree and partition == stored:
            return self._range(name, state, tensor_rank, start, stop)
        return self._range_of_others(name, state, stored, partition, tensor_rank, tensor_degree, start, stop)

    def _range_of_others(
        self,
        name: str,
        state: str,
        stored: Partition,
        partition: Partition,
        rank: int,
        degree: int,
        start: int,
        stop: int,
    ) -> torch.Tensor:
        """The range for `shard_range` under a tensor degree or padding that differs from the checkpoint's; reads only
        the rows that are needed."""
        shape, dim = self._stored_shape(name), partition.dim
        inner, own = math.prod(shape[dim + 1 :]), self.tensor_degree
        width = sum(partition.sizes(rank, degree))
        # With the shard seen as [outer, width, inner]: the outer rows in the range; with one outer row, its columns.
        row = width * inner
        first, last = start // row, -(-stop // row)
        is_cut = math.prod(shape[:dim]) == 1
        left, right = (start // inner, -(-stop // inner)) if is_cut else (0, width)
        touched = torch.zeros(last - first, right - left, inner)
        for other in range(own):
            own_width = sum(stored.sizes(other, own))
            for here, there, length in partition.overlaps(rank, degree, stored, other, own):
                begin, end = max(here, left), min(here + length, right)
                if begin >= end:
                    continue
                into = touched[:, begin - left : end - left]
                begin, end = begin + there - here, end + there - here
                if is_cut:
                    into[0] = self._range(name, state, other, begin * inner, end * inner).view(-1, inner)
                else:
                    rows = self._range(name, state, other, first * own_width * inner, last * own_width * inner)
                    into.copy_(rows.view(-1, own_width, inner)[:, begin:end])
        offset = (first * width + left) * inner
        return touched.view(-1)[start - offset : stop - offset]

    def _range(self, name: str, state: str, tensor_rank: int, start: int, stop: int) -> torch.Tensor:
        if state not in STATES:
            raise ValueError(f"state {state!r}: must be one of {', '.join(STATES)}")
        result = torch.empty(stop - start, dtype=torch.float32)
        filled = 0
        for file_name, fragment in self._places[name][tensor_rank]:
            first, last = max(start, fragment.start), min(stop, fragment.stop)
            if first < last:
                stored = self._file(file_name).get_slice(fragment.key(state))
                place = result[first - start : last - start]
                stored.read(first - fragment.start, last - fragment.start, into=place)
                filled += last - first
        if filled != stop - start:
            raise CheckpointError(
                f"{self.path}: {state} of {name!r}, tensor rank {tensor_rank}: only {filled} of {stop - start} "
                "elements are stored"
            )
        return result

    def _file(self, file_name: str) -> TensorFile:
        if file_name not in self._open_files:
            try:
                self._open_files[file_name] = TensorFile(self.path / file_name)
            except ValueError as error:
                raise CheckpointError(str(error)) from None
            except OSError as error:
                raise CheckpointError(f"{self.path / file_name}: cannot be read: {error}") from None
        return self._open_files[file_name]


def verified_checkpoint(path: Path) -> CheckpointReader:
    """A checkpoint whose files all have the recorded checksums; reads all of them.

    Raises:
        CheckpointError: the checkpoint is missing, incomplete or damaged; names the file.
    """
    reader = CheckpointReader(path)
    count = len(reader.index["files"])
    with Progress(f"checksums of {reader.path.name}", count, "files") as progress:
        for part in range(count):
            reader.verify(part, count)
            progress.advance()
    return reader
