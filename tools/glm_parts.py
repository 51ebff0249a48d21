"""Checkpoints of GLM's authors in files by tensor rank, `mp_rank_NN_model_states.pt`: how the files divide a model, and
reading them.

`pretrain/families/glm.py` has the names and the order of rows. A file has, of each divided weight, what its rank
computes with: rows of the embedding; of each fused projection the rank's rows of every block, or its heads where query,
key and value of a head stand together; columns of the projections back. Norms and the biases after a sum are copies.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.config import ModelConfig
from pretrain.families.format import Format
from pretrain.families.glm import PARTS
from pretrain.families.mapping import Weight, from_hugging_face, weight_shapes
from pretrain.model.partition import Partition
from tools.importing import newest_step
from tools.pickles import read_pickle, tensors_of

NAME = re.compile(r"mp_rank_(\d+)_model_states\.pt")
TRACKERS = ("latest", "latest_checkpointed_iteration.txt")
"""Files that name the folder of the newest step: SwissArmyTransformer's, and THUDM/GLM's."""
MODULE = "module"
"""Entry of a file with the weights; the others are of no use here."""

_BY_ROWS = ("embedding", "attention.query_key_value", "mlp.up", "mlp.gate_up")
_BY_COLUMNS = ("attention.output.weight", "mlp.down.weight")

_rebuild_array: Any = np.zeros(1).__reduce__()[0]
HARMLESS: tuple[Any, ...] = (
    argparse.Namespace,
    np.ndarray,
    np.dtype,
    type(np.dtype(np.uint32)),
    (_rebuild_array, "numpy.core.multiarray._reconstruct"),
    (_rebuild_array, "numpy._core.multiarray._reconstruct"),
)
"""What a file may contain beside tensors: settings, and the state of numpy's random numbers."""


def file_name(rank: int) -> str:
    """Name of a tensor rank's file."""
    return f"mp_rank_{rank:02d}_model_states.pt"


def partition_of_weight(model: ModelConfig, name: str, weight: Weight) -> Partition | None:
    """How the files divide a weight, by our name, as it is over there; None: each has a copy."""
    shape, blocks = weight_shapes(model)[name]
    if name.endswith(_BY_COLUMNS):
        return Partition(1, (shape[1],))
    if not name.rpartition(".")[0].endswith(_BY_ROWS):
        return None
    return Partition(0, (shape[0],) if weight.parts[0].layout == "by_head" else blocks)


def check_parts(model: ModelConfig, parts: int, told: str) -> None:
    """Refuse a number of files into which a model cannot be divided.

    Args:
        told: what has this number, for the message.

    Raises:
        ValueError: names the setting that it does not divide.
    """
    for name in ("attention_heads", "feed_forward_size", "vocabulary_size"):
        if parts < 1 or getattr(model, name) % parts:
            raise ValueError(f"{told} must divide model.{name} {getattr(model, name)}")


class PartFiles:
    """The files of a checkpoint.

    Args:
        folder: of a step, or the one above it, with a file that names the newest step.

    Attributes:
        folder: of the step.
        count: number of files.
        names: names of the tensors, the same in each file.

    Raises:
        ValueError: there are none; one is missing, damaged, or contains more than a checkpoint; or they differ in their
            names.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = newest_step(folder, TRACKERS)
        ranks = {int(match[1]): path for path in self.folder.glob("*.pt") if (match := NAME.fullmatch(path.name))}
        if not ranks:
            raise ValueError(f"{self.folder}: no {file_name(0)}; give the folder of a step, or the one with `latest`")
        self.count = 1 + max(ranks)
        for rank in range(self.count):
            if rank not in ranks:
                raise ValueError(f"{self.folder / file_name(rank)}: missing; there are files up to rank {max(ranks)}")
        self._paths = [ranks[rank] for rank in range(self.count)]
        self._tensors = [_module(path) for path in self._paths]
        self.names = set(self._tensors[0])
        for path, tensors in zip(self._paths, self._tensors, strict=True):
            for name in sorted(self.names ^ set(tensors)):
                has, lacks = (path, self._paths[0]) if name in tensors else (self._paths[0], path)
                raise ValueError(f"{lacks}: no tensor {name!r}, which {has.name} has")

    def parts(self, name: str, shapes: list[tuple[int, ...]], needed: str) -> Iterator[torch.Tensor]:
        """The parts of a tensor, fp32.

        Args:
            shapes: shape of each.
            needed: what needs these shapes, for messages.

        Raises:
            ValueError: one has another shape, or a dtype of a quantized model.
        """
        for path, tensors, shape in zip(self._paths, self._tensors, shapes, strict=True):
            part = tensors[name]
            if tuple(part.shape) != shape:
                raise ValueError(
                    f"{path}: {name}: shape {tuple(part.shape)}, but {needed} in {self.count} files needs {shape}"
                )
            if part.dtype not in (torch.float32, torch.bfloat16, torch.float16):
                raise ValueError(
                    f"{path}: {name}: dtype {part.dtype} is not supported, only float32, bfloat16 and float16"
                )
            yield part.float()


def _module(path: Path) -> dict[str, torch.Tensor]:
    content = read_pickle(path, HARMLESS)
    if not isinstance(content, dict) or MODULE not in content:
        raise ValueError(f"{path}: no entry {MODULE!r} with the weights")
    return dict(tensors_of(content[MODULE], f"{path}: {MODULE}"))


def format_of_parts(model: ModelConfig, names: Collection[str]) -> Format:
    """The format of files with these tensors, for a model of these settings."""
    if model.block == "deepnorm":
        return PARTS["sat-130b"]
    (embedding,) = PARTS["sat"].weights["embedding.weight"].names
    return PARTS["sat" if embedding in names else "glm"]


class Importer:
    """Whole weights of a model, by our names, from part files.

    Attributes:
        differing: largest difference between the files' copies of a weight, by our name, where they differ; their mean
            is taken.

    Raises:
        ValueError: the format does not compute one of the model's settings, or the files are not those of such a model.
    """

    def __init__(self, files: PartFiles, model: ModelConfig) -> None:
        self._files, self._model = files, model
        there = format_of_parts(model, files.names)
        self._weights = there.places(model)
        check_parts(model, files.count, f"{files.folder}: the number of its files, {files.count},")
        ignored = re.compile("|".join(there.ignored))
        found = {name for name in files.names if not ignored.fullmatch(name)}
        wanted = {rows.name for weight in self._weights.values() for rows in weight.parts}
        for complaint, names in (("no tensor", wanted - found), ("an unknown tensor", found - wanted)):
            if names:
                more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
                raise ValueError(f"{files.folder}: {there.name} of these settings has {complaint} {min(names)!r}{more}")
        self.differing: dict[str, float] = {}

    def __call__(self, name: str) -> torch.Tensor:
        """Read one weight.

        Raises:
            ValueError: see `PartFiles.parts`.
        """
        weight, count = self._weights[name], self._files.count
        (rows,) = weight.parts
        partition = partition_of_weight(self._model, name, weight)
        shape = rows.shape(weight.shape)
        shapes = [shape if partition is None else partition.shard_shape(shape, rank, count) for rank in range(count)]
        parts = list(self._files.parts(rows.name, shapes, f"{name} {shape}"))
        whole = self._mean(name, parts) if partition is None else partition.merge(parts)
        return from_hugging_face(name, weight, lambda _: whole)

    def _mean(self, name: str, copies: list[torch.Tensor]) -> torch.Tensor:
        worst = max(float((copy - copies[0]).abs().max()) for copy in copies)
        if not worst:
            return copies[0]
        self.differing[name] = worst
        return torch.stack(copies).mean(0)
