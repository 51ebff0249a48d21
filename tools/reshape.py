"""A checkpoint cut for another tensor degree: `altiplano checkpoint reshape CHECKPOINT OUT --tensor 4`."""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from foundation.atomic_files import room_for, whole_folder, write_text
from foundation.progress import Progress, summary_table
from pretrain.checkpoint.layout import (
    DIGEST,
    LATEST_FILE,
    CheckpointError,
    StoredFragment,
    complete_checkpoints,
    partition_to_json,
    rank_file,
    step_folder,
    write_index,
)
from pretrain.checkpoint.read import BY_TOKEN, CheckpointReader
from pretrain.config import ModelConfig, check_tensor_degree
from pretrain.model.partition import Partition
from tools.hugging_face.files import Exported, write_safetensors

FILE_GIGABYTES = 8.0
"""Size from which on a new file is begun; a single shard that is larger has a file to itself."""


@dataclass
class _File:
    """Contents of one file, in order: shards, and the states that are kept of each."""

    fragments: list[StoredFragment] = field(default_factory=list)
    bytes: int = 0


def reshape(path: Path, out: Path, tensor: int, file_gigabytes: float = FILE_GIGABYTES) -> Path:
    """Write the checkpoint at `path` as `out/step-…`, cut for `tensor` tensor ranks, one shard in memory at a time.

    The numbers are those of the original, bit by bit: weights, moments, counters, data position, ledger. Pipeline and
    data degrees need no cutting: a rank reads the stretches that it owns from any file.

    Returns:
        The new `step-…` folder. `out` is a `checkpoints` folder, which a run resumes from.

    Raises:
        CheckpointError: the original is not whole, a checksum is not right, or there is a checkpoint of this step.
        ValueError: a parameter cannot be cut so; names it.
    """
    reader = CheckpointReader(path)
    final = step_folder(out, reader.step)
    if final.exists():
        raise CheckpointError(f"{final}: there already; give another folder, or remove it")
    files = plan_files(reader, tensor, int(file_gigabytes * 1e9))
    index = {key: value for key, value in reader.index.items() if key not in (DIGEST, "files", "topology")}
    index["parameters"] = copy.deepcopy(reader.index["parameters"])
    index["topology"] = {"tensor": tensor, "pipe": 1, "data": 1}
    for name, entry in index["parameters"].items():
        partition = target_partition(reader, name, tensor)
        if partition is not None:
            entry["partition"] = partition_to_json(partition)
            entry["shape"][partition.dim] = sum(partition.blocks)
    index["reshaped_from"] = {"checkpoint": str(reader.path), "topology": reader.index["topology"]}
    index["files"] = {}
    is_new = not out.exists()
    with (
        _removed_if_empty(out, is_new),
        room_for(final),
        whole_folder(final) as unfinished,
        reader.verified_meanwhile(),
    ):
        with Progress("reshape", sum(len(file.fragments) for file in files), "shards") as progress:
            for number, file in enumerate(files):
                target = unfinished / rank_file(number)
                planned = [
                    Exported(one.key(state), (one.stop,), 4 * one.stop)
                    for one in file.fragments
                    for state in kept_states(reader, one.name)
                ]
                tensors = _tensors(reader, file, tensor, progress)
                digest = write_safetensors(target, planned, tensors, "float32")
                index["files"][target.name] = {
                    "bytes": target.stat().st_size,
                    "sha256": digest,
                    "fragments": [[one.name, one.tensor_rank, one.start, one.stop] for one in file.fragments],
                }
        write_index(unfinished, index)
    write_text(out / LATEST_FILE, complete_checkpoints(out)[0].name + "\n")
    return final


@contextmanager
def _removed_if_empty(folder: Path, is_new: bool) -> Iterator[None]:
    """Leave no new folder behind when the block fails."""
    try:
        yield
    except BaseException:
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise


def kept_states(reader: CheckpointReader, name: str) -> tuple[str, ...]:
    """States of a parameter; of an imported model, which has no optimizer yet, the weights alone."""
    return ("weight",) if reader.step == 0 and "imported" in reader.index else reader.states(name)


def plan_files(reader: CheckpointReader, tensor: int, file_bytes: int) -> list[_File]:
    """Which shards go into which file: tensor rank by tensor rank, the parameters in the checkpoint's order."""
    check_tensor_degree(ModelConfig.model_validate(reader.config["model"]), tensor)
    files = []
    for rank in range(tensor):
        file = _File()
        for name in reader.names():
            partition = target_partition(reader, name, tensor)
            if partition is None and rank:
                continue
            shape = reader.shape(name) if partition is None else partition.shard_shape(reader.shape(name), rank, tensor)
            fragment = StoredFragment(name, rank, 0, torch.Size(shape).numel())
            size = 4 * len(kept_states(reader, name)) * fragment.stop
            if file.fragments and file.bytes + size > file_bytes:
                files.append(file)
                file = _File()
            file.fragments.append(fragment)
            file.bytes += size
        files.append(file)
    return files


def target_partition(reader: CheckpointReader, name: str, tensor: int) -> Partition | None:
    """How the parameter is cut for `tensor` ranks; vocabularies are padded as a model of that degree pads them."""
    partition = reader.partition(name)
    if partition is None or name not in BY_TOKEN:
        return partition
    model = ModelConfig.model_validate(reader.config["model"])
    return Partition(partition.dim, (model.padded_vocabulary_size(tensor),))


def _tensors(
    reader: CheckpointReader, file: _File, tensor: int, progress: Progress
) -> Iterator[tuple[str, torch.Tensor]]:
    for one in file.fragments:
        for state in kept_states(reader, one.name):
            partition = target_partition(reader, one.name, tensor)
            place = one.tensor_rank, tensor, one.start, one.stop
            yield one.key(state), reader.shard_range(one.name, state, *place, partition)
        progress.advance()


EXAMPLES = """examples:
  altiplano checkpoint reshape runs/mine/train/checkpoints runs/next/train/checkpoints --tensor 4"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano checkpoint reshape",
        description="Cut a checkpoint for another tensor degree beforehand. A run does so by itself while it loads, at "
        "each start until it has saved; worth while for a large model that starts often, on many ranks, from one "
        "checkpoint. Needs no GPU and no more memory than one shard.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="a step-… folder, or a run's checkpoints folder for the newest")
    parser.add_argument("out", type=Path, help="a checkpoints folder to write into, as runs/NAME/train/checkpoints")
    parser.add_argument("--tensor", type=int, required=True, help="tensor-parallel degree of the runs that read it")
    parser.add_argument(
        "--file-gb", type=float, default=FILE_GIGABYTES, help="begin a new file at this size (default %(default)g GB)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = make_parser().parse_args(arguments)
    if given.tensor < 1 or not given.file_gb > 0:
        print("--tensor and --file-gb must be positive", file=sys.stderr)
        return 2
    try:
        final = reshape(given.checkpoint, given.out, given.tensor, given.file_gb)
        index: dict[str, Any] = CheckpointReader(final).index
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    size = sum(entry["bytes"] for entry in index["files"].values())
    summary_table(
        str(final),
        [
            ("tensor degree", f"{index['reshaped_from']['topology']['tensor']} -> {given.tensor}"),
            ("step", index["step"]),
            ("files", f"{len(index['files']):,}, {size / 1e6:,.1f} MB, checksummed"),
            ("next", f"a run with it as checkpoints/ in its output folder resumes from it with tensor {given.tensor}"),
        ],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
