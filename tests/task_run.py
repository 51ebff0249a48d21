"""A small training run with a tokenizer, and tasks of lm-eval with local records."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.small_run import write_small_run

MAXIMUM_POSITIONS = 256
_WORDS = "red green blue grey pink gold salt snow rain leaf bird fish road lake hill moon"
WORDS = _WORDS.split()


def write_byte_tokenizer(folder: Path) -> None:
    """A tokenizer of bytes with one merge; its entry 2 ends documents, as in `write_small_run`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<a>", "<b>", "</s>", *alphabet, "re"]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[("r", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<a>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_task(folder: Path, name: str, records: dict[str, list[dict[str, Any]]], **settings: Any) -> None:
    """Records of each split, and the task file."""
    folder.mkdir(exist_ok=True)
    files = {}
    for split, rows in records.items():
        path = folder / f"{name}.{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[split] = str(path)
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
        **{f"{split if split == 'test' else 'training'}_split": split for split in records},
        "metadata": {"version": 1},
        **settings,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))


def write_tasks(folder: Path) -> Path:
    """Tasks of all kinds that are scored: `pairs` and `more_pairs` (multiple choice, the first with examples by its
    file), `endings` (the likelihood of one text after another), `texts` (that of whole texts) and the group `both`.
    `stories` and `bare` cannot be scored."""
    source = random.Random(1)

    def pair(long: bool = False) -> dict[str, Any]:
        words = source.sample(WORDS, 4)
        before = " ".join(source.choices(WORDS, k=90 if long else source.randint(2, 20)))
        return {"before": before, "choices": words, "answer": source.randrange(4)}

    splits = {"test": [pair(long=True), *(pair() for _ in range(14))], "train": [pair() for _ in range(5)]}
    choice: dict[str, Any] = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{before}}:",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "fewshot_split": "train",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    write_task(folder, "pairs", splits, **choice, num_fewshot=2)
    write_task(folder, "more_pairs", splits, **choice)
    endings = [{"before": before, "after": after} for before, after in (("", "red"), ("to ", "be"), ("a", "bcd"))]
    write_task(
        folder, "endings", {"test": [*endings, *({"before": w, "after": w[::-1]} for w in WORDS)]},
        output_type="loglikelihood", doc_to_text="before", doc_to_target="after", target_delimiter="",
        metric_list=[{"metric": "perplexity"}, {"metric": "acc"}],
    )  # fmt: skip
    texts = [{"text": " ".join(source.choices(WORDS, k=k))} for k in (1, 8, 25, 60, 150)]
    write_task(
        folder, "texts", {"test": texts}, output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="text",
        metric_list=[{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
    )  # fmt: skip
    group = {"group": "both", "task": ["pairs", "endings"], "aggregate_metric_list": [{"metric": "acc"}]}
    (folder / "both.yaml").write_text(yaml.safe_dump(group))
    write_task(folder, "stories", {"test": texts}, output_type="generate_until", doc_to_text="text", doc_to_target="")
    write_task(folder, "bare", {"test": texts}, output_type="loglikelihood", doc_to_text="text", doc_to_target="",
               target_delimiter="", num_fewshot=0)  # fmt: skip
    return folder


def write_task_run(folder: Path) -> Path:
    """As `write_small_run`, with a tokenizer, a model for longer texts, and tasks in `tasks/`."""
    path = write_small_run(folder)
    write_byte_tokenizer(folder / "tokenizer")
    write_tasks(folder / "tasks")
    config = yaml.safe_load(path.read_text())
    config["model"]["maximum_positions"] = MAXIMUM_POSITIONS
    config["data"]["sequence_length"] = 64
    config["precision"] = "fp32"
    config["evaluation"] |= {
        "tasks": [
            {"name": "both", "limit": 12},
            {"name": "more_pairs", "num_fewshot": 3, "limit": 5},
            {"name": "texts"},
        ],
        "tasks_every_steps": 2,
        "tasks_from": str(folder / "tasks"),
    }
    path.write_text(yaml.safe_dump(config))
    return path
