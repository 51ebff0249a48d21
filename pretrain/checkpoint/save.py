"""Writes checkpoints from all ranks while training goes on; a checkpoint is complete or invisible."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file

from foundation.atomic_files import sha256_file, sync, write_text
from pretrain.checkpoint.layout import (
    FORMAT_VERSION,
    LATEST_FILE,
    STATES,
    CheckpointError,
    StoredFragment,
    complete_checkpoints,
    partition_to_json,
    rank_file,
    step_folder,
    step_of,
    write_index,
)
from pretrain.device import local_device
from pretrain.engine.engine import Engine
from pretrain.launch.agreement import attempt, by_rank, gathered
from pretrain.monitor.replicas import check_replicas

T = TypeVar("T")

SHARE_OF_FREE_MEMORY = 0.5
"""Largest share of a machine's free memory for copies of weights and moments; if they need more, training waits."""


@dataclass(frozen=True)
class Saved:
    """A finished checkpoint.

    Attributes:
        blocked_seconds: time for which training waited.
        seconds: time from the beginning of the copy until the checkpoint was in place.
        in_background: whether it was written from a copy while training went on.
    """

    step: int
    folder: Path
    blocked_seconds: float
    seconds: float
    in_background: bool


@dataclass(frozen=True)
class _Share:
    """One rank's part of a checkpoint: tensors by key, their fragments, and shape and partition of whole parameters."""

    tensors: dict[str, torch.Tensor]
    fragments: list[list[Any]]
    parameters: dict[str, Any]


class CheckpointWriter:
    """Saves a run's checkpoints, one after the other. Created on all ranks together.

    Training waits only for a copy of the weights and moments in host memory, which a thread writes. The ranks' threads
    communicate over their own process group. The files are written to a folder with a temporary name, synced and
    checksummed, and the folder is renamed after the last one, so that a reader sees all of it or nothing.

    Args:
        keep_last: number of newest checkpoints to keep; older ones are removed once a new one is in place. None: all.
        keep_every_steps: checkpoints of multiples of this many steps are never removed.
        background: False: training waits until each checkpoint is written, and no copy is made; as it does when a
            machine has too little free memory for the copies of its ranks.
    """

    def __init__(
        self,
        engine: Engine,
        checkpoints: Path,
        keep_last: int | None = None,
        keep_every_steps: int | None = None,
        *,
        background: bool = True,
    ) -> None:
        self._engine = engine
        self._checkpoints = checkpoints
        self._keep_last, self._keep_every_steps = keep_last, keep_every_steps
        self._background = background
        self._group = dist.new_group(backend="gloo")
        self._thread: threading.Thread | None = None
        self._finished: list[Saved] = []
        self._blocked_seconds = 0.0
        self._pinned_bytes = 0  # of earlier copies of a GPU's memory, which torch keeps for the next ones
        self.failure: str | None = None
        """Reason why the last checkpoint could not be written; it is set at different times on different ranks."""

    def save(self, step: int, consumed_samples: int, facts: dict[str, Any]) -> None:
        """Copy the weights and moments, and begin to write a checkpoint. Collective.

        Args:
            facts: everything else that decides how the run continues: config, data digest, versions; the same on all
                ranks.

        Raises:
            CheckpointError: on every rank, when one of them could not write this checkpoint (unless in the background)
                or the previous one.
            ReplicaDriftError: on every rank, when replicated weights differ.
        """
        started = time.perf_counter()
        self.wait()
        engine = self._engine
        check_replicas(engine.trained_parameters(), engine.coordinate.tensor, step)
        in_background = self._background and self._copies_fit()
        share = _share_of(engine, copy=in_background)
        index = {
            "format": FORMAT_VERSION,
            "step": step,
            "consumed_samples": consumed_samples,
            "updates": engine.updates,
            "topology": {
                "tensor": engine.topology.tensor,
                "pipe": engine.topology.pipe,
                "data": engine.topology.data,
                "context": engine.topology.context,
            },
            **facts,
        }
        if not in_background:
            self._write(share, index, started, in_background)
            self._blocked_seconds = time.perf_counter() - started
            self.wait()
            return
        # A daemon, so that a process that must exit at once, because another one has died, does not wait for it.
        self._thread = threading.Thread(
            target=self._write, args=(share, index, started, in_background), name="checkpoint", daemon=True
        )
        self._blocked_seconds = time.perf_counter() - started
        self._thread.start()

    def wait(self) -> None:
        """Wait until the last checkpoint is finished. Collective.

        Raises:
            CheckpointError: on every rank, when one of them could not write it.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self.failure is not None:
            raise CheckpointError(self.failure)

    def finished(self) -> list[Saved]:
        """Checkpoints finished since the last call, as far as this rank knows."""
        done, self._finished = self._finished, []
        return done

    def _copies_fit(self) -> bool:
        """Whether each machine has enough memory for the copies of its ranks; the same answer on every rank.
        Collective."""
        needed = sum(
            values.numel() * values.element_size()
            for fragment in self._engine.fragments()
            for values in fragment.states.values()
        )
        ranks_on_node = int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))
        free = psutil.virtual_memory().available + self._pinned_bytes * ranks_on_node
        fits = needed * ranks_on_node <= SHARE_OF_FREE_MEMORY * free
        self._pinned_bytes = needed if local_device().type == "cuda" else 0
        answer = torch.tensor([int(fits)])
        dist.all_reduce(answer, dist.ReduceOp.MIN, group=self._group)
        return bool(answer)

    def _write(self, share: _Share, index: dict[str, Any], started: float, in_background: bool) -> None:
        final = step_folder(self._checkpoints, index["step"])
        unfinished = self._checkpoints / f".unfinished-{final.name}"
        first = self._engine.rank == 0
        try:
            self._together(lambda: _make_empty(unfinished) if first else None)
            report = self._together(lambda: _write_rank_file(share, unfinished / rank_file(self._engine.rank)))
            reports = gathered(report, self._group)
            self._together(lambda: self._put_in_place(index, reports, unfinished, final) if first else None)
        except CheckpointError as error:
            self.failure = f"{final}: not written: {error}; older checkpoints are untouched"
            if first:
                shutil.rmtree(unfinished, ignore_errors=True)
            return
        except RuntimeError as error:  # raised by gloo when another process is gone
            self.failure = f"{final}: not written: rank {self._engine.rank} has lost another one: {error}"
            return
        seconds = time.perf_counter() - started
        self._finished.append(
            Saved(index["step"], final, self._blocked_seconds if in_background else seconds, seconds, in_background)
        )

    def _together(self, action: Callable[[], T]) -> T:
        """The action's result; when it fails on any rank, the same error on all."""
        result, failures = attempt(action, (OSError, SafetensorError), self._group)
        if failures:
            raise CheckpointError(by_rank(failures))
        return result

    def _put_in_place(
        self, index: dict[str, Any], reports: list[dict[str, Any]], unfinished: Path, final: Path
    ) -> None:
        index["parameters"] = {name: entry for report in reports for name, entry in report["parameters"].items()}
        index["files"] = {rank_file(rank): report["file"] for rank, report in enumerate(reports)}
        write_index(unfinished, index)
        if final.exists():  # a damaged checkpoint that was passed over at the start
            shutil.rmtree(final)
        os.rename(unfinished, final)
        sync(self._checkpoints)
        write_text(self._checkpoints / LATEST_FILE, final.name + "\n")
        for old in superseded(complete_checkpoints(self._checkpoints), self._keep_last, self._keep_every_steps):
            # Renamed first, so that a kill during the removal leaves nothing that looks finished.
            doomed = old.with_name(f".removed-{old.name}")
            os.rename(old, doomed)
            shutil.rmtree(doomed)


def superseded(newest_first: Sequence[Path], keep_last: int | None, keep_every_steps: int | None) -> list[Path]:
    """Checkpoints to remove by the settings `keep_last` and `keep_every_steps`."""
    if keep_last is None:
        return []
    older = newest_first[keep_last:]
    return [folder for folder in older if not (keep_every_steps and step_of(folder) % keep_every_steps == 0)]


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _share_of(engine: Engine, *, copy: bool) -> _Share:
    share = _Share({}, [], {})
    for fragment in engine.fragments():
        share.parameters[fragment.name] = {
            "shape": list(fragment.shape),
            "partition": partition_to_json(fragment.partition),
            **({} if tuple(fragment.states) == STATES else {"states": list(fragment.states)}),
        }
        if fragment.is_copy or (fragment.partition is None and engine.coordinate.tensor != 0):
            continue  # the first stage, or tensor rank 0, stores the same values
        stored = StoredFragment(fragment.name, engine.coordinate.tensor, fragment.start, fragment.stop)
        share.fragments.append([stored.name, stored.tensor_rank, stored.start, stored.stop])
        for state, values in fragment.states.items():
            share.tensors[stored.key(state)] = _on_host(values.detach(), copy=copy)
    if local_device().type == "cuda":
        torch.cuda.current_stream().synchronize()
    return share


def _on_host(values: torch.Tensor, *, copy: bool) -> torch.Tensor:
    """Values in host memory; those of a GPU are there once its stream has come so far."""
    if values.device.type == "cpu":
        return values.clone() if copy else values.contiguous()
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)


def _write_rank_file(share: _Share, path: Path) -> dict[str, Any]:
    save_file(share.tensors, path)
    sync(path)
    file = {"bytes": path.stat().st_size, "sha256": sha256_file(path), "fragments": share.fragments}
    return {"parameters": share.parameters, "file": file}
