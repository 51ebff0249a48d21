"""Settings of a data plan that changes during a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field, model_validator

from foundation.configuration import Settings
from pretrain.data.order import Phase


class PhaseChange(Settings):
    """Other weights or another sequence length from a sample on; a setting that is left out does not change."""

    from_sample: int = Field(gt=0)
    """Number of the sample that the phase begins with."""
    weights: dict[str, float] | None = None
    """Weights by dataset name; this phase has no samples of datasets that are not named."""
    sequence_length: int | None = Field(default=None, gt=0)
    """Tokens of a sample in this phase."""

    @model_validator(mode="after")
    def _changes_something(self) -> PhaseChange:
        if self.weights is None and self.sequence_length is None:
            raise ValueError(f"from_sample {self.from_sample}: give weights or sequence_length, or leave the phase out")
        for name, weight in (self.weights or {}).items():
            if not weight > 0:
                raise ValueError(
                    f"weights: {name} has {weight}, which must be positive; to use none of a dataset, leave it out"
                )
        return self


def build_phases(weights: Mapping[str, float], sequence_length: int, changes: Sequence[PhaseChange]) -> list[Phase]:
    """The phases of a run that begins with these weights and this sequence length.

    Raises:
        ValueError: a phase names an unknown dataset.
    """
    names = list(weights)
    current, length = dict(weights), sequence_length
    phases = [Phase(0, length, tuple(current[name] for name in names))]
    for change in changes:
        if change.weights is not None:
            unknown = sorted(set(change.weights) - set(names))
            if unknown:
                raise ValueError(
                    f"phase from sample {change.from_sample}: no dataset is called {', '.join(unknown)}; "
                    f"there are {', '.join(names)}"
                )
            current = {name: change.weights.get(name, 0.0) for name in names}
        length = change.sequence_length or length
        phases.append(Phase(change.from_sample, length, tuple(current[name] for name in names)))
    return phases
