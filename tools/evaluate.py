"""lm-eval on an exported model: `altiplano evaluate HF_FOLDER --mixture MIXTURE`.

    .venv/bin/pip install -c constraints.txt -e ".[eval]"               lm-eval, an optional extra
    altiplano evaluate runs/demo/hf --mixture runs/demo/tokens/mixture.yaml
    altiplano evaluate runs/demo/hf --tasks hellaswag arc_easy     lm-eval's own tasks, whose data it fetches
    altiplano evaluate runs/chat/hf --chat --tasks boolq           questions written by the model's chat template
    altiplano evaluate runs/demo/hf --tasks arc_easy --samples s.jsonl
                                                                   also the scores of each question, with which
                                                                   `altiplano contamination` compares what was seen
    altiplano evaluate runs/demo/hf --suite superglue              SuperGLUE with no example and with one, in several
                                                                   wordings: lowest, median and highest accuracy

Without `--tasks` two small ones run, offline: `altiplano_continuations` (accuracy of choosing one of four endings; a
model that knows nothing has 25 %), and `altiplano_held_out`, bits per byte of the mixture's held-out documents, which
models of different tokenizers can be compared by.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from foundation.atomic_files import whole_file, write_json
from foundation.progress import summary_table
from pretrain.data.mixture import load_mixture
from pretrain.evaluation.lm_eval_tasks import CONTINUATIONS, continuations_task, require_lm_eval, task_manager
from tools.hugging_face.answers import context_length
from tools.hugging_face.to_hf import CHAT_TEMPLATE_FILE
from tools.prompted_suite import Spread, lm_eval_tasks, load_suite, spreads

RESULT_FILE = "evaluation.json"

HELD_OUT: dict[str, Any] = {
    "task": "altiplano_held_out",
    "test_split": "test",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "text",
    "metric_list": [{"metric": "bits_per_byte"}, {"metric": "byte_perplexity"}],
    "metadata": {"version": 1},
}


def held_out_texts(mixture: Path, documents: int) -> dict[str, list[str]]:
    """Text of the first documents of each source's held-out part; sources of which nothing is held out are omitted."""
    from data_prep.tokenizer.encoding.encode import ReferenceEncoder

    files = load_mixture(mixture)
    encoder = ReferenceEncoder(files.tokenizer)
    found = {}
    for entry in files.datasets:
        dataset = files.open(entry, "heldout")
        if dataset is not None:
            tokens = (dataset.document(i) for i in range(min(documents, len(dataset))))
            found[entry.name] = [encoder.decode(one[one != files.end_of_document]) for one in tokens]
    return found


def evaluate(
    folder: Path,
    tasks: Sequence[str | dict[str, Any]],
    *,
    limit: int | None,
    batch_size: int,
    chat: bool = False,
    num_fewshot: int | None = None,
    tasks_from: Path | None = None,
) -> dict[str, Any]:
    """Run lm-eval; returns what it returns, with `results`, `samples` and `versions` by task.

    Args:
        chat: questions and examples are turns of a conversation, written by the export's template.
        num_fewshot: number of examples before each question; None: as each task says.
        tasks_from: folder with task files of one's own.

    Raises:
        ValueError: no exported model there, or one that transformers cannot load, or one without a template for
            `chat`; an unknown task.
    """
    require_lm_eval()
    import lm_eval
    import torch

    model = {"pretrained": str(folder), "dtype": "auto", "max_length": context_length(folder)}
    if chat and not (folder / CHAT_TEMPLATE_FILE).is_file():
        raise ValueError(
            f"{folder / CHAT_TEMPLATE_FILE}: no such file; the exported model was not trained on conversations, and "
            "--chat needs the template that it answers by"
        )
    found: dict[str, Any] | None = lm_eval.simple_evaluate(
        "hf",
        model_args=model,
        tasks=list(tasks),
        batch_size=batch_size,
        device="cuda" if torch.cuda.is_available() else "cpu",
        limit=limit,
        apply_chat_template=chat,
        num_fewshot=num_fewshot,
        task_manager=task_manager([task for task in tasks if isinstance(task, str)], tasks_from, metadata=model),
    )
    assert found is not None
    return found


def evaluate_suite(
    folder: Path, name: str, *, shots: Sequence[int], data: Path | None, **settings: Any
) -> tuple[dict[str, Any], list[Spread]]:
    """Run a suite of tasks in several wordings; returns what lm-eval returns, and the spread of each task.

    Args:
        settings: of `evaluate`.
    """
    tasks = lm_eval_tasks(load_suite(name), shots, data)
    with tempfile.TemporaryDirectory() as cache:
        for task in tasks.values():
            if data is not None:
                task["dataset_kwargs"]["cache_dir"] = cache
        found = evaluate(folder, list(tasks.values()), **settings)
    results = found["results"]
    accuracies = {wording: float(results[wording.name]["acc,none"]) for wording in tasks}
    questions = {wording: int(results[wording.name]["sample_len"]) for wording in tasks}
    return found, spreads(accuracies, questions)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what `altiplano convert to-hf` wrote")
    parser.add_argument("--mixture", type=Path, help="mixture.yaml with the held-out documents")
    parser.add_argument("--documents", type=int, default=20, help="held-out documents of each source (default 20)")
    parser.add_argument("--tasks", nargs="+", help="tasks by name, most of them lm-eval's own, instead of the two")
    parser.add_argument("--tasks-from", type=Path, metavar="FOLDER", help="folder with task files of your own")
    parser.add_argument("--num-fewshot", type=int, help="examples before each question of --tasks; default: the task's")
    parser.add_argument(
        "--suite", help="superglue, or a .yaml file like configs/eval/superglue.yaml, instead of the two local tasks"
    )
    parser.add_argument(
        "--shots", type=int, nargs="+", default=[0, 1], help="examples before each question of a suite (default 0 1)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with the records of a suite, TASK/validation.jsonl and so on; default: the hub",
    )
    parser.add_argument(
        "--chat", action="store_true", help="questions are turns of a conversation, written by the model's template"
    )
    parser.add_argument("--limit", type=int, help="so many questions of each task; all when left out")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--samples", type=Path, help="file for the scores of each question, JSON Lines")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    command = make_parser()
    given = command.parse_args(arguments)
    _check_options(command, given)
    settings: dict[str, Any] = {"limit": given.limit, "batch_size": given.batch_size, "chat": given.chat}
    summary: list[Spread] = []
    try:
        if given.suite:
            found, summary = evaluate_suite(given.folder, given.suite, shots=given.shots, data=given.data, **settings)
        else:
            settings |= {"num_fewshot": given.num_fewshot, "tasks_from": given.tasks_from}
            found = _evaluate_tasks(given, settings)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    from lm_eval.utils import make_table

    print(make_table(found))
    out = given.folder.parent / RESULT_FILE
    result = {
        "model": given.folder.name,
        "chat": given.chat,
        "results": found["results"],
        "versions": found["versions"],
    }
    if summary:
        result["spread"] = [asdict(spread) for spread in summary]
        summary_table(f"accuracy over the wordings of {given.suite}", *_spread_table(summary))
    write_json(out, result)
    print(f"written to {out}")
    if given.samples:
        write_samples(given.samples, found["samples"])
        print(f"scores of each question: {given.samples}")
    return 0


def _check_options(command: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    for name, value in (("--tasks", given.tasks), ("--suite", given.suite)):
        if value and given.mixture:
            command.error(f"--mixture has no effect with {name}")
    if given.tasks and given.suite:
        command.error("--tasks has no effect with --suite: give one of them")
    if given.mixture and given.chat:
        command.error("--mixture has no effect with --chat: held-out documents are no questions")
    if not given.suite and (given.data or given.shots != command.get_default("shots")):
        command.error(f"{'--data' if given.data else '--shots'} has no effect without --suite")
    for name, value in (("--tasks-from", given.tasks_from), ("--num-fewshot", given.num_fewshot)):
        if value is not None and not given.tasks:
            command.error(f"{name} has no effect without --tasks")
    if min(given.shots) < 0:
        command.error(f"--shots {min(given.shots)}: must be 0 or more")


def write_samples(path: Path, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write the scores of each question, by task, as `{"task": …, "item": …, "metrics": {…}}`; the item is the number
    that lm-eval gives it."""
    with whole_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        for task, questions in samples.items():
            for question in questions:
                metrics = {name: question[name] for name in question["metrics"] if _is_number(question[name])}
                file.write(json.dumps({"task": task, "item": str(question["doc_id"]), "metrics": metrics}) + "\n")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def _evaluate_tasks(given: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        names = given.tasks or [CONTINUATIONS]
        tasks: list[str | dict[str, Any]] = [continuations_task() if n == CONTINUATIONS else n for n in names]
        if given.mixture:
            texts = Path(temporary) / "held_out.jsonl"
            with open(texts, "w", encoding="utf-8") as file:
                for text in chain.from_iterable(held_out_texts(given.mixture, given.documents).values()):
                    file.write(json.dumps({"text": text}) + "\n")
            tasks.append({**HELD_OUT, "dataset_kwargs": {"data_files": {"test": str(texts)}}})
        for task in tasks:
            if isinstance(task, dict):
                task["dataset_path"] = "json"
                task["dataset_kwargs"]["cache_dir"] = temporary
        return evaluate(given.folder, tasks, **settings)


def _spread_table(summary: Sequence[Spread]) -> tuple[list[list[str]], list[str]]:
    rows = [
        [row.task, str(row.shots), str(row.prompts), f"{row.questions:,}"]
        + [f"{value:.1%}" for value in (row.minimum, row.median, row.maximum)]
        for row in summary
    ]
    return rows, ["task", "examples", "wordings", "questions", "lowest", "median", "highest"]


if __name__ == "__main__":
    sys.exit(main())
