"""Tasks of lm-eval on the running model, whatever its parallel degrees.

The first rank turns the tasks' requests into rows of tokens, once. In each evaluation all ranks score the rows, which
are divided over the data axis, by the training's own forward pass, and the first rank computes the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pretrain.checkpoint.start import Start
from pretrain.config import TrainConfig
from pretrain.data.mixture import MixtureFile
from pretrain.engine.engine import Engine
from pretrain.evaluation.lm_eval_tasks import LoadedTask, PlannedTasks, load_tasks, open_tokenizer
from pretrain.evaluation.rows import NO_ROW, Rows, divide, micro_batches
from pretrain.launch.agreement import agreed, from_first_rank

MICRO_BATCHES_AT_ONCE = 32
"""Micro-batches between two signs of life; the pipeline fills and drains once for so many."""


@dataclass(frozen=True)
class TaskScores:
    """Result of one evaluation of the tasks.

    Attributes:
        metrics: by task or group; empty when they could not be computed.
        failure: why they could not.
    """

    metrics: dict[str, dict[str, float]]
    seconds: float
    failure: str | None = None


class TaskEvaluation:
    """The tasks of a run.

    Args:
        planned: the tasks, on the first rank only.
        rows: their rows, on every rank.
    """

    def __init__(self, config: TrainConfig, engine: Engine, planned: PlannedTasks | None, rows: Rows) -> None:
        self._engine = engine
        self._planned = planned
        self._rows = rows
        tokens = config.batch.micro_batch_size * config.data.sequence_length
        self._divisions = divide(rows, config.scored_lengths, tokens, engine.topology.data)

    @property
    def note(self) -> str:
        """What is evaluated, for the person at the terminal; empty on other ranks than the first."""
        if self._planned is None:
            return ""
        tasks = ", ".join(f"{name} ({count:,})" for name, count in self._planned.questions.items())
        padded = sum(division.length * division.numbers.size for division in self._divisions)
        return f"tasks (questions): {tasks}; {len(self._rows):,} rows, {padded:,} tokens with padding"

    def evaluate(self, is_alive: Callable[[], None]) -> TaskScores | None:
        """Score the model. Collective.

        Args:
            is_alive: called now and then, as a sign of life.

        Returns:
            The result on the first rank, None on the others.
        """
        started = time.perf_counter()
        scores = np.zeros((len(self._rows), 2))
        own = self._engine.coordinate.data
        for division in self._divisions:
            for start in range(0, len(division.numbers), MICRO_BATCHES_AT_ONCE):
                is_alive()
                numbers = division.numbers[start : start + MICRO_BATCHES_AT_ONCE]
                count, data_size, rows = numbers.shape
                batches = micro_batches(self._rows, division.length, numbers[:, own])
                found = self._engine.score(batches, count, rows).numpy()  # [data ranks, micro-batches, 2, rows]
                by_row = found.transpose(1, 0, 3, 2).reshape(count * data_size * rows, 2)
                is_row = numbers.ravel() != NO_ROW
                scores[numbers.ravel()[is_row]] = by_row[is_row]
        is_alive()
        if self._planned is None:
            return None
        try:
            return TaskScores(self._planned.metrics(scores), time.perf_counter() - started)
        except ValueError as error:  # a number for a person must not end a run that trains well
            return TaskScores({}, time.perf_counter() - started, str(error))


def load_run_tasks(config: TrainConfig, rank: int) -> list[LoadedTask]:
    """Load the tasks on the first rank; none elsewhere. Collective when the configuration has any.

    Raises:
        ValueError: on every rank: see `load_tasks`.
    """
    if not config.evaluation.tasks:
        return []
    return agreed(lambda: load_tasks(config.evaluation) if rank == 0 else [])


def plan_run_tasks(
    config: TrainConfig, engine: Engine, tasks: list[LoadedTask], mixture: MixtureFile, start: Start
) -> TaskEvaluation | None:
    """Turn the tasks into rows on the first rank, and give them to all; None when there are no tasks. Collective.

    Raises:
        ValueError: on every rank: the tokenizer cannot be used, or a request cannot be scored.
    """
    if not config.evaluation.tasks:
        return None

    def planned() -> PlannedTasks:
        tokenizer, prefix = open_tokenizer(mixture.tokenizer, config.model, mixture.end_of_document, start.origin)
        found = PlannedTasks(tasks, tokenizer, prefix, config.model.maximum_positions)
        largest = int(found.rows.tokens.max(initial=0))
        if largest >= config.model.vocabulary_size:
            raise ValueError(
                f"evaluation.tasks: the tokenizer {mixture.tokenizer} of data.mixture makes token {largest}, and "
                f"model.vocabulary_size is {config.model.vocabulary_size}: it is not the one of the token files"
            )
        return found

    own = agreed(lambda: planned() if engine.rank == 0 else None)
    rows = from_first_rank(None if own is None else own.rows)
    assert rows is not None
    return TaskEvaluation(config, engine, own, rows)
