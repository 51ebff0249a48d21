"""Connects detector, policy and ledger with a training run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch.distributed as dist

from foundation.atomic_files import digest
from pretrain.checkpoint.abandon import abandon_checkpoints
from pretrain.checkpoint.layout import INDEX_FILE, CheckpointError, complete_checkpoints, step_folder
from pretrain.checkpoint.read import CheckpointReader
from pretrain.launch.agreement import agreed, attempt, differing_ranks, from_first_rank
from pretrain.spikes.detector import Detector, Verdict
from pretrain.spikes.ledger import (
    LEDGER_FILE,
    Entry,
    append_entries,
    branch_name,
    joined,
    rate_factor,
    read_ledger,
    rollbacks,
    skipped_ranges,
)
from pretrain.spikes.policy import decide
from pretrain.spikes.settings import SpikesConfig

FACT = "spikes"
"""Key of the watch's state in `checkpoint.json`."""


class SpikeWatch:
    """Checks every step. Each rank sees the same reduced numbers, so that a quiet step costs no communication. Rank 0
    decides the answer to a spike and broadcasts it. Created on all ranks together.

    Args:
        output: the run's folder, with its ledger.
    Raises:
        ValueError: on every rank; see `open_ledger`.
    """

    def __init__(self, settings: SpikesConfig, output: Path, rank: int) -> None:
        self._settings = settings
        self._path = output / LEDGER_FILE
        self._checkpoints = output / "checkpoints"
        self._rank = rank
        self._detector = Detector(settings.detector)
        self._first_samples: dict[int, int] = {}
        self.entries = from_first_rank(agreed(lambda: open_ledger(output) if rank == 0 else []))

    @property
    def enabled(self) -> bool:
        return self._settings.enabled

    @property
    def suspects(self) -> bool:
        """Whether the last steps may be a spike."""
        return self._detector.state != "ok"

    @property
    def skipped(self) -> list[tuple[int, int]]:
        """Half-open ranges of samples that the ledger skips."""
        return skipped_ranges(self.entries)

    def rate_factor(self, step: int) -> float:
        """Factor of the learning rate in step `step`."""
        return rate_factor(self.entries, step)

    def norm_limit(self, step: int, batch_size: int) -> float:
        """Gradient norm above which the update of step `step`, of `batch_size` samples, is dropped."""
        drops = self._settings.enabled and self._settings.transient == "drop"
        return self._detector.norm_limit(step, batch_size) if drops else float("inf")

    def remember(self, step: int, first_sample: int) -> None:
        """Record the first sample of a step; nothing else is known of a step without an update."""
        self._first_samples[step] = first_sample
        # An onset may be this many steps ago, and the skipped range begins before it.
        kept = self._settings.rollback_steps + self._settings.detector.patience_steps + self._settings.detector.window
        self._first_samples.pop(step - kept, None)

    def observe(
        self, step: int, loss: float, signs: Mapping[str, float], *, first_sample: int, batch_size: int, phase: int
    ) -> Verdict:
        """Check a finished step; the same verdict on every rank. A persistent spike requires an `answer`."""
        if not self._settings.enabled:
            return Verdict("ok")
        self.remember(step, first_sample)
        verdict = self._detector.observe(step, loss, signs, phase=phase, batch_size=batch_size)
        if verdict.state == "persistent":
            return verdict
        if verdict.state == "transient" and verdict.onset is not None:
            peak = None if verdict.peak == float("inf") else verdict.peak
            self._add(Entry(kind="transient", step=step, onset=verdict.onset, peak=peak, reason=verdict.reason))
        self._add_mended(step)
        return verdict

    def answer(self, verdict: Verdict, step: int, global_batch_size: int) -> Entry:
        """Decide the rollback or the stop that answers a persistent spike. Collective.

        No checkpoint may be in progress, because it could exist for one rank and not for another.
        """
        healthy = self._healthy_checkpoints() if self._rank == 0 else []
        while True:
            entry = None
            if self._rank == 0:
                entry = decide(
                    verdict, step, self.entries, healthy, self._first_samples, global_batch_size, self._settings
                ).model_copy(update={"time": _now()})
            answer = from_first_rank(entry)
            assert answer is not None
            if answer.to_step is None or self._is_whole(answer.to_step):
                break
            if self._rank == 0:
                healthy.remove(answer.to_step)
        self._add(answer)
        if answer.kind == "rollback" and self._rank == 0:
            abandon_left_behind(self._checkpoints, self.entries)
        dist.barrier()
        return answer

    def _healthy_checkpoints(self) -> list[int]:
        """Steps of the checkpoints that were saved without a suspicion, newest first."""
        steps = []
        for folder in complete_checkpoints(self._checkpoints):
            index = _index(folder)
            if index is not None and (index.get(FACT) or {"suspect": False})["suspect"] is False:
                steps.append(int(index["step"]))
        return steps

    def _is_whole(self, step: int) -> bool:
        """Whether the checkpoint of a step is whole; each rank reads its part of the files. Collective."""
        folder = step_folder(self._checkpoints, step)
        _, failures = attempt(
            lambda: CheckpointReader(folder).verify(self._rank, dist.get_world_size()), (CheckpointError, OSError)
        )
        return not failures

    def _add_mended(self, step: int) -> None:
        done = rollbacks(self.entries)
        if not done or any(entry.kind == "mended" and entry.onset == done[-1].onset for entry in self.entries):
            return
        if step > done[-1].onset + self._settings.cooldown_steps:
            quiet = f"no spike for {self._settings.cooldown_steps} steps"
            self._add(Entry(kind="mended", step=step, onset=done[-1].onset, reason=quiet))

    def _add(self, entry: Entry) -> None:
        if any(entry.is_same(known) for known in self.entries):  # a step that is repeated after a resume
            return
        self.entries.append(entry.model_copy(update={"time": entry.time or _now()}))
        if self._rank == 0:
            append_entries(self._path, self.entries[-1:])

    def to_json(self) -> dict[str, Any]:
        """State for a checkpoint. Collective.

        Raises:
            RuntimeError: on every rank, when the detectors of the ranks differ.
        """
        detector = self._detector.to_json()
        different = differing_ranks(digest(detector))
        if different:
            raise RuntimeError(f"ranks {different} have seen another loss or gradient norm than rank 0")
        return {
            "suspect": self.suspects,
            "detector": detector,
            "first_samples": sorted(self._first_samples.items()),
            "ledger": [entry.model_dump(mode="json", exclude_none=True) for entry in self.entries],
        }

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Restore the detector from a checkpoint. The ledger is kept, because it is never behind a checkpoint."""
        if state is None:  # the checkpoint was written without spike detection
            self._detector, self._first_samples = Detector(self._settings.detector), {}
            return
        self._detector = Detector.from_json(self._settings.detector, state["detector"])
        self._first_samples = {int(step): int(sample) for step, sample in state["first_samples"]}


def open_ledger(output: Path) -> list[Entry]:
    """The whole ledger of a run, from its file and its newest checkpoint. Also puts aside the checkpoints of abandoned
    branches, in case the run was killed during a rollback. Rank 0 only.

    Raises:
        ValueError: file and checkpoint contradict each other.
    """
    path, checkpoints = output / LEDGER_FILE, output / "checkpoints"
    on_disk = read_ledger(path)
    in_checkpoint: list[Entry] = []
    for folder in complete_checkpoints(checkpoints):
        index = _index(folder)
        if index is not None:
            in_checkpoint = _entries(index)
            break
    entries = joined(path, on_disk, in_checkpoint)
    if len(entries) > len(on_disk):
        append_entries(path, entries[len(on_disk) :])
    if checkpoints.is_dir():
        abandon_left_behind(checkpoints, entries)
    return entries


def abandon_left_behind(checkpoints: Path, entries: list[Entry]) -> None:
    """Put aside every checkpoint of an abandoned branch: its ledger lacks a rollback, and it is later than the step
    that the rollback went back to."""
    done = rollbacks(entries)
    if not done:
        return
    left = []
    for folder in complete_checkpoints(checkpoints):
        index = _index(folder)
        if index is None:
            continue
        unknown = rollbacks(entries[len(_entries(index)) :])
        if any(entry.to_step is not None and entry.to_step < int(index["step"]) for entry in unknown):
            left.append(int(index["step"]))
    abandon_checkpoints(checkpoints, left, branch_name(len(done)))


def _entries(index: Mapping[str, Any]) -> list[Entry]:
    return [Entry.model_validate(values) for values in (index.get(FACT) or {"ledger": []})["ledger"]]


def _index(folder: Path) -> dict[str, Any] | None:
    try:
        index: dict[str, Any] = json.loads((folder / INDEX_FILE).read_text())
        return index
    except (OSError, ValueError):
        return None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
