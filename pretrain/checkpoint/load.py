"""Loads a checkpoint, written under any topology, into a running engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from foundation.configuration import flat_settings
from foundation.progress import Progress
from pretrain.checkpoint.layout import STATES, CheckpointError
from pretrain.checkpoint.read import BY_TOKEN, CheckpointReader
from pretrain.config import ModelConfig
from pretrain.data.skips import SkippedRanges
from pretrain.engine.engine import Engine, Fragment
from pretrain.launch.agreement import attempt, by_rank


def load_checkpoint(engine: Engine, reader: CheckpointReader) -> None:
    """Load this rank's master weights, moments and step counter, and copy the weights to the model. Collective.

    Training continues bit-exactly under the topology that wrote the checkpoint. Under another one the loaded values are
    the same, and only the order of later sums differs.

    Raises:
        CheckpointError: on every rank, when one of them cannot read what it needs.
    """
    _fill(engine, reader, STATES)
    engine.restored(reader.updates)


def load_weights(engine: Engine, reader: CheckpointReader) -> None:
    """Load this rank's master weights only, for a new run that starts from another model. Collective.

    Raises:
        CheckpointError: on every rank: the checkpoint's model differs, or a rank cannot read what it needs.
    """
    ours, theirs = engine.config.model, ModelConfig.model_validate(reader.config["model"])
    for field in type(ours).model_fields:
        if field not in TRAINING_ONLY and getattr(ours, field) != getattr(theirs, field):
            raise CheckpointError(
                f"initial_weights: {reader.path}: its model has {field} {getattr(theirs, field)!r}, but model.{field} "
                f"is {getattr(ours, field)!r}: set model.{field}={getattr(theirs, field)}"
            )
    _fill(engine, reader, ("weight",))
    engine.restored(0)


TRAINING_ONLY = frozenset(
    {
        "family",
        "initialisation",
        "initial_std",
        "z_loss",
        "maximum_z_loss",
        "embedding_gradient_scale",
        "label_smoothing",
        "hidden_dropout",
        "attention_dropout",
        "embedding_learning_rate_ratio",
    }
)
"""Settings of a model that do not change what its weights compute."""


def _fill(engine: Engine, reader: CheckpointReader, states: Sequence[str]) -> None:
    _, failures = attempt(lambda: _fill_fragments(engine, reader, states), (CheckpointError, OSError))
    if failures:
        raise CheckpointError(by_rank(failures))


def _fill_fragments(engine: Engine, reader: CheckpointReader, states: Sequence[str]) -> None:
    fragments = list(engine.fragments())
    title = f"{reader.path.name}, written by {reader.topology}, read by {engine.topology}"
    progress = Progress(title, len(fragments), "parameters of the first rank")
    with progress if engine.rank == 0 else nullcontext():
        for fragment in fragments:
            _fill_fragment(fragment, engine, reader, states)
            if engine.rank == 0:
                progress.advance()


def _fill_fragment(fragment: Fragment, engine: Engine, reader: CheckpointReader, states: Sequence[str]) -> None:
    shape = fragment.shape
    if fragment.name in BY_TOKEN:  # without padding rows
        shape = (engine.config.model.vocabulary_size, *shape[1:])
    if reader.shape(fragment.name) != shape:
        raise CheckpointError(
            f"{reader.path}: {fragment.name} has shape {reader.shape(fragment.name)}, the model {shape}"
        )
    rank, degree = engine.coordinate.tensor, engine.topology.tensor
    for state in states:
        values = reader.shard_range(
            fragment.name, state, rank, degree, fragment.start, fragment.stop, fragment.partition
        )
        if not values.isfinite().all():
            raise CheckpointError(
                f"{reader.path}: {state} of {fragment.name} has values that are NaN or infinite: start from another "
                "checkpoint, or repair the model that it was imported from"
            )
        fragment.states[state].copy_(values)


def check_same_run(reader: CheckpointReader, config: dict[str, Any], data_digest: str) -> list[str]:
    """Check the configuration of a resumed run against its checkpoint.

    Returns:
        Settings that have changed and may change, as `field: old -> new`, for the log.

    Raises:
        CheckpointError: the model, the seed, the precision or the data differ, so that it would be another run.
    """
    # Validated, so that a setting that did not exist when the checkpoint was written has its default.
    model = ModelConfig.model_validate(reader.config["model"]).model_dump(mode="json")
    old, new = flat_settings({**reader.config, "model": model}), flat_settings(config)
    for settings in (old, new):  # place and end of the run, which do not affect what it computes
        settings.pop("output", None)
        settings.pop("stop_after_step", None)
    changed = [
        (field, old.get(field), new.get(field)) for field in sorted({*old, *new}) if old.get(field) != new.get(field)
    ]
    for field, before, now in changed:
        if field.startswith("model.") or field in ("seed", "precision", "data.sequence_length"):
            raise CheckpointError(
                f"{reader.path}: written with {field}={before!r}, now {now!r}: restore it, or use a new output folder"
            )
    if reader.data_digest != data_digest:
        raise CheckpointError(
            f"{reader.path}: the token files, their weights or the sample order are not those it was trained on "
            f"(digest {reader.data_digest[:12]}, now {data_digest[:12]}): restore data.mixture, or use a new output "
            "folder"
        )
    return [f"{field}: {before} -> {now}" for field, before, now in changed]


def check_same_past(reader: CheckpointReader, skipped: SkippedRanges) -> None:
    """Refuse skipped ranges that would change what the checkpoint was trained on.

    Raises:
        CheckpointError: samples that were trained on are skipped now, or the reverse; names the range.
    """
    before = SkippedRanges([(start, stop) for start, stop in reader.index.get("skipped_samples", [])])
    consumed = reader.consumed_samples
    for skip, other, what in ((skipped, before, "is skipped now"), (before, skipped, "was skipped and is not now")):
        last = int(other.samples_at(consumed - 1)) if consumed else -1
        for start, stop in skip.ranges:
            wrong = other.position_of(min(stop, last + 1)) - other.position_of(min(start, last + 1))
            if wrong > 0:
                raise CheckpointError(
                    f"{reader.path}: of the {consumed} samples that it was trained on, {wrong} of [{start}, {stop}) "
                    f"{what}: restore data.skipped_samples and the ledger, or remove the folder to go back to the "
                    "previous checkpoint"
                )
