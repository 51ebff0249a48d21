"""lm-eval (an optional extra) measures on an exported model what our own model computes."""

from __future__ import annotations

import ast
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from data_prep.conversations.jinja import chat_template
from data_prep.conversations.templates import load_template
from data_prep.indexed_dataset.reader import IndexedDataset
from data_prep.indexed_dataset.writer import IndexedDatasetWriter
from foundation.atomic_files import sha256_file
from pretrain.checkpoint.single import load_single_process_model
from pretrain.evaluation.lm_eval_tasks import continuations_task
from tests.unit.pretrain.families.small import InMemory, small_model
from tools import evaluate
from tools.hugging_face import to_hf as convert
from tools.hugging_face.from_hf import from_hugging_face
from tools.prompted_suite import load_suite

TEXTS = ("def add(a, b):\n    return a + b\n", "Water boils at one hundred degrees.", "x" * 150)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A small LLaMA of random weights with a tokenizer of bytes, and a mixture that holds three texts out."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={"</s>": 0, **{c: i + 1 for i, c in enumerate(alphabet)}}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "a", "eos_token": "</s>"}
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(names))
    entry = {"name": "text", "weight": 1.0}
    for key, name in (("", "text"), ("heldout_", "text.heldout")):
        with IndexedDatasetWriter(tmp_path / name, 257) as writer:
            for text in TEXTS:
                writer.add_document(np.array([*tokenizer.encode(text).ids, 0]))
        sizes = {f"{key}documents": len(TEXTS), f"{key}tokens": sum(len(text) + 1 for text in TEXTS)}
        digests = {kind: sha256_file(tmp_path / f"{name}.{kind}") for kind in ("bin", "idx")}
        entry |= {"heldout" if key else "path": name, **sizes, f"{key}sha256": digests}
    mixture = {"version": 1, "tokenizer": "tokenizer", "vocabulary_size": 257, "end_of_document": 0}
    (tmp_path / "mixture.yaml").write_text(yaml.safe_dump({**mixture, "datasets": [entry]}))

    model = small_model("llama").model_copy(update={"vocabulary_size": 257, "maximum_positions": 1024})
    settings = {"tokenizer": tmp_path / "tokenizer", "end_of_document": 0, "dtype": "float32", "shard_bytes": 10**9}
    convert.to_hugging_face(InMemory(model), tmp_path / "hf", **settings)
    return tmp_path / "hf"


@pytest.mark.slow
def test_lm_eval_measures_what_our_model_computes(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval", reason="the optional extra [eval] is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert evaluate.main([str(exported), "--mixture", str(exported.parent / "mixture.yaml")]) == 0
    assert "altiplano_continuations" in capsys.readouterr().out
    results = json.loads((exported.parent / evaluate.RESULT_FILE).read_text())["results"]

    from_hugging_face(exported, exported.parent / "imported")
    model = load_single_process_model(exported.parent / "imported")
    held_out, bits = IndexedDataset(exported.parent / "text.heldout"), 0.0
    for i in range(len(held_out)):
        # As in training, the end of the document before stands first; the one at the end is no part of the text.
        tokens = torch.tensor([[0, *held_out.document(i)[:-1].tolist()]])
        log_probabilities = model(tokens[:, :-1]).log_softmax(-1)[0]
        bits -= float(log_probabilities.gather(1, tokens[0, 1:, None]).sum()) / math.log(2)
    expected = bits / sum(map(len, TEXTS))
    assert results["altiplano_held_out"]["bits_per_byte,none"] == pytest.approx(expected, rel=1e-4)
    assert 0 <= results["altiplano_continuations"]["acc,none"] <= 1
    assert results["altiplano_continuations"]["sample_len"] == 28


RECORDS: dict[str, dict[str, object]] = {
    "boolq": {"passage": "Water is wet {n}.", "question": "is water wet"},
    "cb": {"premise": "It rained {n} days.", "hypothesis": "it rained"},
    "copa": {"premise": "The glass fell {n}.", "choice1": "It broke.", "choice2": "It grew.", "question": "effect"},
    "multirc": {"paragraph": "Ann has {n} cats.", "question": "Who has cats?", "answer": "Ann"},
    "rte": {"premise": "He left at {n}.", "hypothesis": "He left."},
    "wic": {"word": "bank", "sentence1": "The bank {n} is wet.", "sentence2": "The bank is closed."},
    "wsc": {"text": "Tom saw Al {n}, and he waved.", "span1_text": "Tom", "span2_text": "he"},
    "axb": {"sentence1": "She sings {n} songs.", "sentence2": "She sings."},
    "axg": {"premise": "The nurse met {n} men.", "hypothesis": "The nurse met men."},
}


def write_superglue(folder: Path, count: int = 6) -> Path:
    """Records of every task, in the form of the hub's, with labels that vary."""
    for task, fields in RECORDS.items():
        rows = [{**fields, "label": (i * 5 + len(task)) % (3 if task == "cb" else 2)} for i in range(count)]
        for i, row in enumerate(rows):
            first = next(iter(fields))
            row[first if task not in ("wic",) else "sentence1"] = str(
                fields[first if task not in ("wic",) else "sentence1"]
            ).format(n=i)
        write_records(folder / task, rows, "test" if task in ("axb", "axg") else "validation")
    passage = {"passage": "Bo met Cy.\n@highlight\nThey talked", "query": "Later @placeholder slept {n}."}
    rows = [
        {
            **passage,
            "query": f"Later @placeholder slept {i}.",
            "entities": ["Bo", "Cy"],
            "answers": [("Bo", "Cy")[i % 2]],
        }
        for i in range(count)
    ]
    write_records(folder / "record", rows, "validation")
    return folder


def write_records(folder: Path, rows: list[dict[str, object]], split: str) -> None:
    folder.mkdir(parents=True)
    for name in {split, "train"} - ({"train"} if split == "test" else set()):
        lines = [json.dumps(row) + "\n" for row in (rows if name == split else rows[::-1])]
        (folder / f"{name}.jsonl").write_text("".join(lines))


def chosen(model: Callable[[torch.Tensor], torch.Tensor], context: str, choices: list[str]) -> int:
    """Index of the likeliest answer; each byte of an ASCII text is a token of the test's tokenizer."""
    alphabet = {character: i + 1 for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    written = {32: "\u0120", 10: "\u010a"}  # how the alphabet writes a space and a line feed
    scores = []
    for choice in choices:
        text = f"{context} {choice}".encode("ascii")
        tokens = torch.tensor([[alphabet[written.get(byte, chr(byte))] for byte in text]])
        log_probabilities = model(tokens[:, :-1]).log_softmax(-1)[0].gather(1, tokens[0, 1:, None])[:, 0]
        scores.append(float(log_probabilities[len(context) - 1 :].sum()))
    return int(np.argmax(scores))


@pytest.mark.slow
def test_superglue_in_every_wording(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No example, one example; accuracies without one are those of our own model, question by question."""
    pytest.importorskip("lm_eval", reason="the optional extra [eval] is not installed")
    from jinja2 import Environment

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = write_superglue(exported.parent / "superglue")
    assert evaluate.main([str(exported), "--suite", "superglue", "--data", str(data)]) == 0
    result = json.loads((exported.parent / evaluate.RESULT_FILE).read_text())
    suite = load_suite("superglue")
    from_hugging_face(exported, exported.parent / "imported")
    model = load_single_process_model(exported.parent / "imported")
    environment = Environment()
    accuracies: dict[str, list[float]] = {}
    for name, task in suite.tasks.items():
        rows = [json.loads(line) for line in (data / name / f"{task.split}.jsonl").read_text().splitlines()]
        for prompt in task.prompts:
            right = 0
            for row in rows:
                choices = prompt.choices
                if isinstance(choices, str):
                    choices = ast.literal_eval(environment.from_string(choices).render(row))
                target = row["label"] if "label" in row else row["entities"].index(row["answers"][0])
                right += chosen(model, environment.from_string(prompt.text).render(row), list(choices)) == target
            accuracies.setdefault(name, []).append(right / len(rows))
    assert len(accuracies) == 10 and len({tuple(values) for values in accuracies.values()}) > 1
    spread = {(row["task"], row["shots"]): row for row in result["spread"]}
    assert len(spread) == 20
    for name, values in accuracies.items():
        for place, value in enumerate(values):
            assert result["results"][f"{name}_shots0_prompt{place}"]["acc,none"] == pytest.approx(value)
        found = spread[name, 0]
        assert (found["minimum"], found["median"], found["maximum"]) == pytest.approx(
            (min(values), float(np.median(values)), max(values))
        )
        assert found["questions"] == spread[name, 1]["questions"] == 6


@pytest.mark.slow
def test_questions_are_written_by_the_chat_template(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="the optional extra [eval] is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    question = {"context": "Two and two?", "choices": ["four", "five"], "answer": 0}
    (exported.parent / "questions.jsonl").write_text(json.dumps(question) + "\n")
    task = continuations_task()
    task |= {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(exported.parent / "questions.jsonl")}},
    }
    with pytest.raises(ValueError, match=r"chat_template.jinja: no such file; the exported model was not trained on"):
        evaluate.evaluate(exported, [task], limit=None, batch_size=1, chat=True)
    names = {"eos": "</s>"}
    (exported / "chat_template.jinja").write_text(chat_template(load_template("lines"), names))
    asked = {}
    for chat in (False, True):
        found = evaluate.evaluate(exported, [task], limit=None, batch_size=1, chat=chat)
        (sample,) = found["samples"]["altiplano_continuations"]
        asked[chat] = [argument[0] for argument in sample["arguments"]]
    assert asked[False] == ["Two and two?"] * 2
    assert asked[True] == ["Two and two?\n"] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--chat", "--mixture", "m.yaml"], "--mixture has no effect with --chat"),
        (["--suite", "superglue", "--tasks", "boolq"], "--tasks has no effect with --suite"),
        (["--shots", "0"], "--shots has no effect without --suite"),
        (["--tasks-from", "tasks"], "--tasks-from has no effect without --tasks"),
        (["--num-fewshot", "0"], "--num-fewshot has no effect without --tasks"),
        (["--suite", "superglue", "--shots", "-1"], "--shots -1: must be 0 or more"),
    ],
)
def test_options_without_effect_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        evaluate.main(["hf", *options])
    assert message in capsys.readouterr().err


def test_missing_records_are_named(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(exported), "--suite", "superglue", "--data", str(tmp_path / "none")]) == 2
    assert "none/boolq/validation.jsonl: no such file; it has the questions" in capsys.readouterr().err
    assert evaluate.main([str(exported), "--suite", "superblue"]) == 2
    assert "superblue.yaml: no such configuration file" in capsys.readouterr().err


def test_without_the_extra_it_says_how_to_get_it(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert evaluate.main([str(exported)]) == 2
    assert "optional extra: .venv/bin/pip install" in capsys.readouterr().err
