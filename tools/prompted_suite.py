"""Tasks in several wordings each, for lm-eval: the spread over the wordings is reported, as for BLOOM (Le Scao et al.
2022, arXiv:2211.05100, section 4.2), because a single wording says little.

A suite is a YAML file, see `configs/eval/superglue.yaml`. Its records come from the Hugging Face hub, or from files:
FOLDER/TASK/validation.jsonl (or test.jsonl, by the task's `split`) and, for examples, FOLDER/TASK/train.jsonl, with the
same fields, one record a line.
"""

from __future__ import annotations

import statistics
from ast import literal_eval
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jinja2 import StrictUndefined, Template
from pydantic import Field

from foundation.configuration import Settings, load_config
from foundation.shipped import shipped_configs


class Prompt(Settings):
    """One wording of a task."""

    text: str = Field(min_length=1)
    """Jinja template of the question, over the fields of a record."""
    choices: tuple[str, ...] | str
    """Answers in the order of the labels, or a Jinja template of a list."""


class PromptedTask(Settings):
    """A task and its wordings."""

    split: Literal["validation", "test"]
    """Part of the data whose questions are asked."""
    hub_name: str | None = None
    """Name of the data on the hub; left out: that of the task."""
    target: str = "label"
    """Field with the index of the right answer, or a Jinja template of the list of several that are right; the first of
    them is shown in examples."""
    prompts: tuple[Prompt, ...] = Field(min_length=1)
    """Wordings."""


class Suite(Settings):
    """Tasks in several wordings."""

    hub: str
    """Dataset on the Hugging Face hub with a part for each task."""
    tasks: dict[str, PromptedTask] = Field(min_length=1)
    """Tasks by name."""


@dataclass(frozen=True)
class Wording:
    """One run of lm-eval: a task in one wording, with a number of examples."""

    task: str
    shots: int
    place: int

    @property
    def name(self) -> str:
        """Name of the run in lm-eval."""
        return f"{self.task}_shots{self.shots}_prompt{self.place}"


@dataclass(frozen=True)
class Spread:
    """Accuracy of a task over its wordings, in shares of 1.

    Attributes:
        questions: number of questions of each wording.
    """

    task: str
    shots: int
    prompts: int
    questions: int
    minimum: float
    median: float
    maximum: float


def load_suite(name: str) -> Suite:
    """Load a suite by the name of a shipped one, or by the path of a file ending in `.yaml`.

    Raises:
        ConfigError: there is no such suite, or it is faulty.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped_configs() / "eval" / f"{name}.yaml"
    return load_config(Suite, path)


def lm_eval_tasks(suite: Suite, shots: Sequence[int], data: Path | None) -> dict[Wording, dict[str, Any]]:
    """Settings of lm-eval's tasks, one for each wording and number of examples.

    Args:
        data: folder with the records, see above; None: the hub's.

    Raises:
        ValueError: a file is missing.
    """
    found = {}
    for name, task in suite.tasks.items():
        source = _hub(suite.hub, name, task) if data is None else _files(data / name, task.split, max(shots) > 0)
        for place, prompt in enumerate(task.prompts):
            for count in shots:
                wording = Wording(name, count, place)
                choices = prompt.choices if isinstance(prompt.choices, str) else list(prompt.choices)
                found[wording] = {
                    "task": wording.name,
                    **source,
                    "output_type": "multiple_choice",
                    "doc_to_text": prompt.text,
                    "doc_to_choice": choices,
                    "doc_to_target": partial(_first_right, task.target),
                    "process_results": partial(_accuracy, task.target),
                    "num_fewshot": count,
                    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
                    "metadata": {"version": 1},
                }
    return found


def _right(target: str, record: Mapping[str, Any]) -> list[int]:
    """Indices of the right answers to a record."""
    if target in record:
        return [int(record[target])]
    found: list[int] = literal_eval(Template(target, undefined=StrictUndefined).render(record))
    return found


def _first_right(target: str, record: Mapping[str, Any]) -> int:
    return _right(target, record)[0]


def _accuracy(target: str, record: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Whether the likeliest answer is right; `results` are log-likelihoods, and whether an answer would be written."""
    likelihoods = [likelihood for likelihood, _ in results]
    return {"acc": float(likelihoods.index(max(likelihoods)) in _right(target, record))}


def _hub(hub: str, name: str, task: PromptedTask) -> dict[str, Any]:
    splits = _splits(task.split, has_train=task.split != "test")
    return {"dataset_path": hub, "dataset_name": task.hub_name or name, **splits}


def _splits(split: str, *, has_train: bool) -> dict[str, str]:
    """Where questions and examples are from; where there is no train part, examples are other questions."""
    train = {"training_split": "train"} if has_train else {}
    return {f"{split}_split": split, **train, "fewshot_split": "train" if has_train else split}


def _files(folder: Path, split: str, needs_examples: bool) -> dict[str, Any]:
    files = {split: folder / f"{split}.jsonl", "train": folder / "train.jsonl"}
    if not files[split].is_file():
        raise ValueError(f"{files[split]}: no such file; it has the questions of the task, one JSON record a line")
    if not files["train"].is_file():
        del files["train"]
        if needs_examples and split != "test":
            raise ValueError(f"{folder / 'train.jsonl'}: no such file; the examples of --shots are taken from it")
    return {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {part: str(path) for part, path in files.items()}},
        **_splits(split, has_train="train" in files),
    }


def spreads(accuracies: Mapping[Wording, float], questions: Mapping[Wording, int]) -> list[Spread]:
    """Spread of each task with each number of examples, in the order of the wordings."""
    groups: dict[tuple[str, int], list[Wording]] = {}
    for wording in accuracies:
        groups.setdefault((wording.task, wording.shots), []).append(wording)
    found = []
    for (task, shots), wordings in groups.items():
        values = [accuracies[wording] for wording in wordings]
        found.append(
            Spread(
                task,
                shots,
                len(wordings),
                questions[wordings[0]],
                min(values),
                statistics.median(values),
                max(values),
            )
        )
    return found
