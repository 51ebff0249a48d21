"""Settings of the evaluations during training."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from foundation.configuration import Settings

SHORTEST_ROW = 64
"""Tokens of the shortest rows; shorter ones would not fill a GPU better."""


class TaskSettings(Settings):
    """A task of lm-eval, or a group of tasks."""

    name: str = Field(min_length=1)
    """Name of the task or group: one of lm-eval's own, one of `evaluation.tasks_from`, or `altiplano_continuations`,
    which is shipped."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Number of examples before each question; left out: as the task's file says."""
    limit: int | None = Field(default=None, gt=0)
    """Number of questions of each task, the first ones; left out: all."""


class EvaluationConfig(Settings):
    """Evaluation of the loss on the held-out samples, and of tasks on the model as it is."""

    every_steps: int = Field(default=500, gt=0)
    """Steps from one evaluation to the next; the last step is evaluated too."""
    batches: int = Field(default=20, gt=0)
    """Number of global batches per evaluation, the same ones each time; fewer when the held-out part is smaller."""
    tasks: tuple[TaskSettings, ...] = ()
    """Tasks of lm-eval (the extra `eval`) that are scored by the running model, without an export: multiple choice and
    the likelihood of texts. The scores are those of the exported model in `altiplano evaluate`."""
    tasks_every_steps: int | None = Field(default=None, gt=0)
    """Steps from one evaluation of the tasks to the next; left out: `every_steps`."""
    tasks_from: Path | None = None
    """Folder with task files of your own in lm-eval's form, for example with local records."""

    @property
    def task_steps(self) -> int:
        """Steps from one evaluation of the tasks to the next."""
        return self.tasks_every_steps or self.every_steps

    @model_validator(mode="after")
    def _tasks_are_there(self) -> EvaluationConfig:
        names = [task.name for task in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"tasks: {name!r} is given twice; give each task once")
        for setting in ("tasks_every_steps", "tasks_from"):
            value = getattr(self, setting)
            if value is not None and not self.tasks:
                raise ValueError(f"{setting}: {value} has no effect without tasks")
        return self


def row_lengths(maximum: int, multiple: int = 1, bound: int | None = None) -> list[int]:
    """Lengths to which rows of tokens are padded, ascending: the longest, and its halves down to `SHORTEST_ROW`.

    Few lengths, because the compiler makes graphs for each one; halves, because padding then costs less than the rows.

    Args:
        maximum: tokens that the model reads at a time, a multiple of `multiple`.
        multiple: every length is a multiple of it.
        bound: a further length, above which the model computes something else for all tokens of a row.
    """
    lengths, length = {maximum}, maximum // 2
    if bound is not None and bound < maximum:
        lengths.add(bound)
    while length >= SHORTEST_ROW:
        lengths.add(min(-(-length // multiple) * multiple, maximum))
        length //= 2
    return sorted(lengths)
