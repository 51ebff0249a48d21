"""Tasks of lm-eval: their requests as rows of tokens, and their metrics from the scores of the rows.

Only the first rank of a run uses this; lm-eval, which is an optional extra, is imported when it does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from foundation.atomic_files import write_json
from foundation.shipped import shipped_configs
from pretrain.config import ModelConfig
from pretrain.evaluation.rows import Rows
from pretrain.evaluation.settings import EvaluationConfig, TaskSettings
from pretrain.families.registry import format_of

CONTINUATIONS = "altiplano_continuations"
"""Name of the shipped task, a file in `configs/eval`."""
SCORED_TYPES = ("multiple_choice", "loglikelihood", "loglikelihood_rolling")
"""Types of tasks that ask for the likelihood of given texts."""


def continuations_task() -> dict[str, Any]:
    """The shipped task, its data found from any folder."""
    path = shipped_configs() / "eval" / f"{CONTINUATIONS}.yaml"
    task: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    file = Path(task["dataset_kwargs"]["data_files"]["test"]).name
    return {**task, "dataset_kwargs": {"data_files": {"test": str(path.with_name(file))}}}


def require_lm_eval() -> None:
    """Raise ValueError when lm-eval is not installed."""
    try:
        import lm_eval.tasks  # noqa: F401
    except ImportError:
        raise ValueError(
            "lm-eval is not installed; it is an optional extra: .venv/bin/pip install -c constraints.txt -e '.[eval]'"
        ) from None


def task_manager(names: Sequence[str], folder: Path | None, metadata: Mapping[str, Any] | None = None) -> Any:
    """lm-eval's index of tasks.

    Args:
        folder: folder with task files of one's own.
        metadata: settings of the model, of which some tasks make their records.

    Raises:
        ValueError: lm-eval is not installed, there is no such folder, or it has no task or group of a name.
    """
    require_lm_eval()
    from lm_eval.tasks import TaskManager

    if folder is not None and not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; it has the task files of your own")
    paths: list[str | Path] = [] if folder is None else [str(folder)]
    manager = TaskManager(include_path=paths, include_defaults=False, metadata=metadata)
    if all(_is_known(name, manager.task_index) for name in names):
        return manager  # lm-eval's own, of which there are thousands, take ten seconds to read
    manager = TaskManager(include_path=paths, metadata=metadata)
    for name in names:
        if name not in manager.all_tasks:
            place = "" if folder is None else f", nor has {folder}"
            raise ValueError(f"lm-eval has no task {name!r}{place}; its own are listed by `lm-eval ls tasks`")
    return manager


def _is_known(name: str, index: Mapping[str, Any]) -> bool:
    """Whether a task, or a group with all its tasks, is in an index of lm-eval's."""
    if name not in index:
        return False
    parts = (index[name].cfg or {}).get("task")
    for part in parts if isinstance(parts, list) else ():
        inner = part if isinstance(part, str) else part.get("task") or part.get("group")
        if isinstance(inner, str) and not _is_known(inner, index):
            return False
    return True


@dataclass(frozen=True)
class LoadedTask:
    """A task or group of the configuration.

    Attributes:
        loaded: what lm-eval's `TaskManager.load` returns.
    """

    settings: TaskSettings
    loaded: dict[str, Any]


def load_tasks(config: EvaluationConfig) -> list[LoadedTask]:
    """Load the tasks and their records; fetches those that are not on this machine.

    Raises:
        ValueError: a task does not exist, its records cannot be read, it is not one that is scored by likelihoods, or a
            setting has no effect on it.
    """
    own = [task.name for task in config.tasks if task.name != CONTINUATIONS]
    try:
        manager = task_manager(own, config.tasks_from)
    except ValueError as error:
        raise ValueError(f"evaluation.tasks: {error}") from None
    _keep_quiet()
    found: list[LoadedTask] = []
    seen: dict[str, str] = {}
    for task in config.tasks:
        with _named(task.name), _undisturbed_random_numbers():
            loaded = manager.load([continuations_task() if task.name == CONTINUATIONS else task.name])
            for name, inner in loaded["tasks"].items():
                if name in seen:
                    raise ValueError(f"evaluation.tasks: {task.name}: {name!r} is part of {seen[name]!r} already")
                seen[name] = task.name
                _prepare(name, inner, task)
        found.append(LoadedTask(task, loaded))
    return found


def _prepare(name: str, task: Any, settings: TaskSettings) -> None:
    """Check a task, and set its examples as `lm_eval.simple_evaluate` does."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    if task.OUTPUT_TYPE not in SCORED_TYPES or getattr(task, "MULTIMODAL", False):
        raise ValueError(
            f"evaluation.tasks: {name} is of type {task.OUTPUT_TYPE}; only {', '.join(SCORED_TYPES)} of texts are "
            "scored during training: leave it out, and run `altiplano evaluate` on an export"
        )
    own = task.get_config("num_fewshot")
    if settings.num_fewshot is None:
        if own is None:
            task.set_config(key="num_fewshot", value=0)
    elif own == 0 and settings.num_fewshot:
        raise ValueError(
            f"evaluation.tasks: num_fewshot {settings.num_fewshot} has no effect on {name}, whose own file says 0"
        )
    else:
        task.set_config(key="num_fewshot", value=settings.num_fewshot)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


class PlannedTasks:
    """The tasks' requests as rows of tokens.

    Args:
        tokenizer: transformers' tokenizer.
        prefix_token: token before a text that has nothing before it.
        maximum_positions: tokens that the model reads at a time.

    Attributes:
        rows: rows of all tasks.

    Raises:
        ValueError: a request cannot be scored, or the metrics of a task cannot be computed.
    """

    def __init__(self, tasks: Sequence[LoadedTask], tokenizer: Any, prefix_token: int, maximum_positions: int) -> None:
        from pretrain.evaluation.row_model import RowModel

        self._tasks = tasks
        self._model = RowModel(tokenizer, prefix_token, maximum_positions)
        for task in tasks:
            for inner in task.loaded["tasks"].values():
                with _named(task.settings.name), _undisturbed_random_numbers():
                    inner.build_all_requests(limit=task.settings.limit)
                    # lm-eval builds them again in each evaluation; they are always the same
                    inner.build_all_requests = lambda **_: None
                    self._model.plan(inner.instances)
        self.rows = Rows.of(self._model.rows)
        self.metrics(np.zeros((len(self.rows), 2)))  # now rather than after the first steps

    @property
    def questions(self) -> dict[str, int]:
        """Number of questions, or of texts, of each task of the configuration."""
        return {
            task.settings.name: sum(
                len({request.doc_id for request in inner.instances}) for inner in task.loaded["tasks"].values()
            )
            for task in self._tasks
        }

    def metrics(self, scores: npt.NDArray[np.float64]) -> dict[str, dict[str, float]]:
        """Metrics by task or group, computed by lm-eval.

        Args:
            scores: of each row, log-likelihood and number of targets that are not the likeliest token, [rows, 2].

        Raises:
            ValueError: lm-eval cannot compute one.
        """
        from lm_eval.evaluator import evaluate

        self._model.scores = scores
        found: dict[str, dict[str, float]] = {}
        for task in self._tasks:
            for inner in task.loaded["tasks"].values():
                for request in inner.instances:
                    request.resps, request.filtered_resps = [], {}
            with _named(task.settings.name), _undisturbed_random_numbers():
                results = evaluate(
                    lm=self._model,
                    task_dict=task.loaded,
                    limit=task.settings.limit,
                    bootstrap_iters=0,
                    log_samples=False,
                )["results"]
            found |= {name: _numbers(values) for name, values in results.items()}
        return {name: numbers for name, numbers in found.items() if numbers}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Metrics by name; lm-eval's have the name of a filter behind a comma, `none` where there is none."""
    found = {}
    for key, value in values.items():
        name, _, answers = key.partition(",")
        if answers and not name.endswith("_stderr") and isinstance(value, (int, float)):
            found[name if answers == "none" else f"{name},{answers}"] = float(value)
    return found


def open_tokenizer(
    folder: Path, model: ModelConfig, end_of_document: int, origin: Mapping[str, Any] | None
) -> tuple[Any, int]:
    """transformers' tokenizer as an export of the run would have it, and the token before a text.

    Args:
        folder: tokenizer of the mixture.
        origin: what the run keeps of an imported model, see `origin_of`; None: its weights were random.

    Raises:
        ValueError: transformers cannot load it.
    """
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        files = Path(scratch) / "tokenizer"
        try:
            shutil.copytree(folder, files)
            for name, text in (origin or {}).get("files", {}).items():
                (files / name).parent.mkdir(exist_ok=True)
                (files / name).write_text(text, encoding="utf-8")
            with contextlib.suppress(ValueError):  # a model that has no counterpart there
                write_json(
                    files / "config.json",
                    format_of(model).hugging_face_config(model, dtype="float32", end_of_document=end_of_document),
                )
            tokenizer = AutoTokenizer.from_pretrained(str(files))
        except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(
                f"evaluation.tasks: transformers cannot load the tokenizer {folder} of data.mixture: {error}"
            ) from None
    kept = [] if origin is None else [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return tokenizer, next((token for token in kept if token is not None), end_of_document)


@contextlib.contextmanager
def _named(task: str) -> Iterator[None]:
    """Name the task in whatever lm-eval and its datasets raise: nearly every exception there is."""
    try:
        yield
    except Exception as error:
        if str(error).startswith("evaluation.tasks: "):
            raise
        reason = str(error).strip() or type(error).__name__
        raise ValueError(
            f"evaluation.tasks: {task}: {reason} ({type(error).__name__} in lm-eval). Where records cannot be fetched, "
            "give a task file with local ones, see evaluation.tasks_from"
        ) from error


@contextlib.contextmanager
def _undisturbed_random_numbers() -> Iterator[None]:
    """Seed the global generators as `lm_eval.simple_evaluate` does, for tasks that use them, and restore them."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    before, numpy_before = random.getstate(), np.random.get_state()
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)


def _keep_quiet() -> None:
    """Silence warnings and progress bars, which would break the line of the training's own progress."""
    import datasets
    import lm_eval.api.task
    from transformers.utils import logging as transformers_logging

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    transformers_logging.set_verbosity_error()
    lm_eval.api.task.tqdm = lambda iterable, **_: iterable


def main_metric(metrics: Mapping[str, float]) -> str:
    """The metric that stands for a task where there is room for one: normalised accuracy, accuracy, bits per byte, or
    else the first."""
    return next((name for name in ("acc_norm", "acc", "bits_per_byte") if name in metrics), next(iter(metrics)))
