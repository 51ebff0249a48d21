"""`altiplano demo --chat`: a tiny model learns to answer, from nothing and in a few minutes.

All of its weights learn some kinds of tasks; then adapters beside the frozen weights learn more kinds. Each model is
asked questions that it never saw, and an answer counts only if it is exactly the right one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from data_prep.config import DataConfig
from data_prep.conversations.turns import USER, Turn
from foundation.atomic_files import write_json, write_text
from foundation.configuration import load_config
from foundation.progress import Progress, summary_table
from pretrain.config import TrainConfig
from tools.demo_tasks import Task, make_tasks
from tools.hugging_face.answers import Sampling, open_checkpoint
from tools.steps import Steps, altiplano, finished_steps


@dataclass(frozen=True)
class Lesson:
    """A training, and the kinds of tasks that it is for.

    Attributes:
        name: also of its two configurations.
        what: what is trained.
    """

    name: str
    what: str
    kinds: tuple[str, ...]

    @property
    def data_config(self) -> Path:
        return Path(f"configs/data/{self.name}.yaml")

    @property
    def train_config(self) -> Path:
        return Path(f"configs/train/{self.name}.yaml")


FIRST_KINDS = ("repeat", "backwards", "first", "last", "add", "largest")
LESSONS = (
    Lesson("demo-chat", "all weights", FIRST_KINDS),
    Lesson("demo-chat-lora", "adapters", (*FIRST_KINDS, "second", "smallest")),
)
RESULT_FILE = "answers.json"

TASKS, ASKED = 1500, 30
"""Tasks of each kind to train on, and to ask."""
AIM = 0.9
"""Share of right answers below which the demo fails."""


@dataclass(frozen=True)
class Answered:
    """A task, and what the model answered."""

    task: Task
    answer: str

    @property
    def is_right(self) -> bool:
        return self.answer == self.task.answer


def chat_demo(step: Steps, console: Console) -> int:
    """Write the tasks, train both ways, ask; returns the exit code: 1 when a model answers too little."""
    answers: dict[str, list[Answered]] = {}
    for number, lesson in enumerate(LESSONS):
        data, train = load_config(DataConfig, lesson.data_config), load_config(TrainConfig, lesson.train_config)
        tasks, asked = make_tasks(lesson.kinds, TASKS, ASKED, data.seed)
        _write(Path(data.sources[0].paths[0]), tasks)
        title = f"{2 * number + 1}. {len(tasks):,} tasks of {len(lesson.kinds)} kinds to packs of tokens"
        step.run(title, [*altiplano(), "data", "run", "--config", str(lesson.data_config)])
        title, checkpoints = f"{2 * number + 2}. train: {lesson.what}", train.output / "checkpoints"
        if finished_steps(checkpoints) >= train.schedule.steps:
            step.skip(title, f"{checkpoints} has step {train.schedule.steps}")
        else:
            step.run(title, [*altiplano(), "train", "--config", str(lesson.train_config)])
        answers[lesson.what] = ask(checkpoints, asked)
        write_json(data.output / RESULT_FILE, [_plain(one) for one in answers[lesson.what]])
    return summarise(console, answers)


def _write(path: Path, tasks: Sequence[Task]) -> None:
    """Write tasks in Alpaca's form, unless they are there already."""
    lines = [json.dumps({"instruction": task.question, "input": "", "output": task.answer}) + "\n" for task in tasks]
    content = "".join(lines)
    if not path.is_file() or path.read_text(encoding="utf-8") != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, content)


def ask(checkpoints: Path, asked: Sequence[Task]) -> list[Answered]:
    """Ask the newest checkpoint every task, each in a conversation of its own."""
    found = []
    sampling = Sampling(temperature=0.0, maximum_tokens=32)
    with tempfile.TemporaryDirectory(prefix="altiplano-demo-") as scratch:
        model = open_checkpoint(checkpoints, Path(scratch))
    with Progress("ask", len(asked), "questions") as progress:
        for task in asked:
            found.append(Answered(task, model.answer([Turn(USER, task.question)], sampling, seed=0)))
            progress.advance()
    return found


def summarise(console: Console, answers: Mapping[str, Sequence[Answered]]) -> int:
    """Print what was answered; returns the exit code."""
    kinds = list(dict.fromkeys(one.task.kind for found in answers.values() for one in found))
    shares = {name: _share(found) for name, found in answers.items()}
    rows = [
        [kind, *(_percent([one for one in found if one.task.kind == kind]) for found in answers.values())]
        for kind in kinds
    ]
    console.print()
    title = "questions that were never seen: exactly right answers"
    summary_table(title, [*rows, ["all", *map(_percent, answers.values())]], ["kind", *answers])
    last = list(answers)[-1]
    for kind in kinds:
        one = next(one for one in answers[last] if one.task.kind == kind)
        mark = "" if one.is_right else f"   (right: {one.task.answer})"
        console.print(f"  {one.task.question}  →  {one.answer}{mark}", highlight=False, soft_wrap=True)
    output = load_config(TrainConfig, LESSONS[-1].train_config).output
    console.print(
        f"Next: altiplano chat {output / 'checkpoints'} --temperature 0; then put conversations of your own into a "
        f"copy of {LESSONS[0].data_config}.",
        soft_wrap=True,
    )
    weak = [name for name, share in shares.items() if share < AIM]
    if weak:
        console.print(f"{' and '.join(weak)}: less than {AIM:.0%} of the answers are right", style="bold red")
    return 1 if weak else 0


def _share(found: Sequence[Answered]) -> float:
    return sum(one.is_right for one in found) / len(found)


def _percent(found: Sequence[Answered]) -> str:
    return f"{_share(found):.0%}" if found else ""


def _plain(one: Answered) -> dict[str, str]:
    return {"kind": one.task.kind, "question": one.task.question, "answer": one.answer, "right": one.task.answer}
