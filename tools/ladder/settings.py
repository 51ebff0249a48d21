"""Settings of a ladder: which small runs are made, `ladder.yaml`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from foundation.configuration import Settings

LEAST_TOKENS_PER_PARAMETER = 20.0
"""Fewest tokens of a rung for each of its parameters: about the optimum of Hoffmann et al. 2022 (arXiv:2203.15556,
section 3.4, table 3). Runs far below it are still in the fast fall at the beginning of training, and bend the law."""


class Size(Settings):
    """A size of the model, and settings that depend on it."""

    hidden_size: int = Field(gt=0)
    """Size of the residual stream."""
    layers: int = Field(gt=0)
    """Number of blocks."""
    attention_heads: int = Field(gt=0)
    """Number of query heads."""
    key_value_heads: int = Field(gt=0)
    """Number of key/value heads."""
    feed_forward_size: int = Field(gt=0)
    """Inner size of the MLP."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Highest learning rate; left out: that of `train`. The best one falls with the size (Porian et al. 2024,
    arXiv:2406.19146, section 3.5)."""
    global_batch_size: int | None = Field(default=None, gt=0)
    """Samples of a step; left out: those of `train`."""
    micro_batch_size: int | None = Field(default=None, gt=0)
    """Samples of a process at a time; left out: those of `train`."""
    tensor: int = Field(default=1, gt=0)
    """Tensor-parallel degree."""
    pipeline: int = Field(default=1, gt=0)
    """Pipeline-parallel degree."""
    tokens_per_parameter: tuple[float, ...] | None = Field(default=None, min_length=1)
    """Lengths of the runs of this size, in place of those of the ladder."""


class Repeat(Settings):
    """A rung that is run again with other seeds, which shows how much of a loss is chance."""

    size: str
    """Name of the size."""
    tokens_per_parameter: float = Field(gt=0)
    """Length of the rung."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """Seeds besides that of `train`."""


class LadderConfig(Settings):
    """A ladder of small runs."""

    output: Path
    """Folder of the rungs and of what is fitted to them."""
    train: Path
    """Configuration of the run whose loss is to be predicted. Rungs have its settings, except for their size, their
    length, and the settings that `sizes` gives."""
    sizes: dict[str, Size] = Field(min_length=1)
    """Sizes of the rungs by name."""
    tokens_per_parameter: tuple[float, ...] = Field(min_length=1)
    """Lengths of the rungs of every size, in tokens for each parameter."""
    repeats: tuple[Repeat, ...] = ()
    """Rungs that are run with several seeds."""

    @model_validator(mode="after")
    def _rungs_are_trained_enough(self) -> LadderConfig:
        lengths = {"tokens_per_parameter": self.tokens_per_parameter}
        for name, size in self.sizes.items():
            if size.tokens_per_parameter is not None:
                lengths[f"sizes.{name}.tokens_per_parameter"] = size.tokens_per_parameter
        for name, given in lengths.items():
            if min(given) < LEAST_TOKENS_PER_PARAMETER:
                raise ValueError(
                    f"{name}: {min(given):g} is too few: below {LEAST_TOKENS_PER_PARAMETER:g} tokens for each "
                    "parameter a run does not follow the law that is fitted"
                )
            if len(set(given)) < len(given):
                raise ValueError(f"{name}: {list(given)} has a length twice")
        if all(size.tokens_per_parameter is not None for size in self.sizes.values()):
            raise ValueError("tokens_per_parameter: has no effect: every size has lengths of its own")
        return self

    @model_validator(mode="after")
    def _repeats_are_of_rungs(self) -> LadderConfig:
        for i, repeat in enumerate(self.repeats):
            if repeat.size not in self.sizes:
                raise ValueError(f"repeats.{i}.size: {repeat.size!r} is none of the sizes {', '.join(self.sizes)}")
            if repeat.tokens_per_parameter not in self.lengths(repeat.size):
                raise ValueError(
                    f"repeats.{i}.tokens_per_parameter: {repeat.tokens_per_parameter:g} is no length of size "
                    f"{repeat.size}: {', '.join(f'{length:g}' for length in self.lengths(repeat.size))}"
                )
        return self

    def lengths(self, size: str) -> tuple[float, ...]:
        """Tokens for each parameter of the rungs of a size."""
        return self.sizes[size].tokens_per_parameter or self.tokens_per_parameter
