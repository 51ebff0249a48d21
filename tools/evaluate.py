"""lm-eval on an exported model: `altiplano evaluate HF_FOLDER --mixture MIXTURE`.

    .venv/bin/pip install -c constraints.txt -e ".[eval]"               lm-eval, an optional extra
    altiplano evaluate runs/demo/hf --mixture runs/demo/tokens/mixture.yaml
    altiplano evaluate runs/demo/hf --tasks hellaswag arc_easy     lm-eval's own tasks, whose data it fetches

Without `--tasks` two small ones run, offline: `altiplano_continuations` (accuracy of choosing one of four endings; a
model that knows nothing has 25 %), and `altiplano_held_out`, bits per byte of the mixture's held-out documents, which
models of different tokenizers can be compared by.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from foundation.atomic_files import write_json
from foundation.shipped import shipped_configs
from pretrain.data.mixture import load_mixture
from pretrain.families.registry import format_of_type

RESULT_FILE = "evaluation.json"

CONTINUATIONS = "eval/altiplano_continuations.yaml"
"""Task file among the shipped configurations."""

HELD_OUT: dict[str, Any] = {
    "task": "altiplano_held_out",
    "test_split": "test",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "text",
    "metric_list": [{"metric": "bits_per_byte"}, {"metric": "byte_perplexity"}],
    "metadata": {"version": 1},
}


def continuations_task() -> dict[str, Any]:
    """The task file, its data found from any folder."""
    path = shipped_configs() / CONTINUATIONS
    task: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    file = Path(task["dataset_kwargs"]["data_files"]["test"]).name
    return {**task, "dataset_kwargs": {"data_files": {"test": str(path.with_name(file))}}}


def held_out_texts(mixture: Path, documents: int) -> Iterator[str]:
    """Text of the first documents of each source's held-out part."""
    from data_prep.tokenizer.encoding.encode import ReferenceEncoder

    files = load_mixture(mixture)
    encoder = ReferenceEncoder(files.tokenizer)
    for entry in files.datasets:
        dataset = files.open(entry, "heldout") if entry.heldout else None
        for i in range(min(documents, len(dataset) if dataset else 0)):
            assert dataset is not None
            tokens = dataset.document(i)
            yield encoder.decode(tokens[tokens != files.end_of_document])


def evaluate(
    folder: Path, tasks: Sequence[str | dict[str, Any]], *, limit: int | None, batch_size: int
) -> dict[str, Any]:
    """Run lm-eval; returns what it returns, with `results`, `samples` and `versions` by task.

    Raises:
        ValueError: no exported model there, or one that transformers cannot load; an unknown task.
    """
    try:
        import lm_eval
    except ImportError:
        raise ValueError(
            "lm-eval is not installed; it is an optional extra: .venv/bin/pip install -c constraints.txt -e '.[eval]'"
        ) from None
    import torch

    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ValueError(f"{config_path}: no such file; `altiplano convert to-hf` writes the folder")
    config = json.loads(config_path.read_text(encoding="utf-8"))
    context = format_of_type(config["model_type"]).model_settings(config)["maximum_positions"]
    model = {"pretrained": str(folder), "dtype": "auto", "max_length": context}
    try:
        found: dict[str, Any] | None = lm_eval.simple_evaluate(
            "hf",
            model_args=model,
            tasks=list(tasks),
            batch_size=batch_size,
            device="cuda" if torch.cuda.is_available() else "cpu",
            limit=limit,
        )
    except KeyError as error:
        raise ValueError(f"lm-eval has no task {error}") from None
    assert found is not None
    return found


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what `altiplano convert to-hf` wrote")
    parser.add_argument("--mixture", type=Path, help="mixture.yaml with the held-out documents")
    parser.add_argument("--documents", type=int, default=20, help="held-out documents of each source (default 20)")
    parser.add_argument("--tasks", nargs="+", help="lm-eval's own tasks, by name, instead of the two local ones")
    parser.add_argument("--limit", type=int, help="so many questions of each task; all when left out")
    parser.add_argument("--batch-size", type=int, default=8)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    command = make_parser()
    given = command.parse_args(arguments)
    if given.tasks and given.mixture:
        command.error("--mixture has no effect with --tasks")
    with tempfile.TemporaryDirectory() as temporary:
        try:
            tasks: list[str | dict[str, Any]] = list(given.tasks or [continuations_task()])
            if given.mixture:
                texts = Path(temporary) / "held_out.jsonl"
                with open(texts, "w", encoding="utf-8") as file:
                    for text in held_out_texts(given.mixture, given.documents):
                        file.write(json.dumps({"text": text}) + "\n")
                tasks.append({**HELD_OUT, "dataset_kwargs": {"data_files": {"test": str(texts)}}})
            for task in tasks:
                if isinstance(task, dict):
                    task["dataset_path"] = "json"
                    task["dataset_kwargs"]["cache_dir"] = temporary
            found = evaluate(given.folder, tasks, limit=given.limit, batch_size=given.batch_size)
        except (ValueError, OSError) as error:
            print(error, file=sys.stderr)
            return 2
    from lm_eval.utils import make_table

    print(make_table(found))
    out = given.folder.parent / RESULT_FILE
    write_json(out, {"model": given.folder.name, "results": found["results"], "versions": found["versions"]})
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
