"""The whole model of a checkpoint: its own weights, the frozen ones of its base, and its adapters merged."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foundation.checksums import verified_meanwhile
from pretrain.checkpoint.layout import CheckpointError
from pretrain.checkpoint.read import CheckpointReader, damaged_file, verified_checkpoint
from pretrain.config import ModelConfig
from pretrain.families.mapping import weight_shapes
from pretrain.model.partition import Partition
from pretrain.tuning import ADAPTER_SUFFIXES, AdapterConfig, trained_shapes

BASE = "base"
"""Key in a checkpoint's index of the checkpoint with its frozen weights: its path when the run last started, and the
digest of its index, which contains the checksums of its files."""


@dataclass(frozen=True)
class Adapter:
    """The adapter of one linear layer, whole, fp32.

    Attributes:
        a: [adapted blocks · rank, inputs].
        b: [rows of the adapted blocks, rank].
        rows: half-open range of each adapted block in the rows of the layer's weight.
        scale: factor of B A.
    """

    a: torch.Tensor
    b: torch.Tensor
    rows: tuple[tuple[int, int], ...]
    scale: float

    @property
    def rank(self) -> int:
        return self.b.shape[1]

    def blocks(self) -> list[tuple[tuple[int, int], torch.Tensor, torch.Tensor]]:
        """Rows, A and B of each adapted block."""
        factors = self.b.split([stop - start for start, stop in self.rows])
        return list(zip(self.rows, self.a.split(self.rank), factors, strict=True))

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """W + s · B A, in fp32."""
        result = weight.clone()
        for (start, stop), a, b in self.blocks():
            result[start:stop] += (b @ a) * self.scale
        return result


class WholeWeights:
    """Reads the weights of a checkpoint as if all of them were stored there.

    Args:
        reader: the checkpoint.
        base: place of its base, where that has moved; None: as recorded.

    Raises:
        CheckpointError: the base is missing, damaged, or another checkpoint than the one that was trained beside.
    """

    def __init__(self, reader: CheckpointReader, base: Path | None = None) -> None:
        self.reader = reader
        self.path, self.index, self.step = reader.path, reader.index, reader.step
        found = open_base(reader, base)
        self.base = None if found is None else WholeWeights(found)
        settings = self.config.get("adapter")
        self.adapter_settings = None if settings is None else AdapterConfig.model_validate(settings)
        self._trained = trained_shapes(self.model, self.config.get("trainable"), self.adapter_settings)

    @property
    def config(self) -> Mapping[str, Any]:
        return self.reader.config

    @property
    def model(self) -> ModelConfig:
        return ModelConfig.model_validate(self.config["model"])

    def verify(self, part: int = 0, parts: int = 1) -> None:
        """Compare the SHA-256 of every `parts`-th file with the recorded one, in the bases too.

        Raises:
            CheckpointError: a file differs; names the first one.
        """
        self.reader.verify(part, parts)
        if self.base is not None:
            self.base.verify(part, parts)

    def verified_meanwhile(self) -> AbstractContextManager[None]:
        """Context that compares the checksums of all files, those of the bases too, while they are read; see
        `foundation.checksums`.

        Raises:
            CheckpointError: a file differs; names the first one.
        """
        return verified_meanwhile(self._checksums(), damaged_file)

    def _checksums(self) -> list[tuple[Path, str]]:
        return self.reader.checksums() + ([] if self.base is None else self.base._checksums())

    def names(self) -> list[str]:
        """Global names of the model's weights."""
        return self.reader.names() if self.base is None else list(weight_shapes(self.model))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a whole weight, without padding rows."""
        return self._place(name).shape(name)

    def tensor(self, name: str) -> torch.Tensor:
        """A whole weight, without padding rows, with its adapter merged; fp32."""
        adapter = self.adapter(name)
        weight = self._place(name).tensor(name)
        return weight if adapter is None else adapter.merged(weight)

    def is_stored(self, name: str) -> bool:
        """Whether a weight is stored as it is, so that rows of it can be read alone; False: adapters are merged."""
        return self.adapter(name) is None and self._place(name).is_stored(name)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of a weight that is stored as it is, fp32; reads no others."""
        return self._place(name).rows(name, start, stop)

    def shard_range(
        self, name: str, rank: int, degree: int, start: int, stop: int, partition: Partition | None
    ) -> torch.Tensor:
        """Elements [start, stop) of the flattened shard of a tensor rank, see `CheckpointReader.shard_range`."""
        adapted = self.adapter(name) is not None
        if adapted and partition is not None:
            return partition.shard(self.tensor(name), rank, degree).reshape(-1)[start:stop]
        place = self._place(name)
        if isinstance(place, WholeWeights):
            return place.shard_range(name, rank, degree, start, stop, partition)
        return place.shard_range(name, "weight", rank, degree, start, stop, partition)

    def adapter(self, name: str) -> Adapter | None:
        """The checkpoint's own adapter beside a weight; None if it has none."""
        layer = name.removesuffix(".weight")
        names = [layer + suffix for suffix in ADAPTER_SUFFIXES]
        if self.adapter_settings is None or names[0] not in self._trained:
            return None
        _, sizes = weight_shapes(self.model)[name]
        edges = [sum(sizes[:part]) for part in range(len(sizes) + 1)]
        parts = self.adapter_settings.adapted_parts(layer.rpartition(".")[2])
        a, b = (self.reader.tensor(factor) for factor in names)
        return Adapter(a, b, tuple((edges[part], edges[part + 1]) for part in parts), self.adapter_settings.scale)

    def _place(self, name: str) -> CheckpointReader | WholeWeights:
        return self.reader if self.base is None or name in self._trained else self.base


def base_entry(reader: CheckpointReader) -> dict[str, Any]:
    """What the index of a checkpoint with frozen weights records of their base."""
    return {"checkpoint": str(reader.path.resolve()), "digest": reader.digest}


def open_base(reader: CheckpointReader, moved: Path | None = None) -> CheckpointReader | None:
    """The checkpoint with the frozen weights of another; None for a checkpoint of a whole model.

    Args:
        moved: where to look as well, beside the recorded place.

    Raises:
        CheckpointError: it is at neither place; says what is there.
    """
    entry = reader.index.get(BASE)
    if entry is None:
        return None
    refusals = []
    for place in dict.fromkeys([Path(entry["checkpoint"]), *([] if moved is None else [moved.resolve()])]):
        try:
            found = CheckpointReader(place)
        except CheckpointError as error:
            refusals.append(str(error))
            continue
        if found.digest == entry["digest"]:
            return found
        refusals.append(f"{found.path}: another checkpoint: its digest is {found.digest[:12]}")
    raise CheckpointError(
        f"{reader.path}: its frozen weights are those of {entry['checkpoint']}, digest {entry['digest'][:12]}, which "
        f"is needed: {'; '.join(refusals)}. Restore it, or name its new place: initial_weights=… for a run, --base for "
        "a command"
    )


def verified_weights(path: Path, base: Path | None = None) -> WholeWeights:
    """The whole model of a checkpoint, after comparing the checksums of all its files and of those of its bases.

    Raises:
        CheckpointError: one is missing, incomplete or damaged; names the file.
    """
    model = WholeWeights(verified_checkpoint(path), base)
    inner = model.base
    while inner is not None:
        verified_checkpoint(inner.path)
        inner = inner.base
    return model
