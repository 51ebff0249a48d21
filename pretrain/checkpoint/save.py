"""Writes a checkpoint from all ranks: complete or invisible."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import save_file

from foundation.atomic_files import sha256_file, sync, write_json, write_text
from pretrain.checkpoint.layout import (
    FORMAT_VERSION,
    INDEX_FILE,
    LATEST_FILE,
    CheckpointError,
    StoredFragment,
    complete_checkpoints,
    partition_to_json,
    rank_file,
    step_folder,
    step_of,
)
from pretrain.engine import Engine
from pretrain.monitor.replicas import check_replicas


def save_checkpoint(
    engine: Engine,
    checkpoints: Path,
    step: int,
    consumed_samples: int,
    facts: dict[str, Any],
    keep_last: int | None,
    keep_every_steps: int | None = None,
) -> Path:
    """Save from every rank; returns the finished folder. Collective.

    The files go to a folder of another name, are synced and checksummed, and the folder is renamed when the last one is
    there: a reader sees all of it or none.

    Args:
        facts: what decides the future beside weights and counters: config, data digest, versions; the same on all
            ranks.
        keep_last: older checkpoints beyond this many are removed, after the new one is in place; None keeps all.
        keep_every_steps: those of a multiple of this many steps are kept for ever.

    Raises:
        CheckpointError: on every rank, when one of them could not write.
        ReplicaDriftError: on every rank, when weights that must be the same are not.
    """
    check_replicas(engine.parameters(), engine.coordinate.tensor, step)
    final = step_folder(checkpoints, step)
    unfinished = checkpoints / f".unfinished-{final.name}"
    if engine.rank == 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    dist.barrier()
    try:
        report: Any = _write_rank_file(engine, unfinished)
    except OSError as error:
        report = f"rank {engine.rank}: {error}"
    reports: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(reports, report)
    failures = [entry for entry in reports if isinstance(entry, str)]
    if failures:
        raise CheckpointError(f"{final}: not written: {'; '.join(failures)}; older checkpoints are untouched")
    if engine.rank == 0:
        index = {
            "format": FORMAT_VERSION,
            "step": step,
            "consumed_samples": consumed_samples,
            "updates": engine.updates,
            "topology": {
                "tensor": engine.topology.tensor,
                "pipe": engine.topology.pipe,
                "data": engine.topology.data,
            },
            **facts,
            "parameters": {name: entry for report in reports for name, entry in report["parameters"].items()},
            "files": {rank_file(rank): report["file"] for rank, report in enumerate(reports)},
        }
        write_json(unfinished / INDEX_FILE, index)
        if final.exists():  # a damaged one that the resume passed over
            shutil.rmtree(final)
        os.rename(unfinished, final)
        sync(checkpoints)
        write_text(checkpoints / LATEST_FILE, final.name + "\n")
        for old in superseded(complete_checkpoints(checkpoints), keep_last, keep_every_steps):
            # Renamed first, so that a kill half-way leaves nothing that looks finished.
            doomed = old.with_name(f".removed-{old.name}")
            os.rename(old, doomed)
            shutil.rmtree(doomed)
    dist.barrier()
    return final


def superseded(newest_first: Sequence[Path], keep_last: int | None, keep_every_steps: int | None) -> list[Path]:
    """The checkpoints that the rules of keeping let go."""
    if keep_last is None:
        return []
    older = newest_first[keep_last:]
    return [folder for folder in older if not (keep_every_steps and step_of(folder) % keep_every_steps == 0)]


def _write_rank_file(engine: Engine, folder: Path) -> dict[str, Any]:
    tensors, fragments, parameters = {}, [], {}
    for fragment in engine.fragments():
        parameters[fragment.name] = {
            "shape": list(fragment.shape),
            "partition": partition_to_json(fragment.partition),
        }
        if fragment.is_copy or (fragment.partition is None and engine.coordinate.tensor != 0):
            continue  # the same numbers stand on the first stage, or on tensor rank 0
        stored = StoredFragment(fragment.name, engine.coordinate.tensor, fragment.start, fragment.stop)
        fragments.append([stored.name, stored.tensor_rank, stored.start, stored.stop])
        for state, values in fragment.states.items():
            tensors[stored.key(state)] = values.detach().cpu().contiguous()
    path = folder / rank_file(engine.rank)
    save_file(tensors, path)
    sync(path)
    return {
        "parameters": parameters,
        "file": {"bytes": path.stat().st_size, "sha256": sha256_file(path), "fragments": fragments},
    }
