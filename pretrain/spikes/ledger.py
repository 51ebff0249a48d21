"""The ledger of spikes and of the answers to them: append-only, in the run's folder and in each checkpoint.

The ledger decides which samples are skipped and how far the learning rate is lowered, however and under whatever
topology the run is resumed. Ranges are half-open, in sample numbers of the data plan, which depend on neither the batch
size nor the number of processes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from foundation.configuration import Settings

LEDGER_FILE = "spikes.jsonl"

Kind = Literal["transient", "rollback", "mended", "stop"]


class Entry(Settings):
    """One event of the ledger. The fields from `samples` on belong to rollbacks."""

    kind: Kind
    """Kind of the event; `mended` follows a rollback when no spike has occurred during the cool-down."""
    step: int = Field(ge=0)
    """Step at which the spike was recognised."""
    onset: int = Field(ge=0)
    """First step of the spike."""
    peak: float | None = None
    """Highest loss over its baseline, as a factor; None: NaN or infinity."""
    reason: str
    samples: tuple[int, int] | None = None
    """Samples [start, stop) of the steps from the onset to `step`, skipped ones in between included."""
    attempt: int | None = None
    """Number of the rollback at the same place, from 1."""
    to_step: int | None = None
    """Step of the checkpoint that the run went back to."""
    skipped: tuple[int, int] | None = None
    """Samples [start, stop) that are skipped from then on."""
    learning_rate_factor: float | None = None
    rewarm_steps: int | None = None
    time: str = ""
    """Time in ISO 8601, UTC; ignored when entries are compared."""

    def is_same(self, other: Entry) -> bool:
        """Whether both record the same event, which happens again when a step is repeated after a resume."""
        return self.model_copy(update={"time": ""}) == other.model_copy(update={"time": ""})


def describe(entry: Entry) -> str:
    """One line about an entry, for a person."""
    if entry.kind == "mended":
        return f"step {entry.step:,}: mended; {entry.reason} after the one of step {entry.onset:,}"
    height = "not a number" if entry.peak is None else f"up to {entry.peak:.2f} times its level"
    text = f"step {entry.step:,}: {entry.kind}; loss {height} from step {entry.onset:,} on, {entry.reason}"
    if entry.to_step is not None and entry.skipped is not None:
        start, stop = entry.skipped
        text += f"; back to step {entry.to_step:,}, skipping samples [{start:,}, {stop:,}), attempt {entry.attempt}"
    if entry.learning_rate_factor is not None:
        text += f"; learning rate × {entry.learning_rate_factor:g}, warmed up over {entry.rewarm_steps} steps"
    return text


def rollbacks(entries: Sequence[Entry]) -> list[Entry]:
    """The rollbacks among the entries."""
    return [entry for entry in entries if entry.kind == "rollback"]


def branch_name(number: int) -> str:
    """Name of the branch that rollback `number` abandons; the first is 1."""
    return f"abandoned-{number:02d}"


def skipped_ranges(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    """All ranges of samples that rollbacks skip."""
    return [entry.skipped for entry in entries if entry.skipped is not None]


def rate_factor(entries: Sequence[Entry], step: int) -> float:
    """Factor of the learning rate in step `step`."""
    factor = 1.0
    for i, entry in enumerate(entries):
        if entry.learning_rate_factor is None or entry.rewarm_steps is None:
            continue
        # A later rollback to an earlier step does not restore the learning rate.
        since = min(later.to_step for later in entries[i:] if later.to_step is not None)
        if step > since:
            factor *= entry.learning_rate_factor * min(1.0, (step - since) / entry.rewarm_steps)
    return factor


def read_ledger(path: Path) -> list[Entry]:
    """All entries of a ledger file, none without a file. An incomplete last line is ignored.

    Raises:
        ValueError: another line is damaged; names it.
    """
    if not path.is_file():
        return []
    entries = []
    raw = path.read_bytes().split(b"\n")
    for number, line in enumerate(raw, start=1):
        if not line.strip():
            continue
        try:
            entries.append(Entry.model_validate_json(line))
        except ValidationError as error:
            if number == len(raw):  # what follows the last newline
                break
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(
                f"{path}:{number}: damaged line: {place + ': ' if place else ''}{first['msg']}; restore the ledger "
                "from the newest checkpoint.json (`spikes.ledger`), one entry per line"
            ) from None
    return entries


def append_entries(path: Path, entries: Sequence[Entry]) -> None:
    """Append entries to a ledger file, and sync it to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.read_bytes() if path.is_file() else b""
    with open(path, "r+b" if whole else "wb") as file:
        file.truncate(whole.rfind(b"\n") + 1)  # remove an incomplete line of a killed process
        file.seek(0, os.SEEK_END)
        for entry in entries:
            values = entry.model_dump(mode="json", exclude_none=True)
            file.write((json.dumps(values, ensure_ascii=False) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def joined(path: Path, on_disk: Sequence[Entry], in_checkpoint: Sequence[Entry]) -> list[Entry]:
    """The whole ledger from its file and a checkpoint of the same run: one of them continues the other.

    Raises:
        ValueError: they contradict each other.
    """
    longer, shorter = (on_disk, in_checkpoint) if len(on_disk) >= len(in_checkpoint) else (in_checkpoint, on_disk)
    for number, (one, other) in enumerate(zip(longer, shorter, strict=False), start=1):
        if not one.is_same(other):
            raise ValueError(
                f"{path}:{number}: records a {on_disk[number - 1].kind} at step {on_disk[number - 1].step}, the "
                f"checkpoint a {in_checkpoint[number - 1].kind} at step {in_checkpoint[number - 1].step}: the file "
                "belongs to another run; remove it to use the ledger of the checkpoint"
            )
    return list(longer)
