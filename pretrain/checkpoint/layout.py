"""Names of files and folders, and the format of `checkpoint.json`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.atomic_files import digest, write_json
from foundation.version import program
from pretrain.model.partition import Partition

FORMAT_VERSION = 1
INDEX_FILE = "checkpoint.json"
LATEST_FILE = "latest"
STATES = ("weight", "exp_avg", "exp_avg_sq")
"""States of a parameter in a checkpoint, fp32: master weight, first and second moment. A parameter without a second
moment, such as Muon's matrices, has its states in the index."""

_FOLDER = re.compile(r"step-(\d{8,})")


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete, damaged, or of another model or data."""


def step_folder(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """Step of a checkpoint, from the name of its folder."""
    match = _FOLDER.fullmatch(folder.name)
    assert match is not None, folder
    return int(match[1])


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def complete_checkpoints(checkpoints: Path) -> list[Path]:
    """Folders of finished checkpoints, newest first. Unfinished ones have another name and are never listed."""
    if not checkpoints.is_dir():
        return []
    return sorted((f for f in checkpoints.iterdir() if _FOLDER.fullmatch(f.name)), key=step_of, reverse=True)


@dataclass(frozen=True)
class StoredFragment:
    """A part of a parameter's flattened shard in a rank's file.

    Attributes:
        start, stop: half-open range in the flattened shard of `tensor_rank`.
    """

    name: str
    tensor_rank: int
    start: int
    stop: int

    def key(self, state: str) -> str:
        """Key of the tensor in the safetensors file."""
        return f"{state}/{self.name}/{self.start}"


PROGRAM = "program"
"""Key in the index of the version and the code digest of Altiplano that wrote it."""

DIGEST = "digest"
"""Key in the index of the SHA-256 over all its other entries."""


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Write `checkpoint.json`, with the version of this program and a digest of itself."""
    index = {**{key: value for key, value in index.items() if key != DIGEST}, PROGRAM: program()}
    write_json(folder / INDEX_FILE, {**index, DIGEST: digest(index)})


def partition_to_json(partition: Partition | None) -> dict[str, Any] | None:
    return None if partition is None else {"dim": partition.dim, "blocks": list(partition.blocks)}


def partition_from_json(value: dict[str, Any] | None) -> Partition | None:
    return None if value is None else Partition(value["dim"], tuple(value["blocks"]))
