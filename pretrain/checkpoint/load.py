"""Loads a checkpoint, written under any topology, into a running engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch

from foundation.configuration import flat_settings
from foundation.progress import Progress
from pretrain.checkpoint.layout import CheckpointError
from pretrain.checkpoint.read import BY_TOKEN, CheckpointReader
from pretrain.checkpoint.whole import WholeWeights
from pretrain.config import ModelConfig
from pretrain.data.skips import SkippedRanges
from pretrain.engine.engine import Engine
from pretrain.launch.agreement import attempt, by_rank
from pretrain.model.partition import partition_of
from pretrain.optimizers.settings import OptimizerConfig
from pretrain.tuning import is_adapter_weight

T = TypeVar("T")


def load_checkpoint(engine: Engine, reader: CheckpointReader) -> None:
    """Load this rank's master weights, moments and step counter, and copy the weights to the model. Collective.

    Training continues bit-exactly under the topology that wrote the checkpoint. Under another one the loaded values are
    the same, and only the order of later sums differs.

    Raises:
        CheckpointError: on every rank, when one of them cannot read what it needs.
    """
    _attempt(lambda: _fill_fragments(engine, reader))
    engine.restored(reader.updates)


def load_weights(engine: Engine, weights: WholeWeights) -> None:
    """Load this rank's weights, for a new run that starts from another model: trained ones, whose adapters keep their
    initial weights, and frozen ones; and moments only if they were imported for it. Collective.

    Raises:
        CheckpointError: on every rank: the checkpoint's model differs, its moments are not those of the run's
            optimizer, or a rank cannot read what it needs.
    """
    ours, theirs = engine.config.model, weights.model
    for field in type(ours).model_fields:
        if field not in TRAINING_ONLY and getattr(ours, field) != getattr(theirs, field):
            raise CheckpointError(
                f"initial_weights: {weights.path}: its model has {field} {getattr(theirs, field)!r}, but model.{field} "
                f"is {getattr(ours, field)!r}: set model.{field}={getattr(theirs, field)}"
            )
    updates = weights.reader.imported_updates
    if updates and (engine.config.optimizer.kind != "adamw" or engine.config.is_partial):
        found = (
            "weights are frozen" if engine.config.is_partial else f"optimizer.kind is {engine.config.optimizer.kind}"
        )
        raise CheckpointError(
            f"initial_weights: {weights.path}: it has AdamW's moments of all weights, but {found}: import it without "
            "--moments"
        )
    _attempt(lambda: _fill_trained(engine, weights, has_moments=updates > 0))
    load_frozen(engine, weights)
    engine.restored(updates)


def load_frozen(engine: Engine, weights: WholeWeights) -> None:
    """Load this rank's frozen weights, in the precision of the forward pass. Collective.

    Raises:
        CheckpointError: on every rank, when one of them cannot read what it needs.
    """
    _attempt(lambda: _fill_frozen(engine, weights))


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
        "base_hidden_size",
    }
)
"""Settings of a model that do not change what its weights compute."""


def _attempt(action: Callable[[], None]) -> None:
    _, failures = attempt(action, (CheckpointError, OSError))
    if failures:
        raise CheckpointError(by_rank(failures))


def _fill_fragments(engine: Engine, reader: CheckpointReader) -> None:
    rank, degree = engine.coordinate.tensor, engine.topology.tensor
    fragments = list(engine.fragments())
    title = f"{reader.path.name}, written by {reader.topology}, read by {engine.topology}"
    for fragment in _shown(title, fragments, engine):
        _check_shape(engine, reader, fragment.name, fragment.shape)
        place = rank, degree, fragment.start, fragment.stop, fragment.partition
        for state, own in fragment.states.items():
            values = reader.shard_range(fragment.name, state, *place)
            own.copy_(_finite(values, reader.path, state, fragment.name))


def _fill_trained(engine: Engine, weights: WholeWeights, has_moments: bool) -> None:
    rank, degree = engine.coordinate.tensor, engine.topology.tensor
    fragments = [fragment for fragment in engine.fragments() if not is_adapter_weight(fragment.name)]
    title = f"{weights.path.name}, written by {weights.reader.topology}, read by {engine.topology}"
    for fragment in _shown(title, fragments, engine):
        _check_shape(engine, weights, fragment.name, fragment.shape)
        place = rank, degree, fragment.start, fragment.stop, fragment.partition
        for state, own in fragment.states.items():
            if state == "weight":
                values = weights.shard_range(fragment.name, *place)
            elif has_moments:
                values = weights.reader.shard_range(fragment.name, state, *place)
            else:
                continue
            own.copy_(_finite(values, weights.path, state, fragment.name))


def _fill_frozen(engine: Engine, weights: WholeWeights) -> None:
    rank, degree = engine.coordinate.tensor, engine.topology.tensor
    parameters = list(engine.frozen_parameters())
    for name, parameter in _shown(f"{weights.path.name}, frozen weights", parameters, engine):
        _check_shape(engine, weights, name, engine.whole_shape(parameter))
        values = weights.shard_range(name, rank, degree, 0, parameter.numel(), partition_of(parameter))
        with torch.no_grad():
            parameter.view(-1).copy_(_finite(values, weights.path, "weight", name))


def _shown(title: str, items: Sequence[T], engine: Engine) -> Iterator[T]:
    """The items, with the progress of the first rank at the terminal."""
    progress = Progress(title, len(items), "parameters of the first rank")
    with progress if engine.rank == 0 and items else nullcontext():
        for item in items:
            yield item
            if engine.rank == 0:
                progress.advance()


def _check_shape(engine: Engine, source: CheckpointReader | WholeWeights, name: str, shape: tuple[int, ...]) -> None:
    if name in BY_TOKEN:  # without padding rows
        shape = (engine.config.model.vocabulary_size, *shape[1:])
    if source.shape(name) != shape:
        raise CheckpointError(f"{source.path}: {name} has shape {source.shape(name)}, the model {shape}")


def _finite(values: torch.Tensor, path: Path, state: str, name: str) -> torch.Tensor:
    if not values.isfinite().all():
        raise CheckpointError(
            f"{path}: {state} of {name} has values that are NaN or infinite: start from another checkpoint, or repair "
            "the model that it was imported from"
        )
    return values


FIXED = ("seed", "precision", "data.sequence_length", "trainable", "adapter", "optimizer.kind")
"""Settings of a run that stay, beside those of its model and adapters."""
CHANGEABLE = ("adapter.dropout",)
"""Settings of adapters that may change."""


def check_same_run(reader: CheckpointReader, config: dict[str, Any], data_digest: str) -> list[str]:
    """Check the configuration of a resumed run against its checkpoint.

    Returns:
        Settings that have changed and may change, as `field: old -> new`, for the log.

    Raises:
        CheckpointError: the model, what is trained of it, the seed, the precision or the data differ, so that it would
            be another run.
    """
    # Validated, so that a setting that did not exist when the checkpoint was written has its default.
    model = ModelConfig.model_validate(reader.config["model"]).model_dump(mode="json")
    optimizer = OptimizerConfig.model_validate(reader.config["optimizer"]).model_dump(mode="json")
    old, new = flat_settings({**reader.config, "model": model, "optimizer": optimizer}), flat_settings(config)
    for settings in (old, new):  # place and end of the run, which do not affect what it computes
        settings.pop("output", None)
        settings.pop("stop_after_step", None)
    changed = [
        (field, old.get(field), new.get(field)) for field in sorted({*old, *new}) if old.get(field) != new.get(field)
    ]
    for field, before, now in changed:
        if (field.startswith(("model.", "adapter.")) and field not in CHANGEABLE) or field in FIXED:
            raise CheckpointError(
                f"{reader.path}: written with {field}={before!r}, now {now!r}: restore it, or use a new output folder"
            )
    if reader.data_digest != data_digest:
        raise CheckpointError(
            f"{reader.path}: the token files, their weights or the sample order are not those it was trained on "
            f"(digest {reader.data_digest[:12]}, now {data_digest[:12]}): restore data.mixture, or use a new output "
            "folder; of a mixture that has grown, give those that the run began with as data.weights"
        )
    return [f"{field}: {before} -> {now}" for field, before, now in changed]


def check_same_past(reader: CheckpointReader, skipped: SkippedRanges) -> None:
    """Refuse skipped ranges that would change what the checkpoint was trained on.

    Raises:
        CheckpointError: samples that were trained on are skipped now, or the reverse; names the range.
    """
    before = SkippedRanges(reader.skipped_samples)
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
