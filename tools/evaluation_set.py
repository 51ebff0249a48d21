"""lm-eval's tasks as evaluation sets: `altiplano data evaluation-set TASK … --output FOLDER`.

Writes `FOLDER/TASK.jsonl`, one item per line: `id`, the number that lm-eval gives it, and `text`, the question and its
right answer as the task words them. A task's records come from where the task says: the hub, or local files of a task
file of your own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from foundation.atomic_files import whole_file
from foundation.progress import Progress
from pretrain.evaluation.lm_eval_tasks import task_manager

EXAMPLES = """examples:
  altiplano data evaluation-set arc_easy hellaswag --output sets
      fetches the records of two tasks
  altiplano data evaluation-set my_task --tasks-from tasks --output sets
      a task file of your own, tasks/my_task.yaml, for example with local records

then, in the data's configuration:
  decontamination:
    arc_easy: {path: sets/arc_easy.jsonl, id_field: id}"""


def load_tasks(names: Sequence[str], folder: Path | None) -> dict[str, Any]:
    """Load lm-eval's tasks, those of groups one by one.

    Raises:
        ValueError: lm-eval is not installed, or there is no such task.
    """
    tasks: dict[str, Any] = task_manager(names, folder).load(list(names))["tasks"]
    return tasks


def items_of(task: Any) -> Iterator[dict[str, str]]:
    """Yield the questions of a task with their right answers."""
    for number, record in enumerate(task.eval_docs):
        yield {"id": str(number), "text": f"{task.doc_to_text(record)} {_answer(task, record)}"}


def _answer(task: Any, record: Any) -> str:
    answer = task.doc_to_target(record)
    if isinstance(answer, int) and task.OUTPUT_TYPE == "multiple_choice":
        return str(task.doc_to_choice(record)[answer])
    return " ".join(map(str, answer)) if isinstance(answer, (list, tuple)) else str(answer)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano data evaluation-set",
        description="Write lm-eval's tasks as evaluation sets, whose items are then searched in documents.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tasks", nargs="+", help="names of tasks, or of groups")
    parser.add_argument("--tasks-from", type=Path, metavar="FOLDER", help="folder with task files of your own")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="gets TASK.jsonl")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 when something does not fit."""
    given = make_parser().parse_args(arguments)
    try:
        tasks = load_tasks(given.tasks, given.tasks_from)
        given.output.mkdir(parents=True, exist_ok=True)
        for name, task in tasks.items():
            path = given.output / f"{name}.jsonl"
            count = 0
            with (
                Progress(name, len(task.eval_docs), "items") as progress,
                whole_file(path) as partial,
                open(partial, "w", encoding="utf-8") as file,
            ):
                for item in items_of(task):
                    file.write(json.dumps(item, ensure_ascii=False) + "\n")
                    count += 1
                    progress.advance()
            print(f"{path}: {count:,} items")
    except (ValueError, OSError) as error:
        print(f"evaluation-set: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
