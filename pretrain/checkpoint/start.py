"""Where a run starts: its newest whole checkpoint, that of another run, the weights of another model, or its own
initial weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pretrain.checkpoint.layout import complete_checkpoints
from pretrain.checkpoint.load import check_same_past, check_same_run, load_checkpoint, load_frozen, load_weights
from pretrain.checkpoint.origin import origin_of
from pretrain.checkpoint.read import CheckpointReader
from pretrain.checkpoint.same_tokenizer import check_same_tokenizer
from pretrain.checkpoint.whole import WholeWeights, base_entry, open_base
from pretrain.data.loader import SampleReader
from pretrain.engine.engine import Engine
from pretrain.launch.agreement import agreed, from_first_rank


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    Attributes:
        step: finished steps.
        samples: consumed samples.
        is_new: whether the run has no checkpoint of its own yet.
        index: content of the `checkpoint.json` that the run goes on from; empty if there is none.
        origin: what the run keeps of the imported model that it started from, see `origin_of`.
        base: what the run's checkpoints record of the checkpoint with its frozen weights; None: none are frozen.
        notes: what the person at the terminal should know about it.
    """

    step: int = 0
    samples: int = 0
    is_new: bool = True
    index: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] | None = None
    base: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def load_start(engine: Engine, training: SampleReader) -> Start:
    """Load the newest whole checkpoint of the run; without one, that of `branch_from`, or `initial_weights`, where they
    are given. Collective.

    Args:
        training: the train samples, with the ranges that are skipped.

    Raises:
        ValueError: on every rank: all checkpoints are damaged, or the one to start from is of another model, past or
            tokenizer.
    """
    config = engine.config
    reader, notes = newest_whole(config.output / "checkpoints")
    if reader is not None:
        return _go_on(engine, training, reader, notes, is_new=False)
    if config.branch_from is not None:
        reader = _verified(config.branch_from)
        return _go_on(engine, training, reader, [f"the run branches off {reader.path}"], is_new=True)
    if config.initial_weights is not None:
        return _start_from_weights(engine, training, config.initial_weights)
    return Start()


def newest_whole(checkpoints: Path) -> tuple[CheckpointReader | None, list[str]]:
    """The newest checkpoint that is whole, and why newer ones were passed over; each rank reads its part of the files
    and compares their checksums. Collective.

    Returns:
        (None, []) when there is no checkpoint yet.

    Raises:
        ValueError: on every rank: there are checkpoints, and all are damaged.
    """
    folders = from_first_rank(complete_checkpoints(checkpoints))
    notes: list[str] = []
    for folder in folders:
        try:
            return _verified(folder), notes
        except ValueError as error:
            notes.append(f"passed over: {error}")
    if folders:
        raise ValueError("no checkpoint is whole:\n  " + "\n  ".join(notes))
    return None, []


def _verified(folder: Path) -> CheckpointReader:
    reader = agreed(lambda: CheckpointReader(folder))
    agreed(lambda: reader.verify(dist.get_rank(), dist.get_world_size()))
    return reader


def _go_on(
    engine: Engine, training: SampleReader, reader: CheckpointReader, notes: list[str], *, is_new: bool
) -> Start:
    settings = engine.config.model_dump(mode="json")
    reached = training.reached(reader.consumed_samples)
    changes = agreed(lambda: check_same_run(reader, settings, training.digest(before=reached)))
    agreed(lambda: check_same_past(reader, training.skipped))
    base = agreed(lambda: open_base(reader, engine.config.initial_weights))
    assert (base is not None) == engine.config.is_partial, f"{reader.path}: what is trained was compared"
    load_checkpoint(engine, reader)
    if base is not None:
        load_frozen(engine, _whole_weights(base))
    notes += [f"changed since {reader.path.name}: {change}" for change in changes]
    return Start(
        reader.step,
        reader.consumed_samples,
        is_new,
        reader.index,
        origin_of(reader),
        None if base is None else base_entry(base),
        tuple(notes),
    )


def _start_from_weights(engine: Engine, training: SampleReader, path: Path) -> Start:
    reader = agreed(lambda: CheckpointReader(path))
    agreed(lambda: check_same_tokenizer(reader, training.mixture))
    weights = _whole_weights(reader)
    load_weights(engine, weights)
    note = f"the weights are those of {reader.path}"
    if weights.adapter_settings is not None:
        note += ", with its adapters merged"
    if reader.imported_updates:
        note += f", and AdamW's moments those of its {reader.imported_updates} updates"
    base = base_entry(reader) if engine.config.is_partial else None
    return Start(origin=agreed(lambda: origin_of(reader)), base=base, notes=(note,))


def _whole_weights(reader: CheckpointReader) -> WholeWeights:
    """All weights of a checkpoint's model; each rank compares the checksums of its part of the files. Collective."""
    weights = agreed(lambda: WholeWeights(reader))
    agreed(lambda: weights.verify(dist.get_rank(), dist.get_world_size()))
    return weights
