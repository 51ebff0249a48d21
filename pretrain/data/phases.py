"""Settings of a data plan that changes during a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from foundation.configuration import Settings
from pretrain.data.order import Phase


def _refuse_other_weights(weights: dict[str, float]) -> dict[str, float]:
    if not weights:
        raise ValueError("no dataset is named")
    for name, weight in weights.items():
        if not weight > 0:
            raise ValueError(f"{name} has {weight}, which must be positive; to use none of a dataset, leave it out")
    return weights


Weights = Annotated[dict[str, float], AfterValidator(_refuse_other_weights)]
"""Weights by dataset name."""


class PhaseChange(Settings):
    """Other weights or another sequence length from a sample on; a setting that is left out does not change."""

    from_sample: int = Field(gt=0)
    """Number of the sample that the phase begins with."""
    weights: Weights | None = None
    """Weights by dataset name; this phase has no samples of datasets that are not named."""
    sequence_length: int | None = Field(default=None, gt=0)
    """Tokens of a sample in this phase."""

    @model_validator(mode="after")
    def _changes_something(self) -> PhaseChange:
        if self.weights is None and self.sequence_length is None:
            raise ValueError(f"from_sample {self.from_sample}: give weights or sequence_length, or leave the phase out")
        return self


def build_phases(
    names: Sequence[str], weights: Mapping[str, float], sequence_length: int, changes: Sequence[PhaseChange]
) -> list[Phase]:
    """The phases of a run that begins with these weights and this sequence length.

    Args:
        names: all datasets.

    Raises:
        ValueError: a phase names an unknown dataset.
    """

    def in_order(weights: Mapping[str, float], where: str) -> tuple[float, ...]:
        unknown = sorted(set(weights) - set(names))
        if unknown:
            raise ValueError(f"{where}: no dataset is called {', '.join(unknown)}; there are {', '.join(names)}")
        return tuple(weights.get(name, 0.0) for name in names)

    phases = [Phase(0, sequence_length, in_order(weights, "data.weights"))]
    for change in changes:
        last, where = phases[-1], f"phase from sample {change.from_sample}"
        now = last.weights if change.weights is None else in_order(change.weights, where)
        phases.append(Phase(change.from_sample, change.sequence_length or last.sequence_length, now))
    return phases
