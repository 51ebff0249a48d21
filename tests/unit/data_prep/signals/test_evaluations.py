"""Items of evaluation sets in documents: what is found, beside a plain search; the measures; and the reasons given."""

from __future__ import annotations

import gzip
import json
import random
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.config import DataConfig
from data_prep.dedup.stage import dedup
from data_prep.extract import extract
from data_prep.ledger.why import explain
from data_prep.rules.decide import decide
from data_prep.run.directory import RunDirectory
from data_prep.signals.evaluations import Contamination, EvaluationItems
from data_prep.signals.measure import measure
from tests.unit.data_prep.signals.plain_segmentation import is_unspaced

FOX = "The quick brown fox jumps over the lazy dog, and then it sleeps for hours in the sun."


def search(items: EvaluationItems, *documents: str) -> list[Contamination]:
    encoded = [document.encode() for document in documents]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return items.find(np.frombuffer(b"".join(encoded), np.uint8), offsets)


def plain_words(text: str) -> list[str]:
    """The words of a text, from their definition."""
    words: list[str] = []
    for token in text.split():
        word = ""
        for character in token:
            if is_unspaced(character):
                words += [word] if word else []
                words.append(character)
                word = ""
            elif unicodedata.category(character)[0] in "LNM":
                word += character.lower()[0]
        words += [word] if word else []
    return words


def plain(items: list[str], document: str, collision: int) -> tuple[int, float, float]:
    """The three measures of a document by comparing every n-gram of every item with it; of items that repeat none."""

    def ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
        return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    divided = [plain_words(item) for item in items]
    letters = [sum(map(is_unspaced, "".join(words))) for words in divided]
    factors = [2 if 2 * count > len(words) else 1 for count, words in zip(letters, divided, strict=True)]
    text = plain_words(document)
    collisions, share, tokens = 0, 0.0, 0.0
    for words, factor in zip(divided, factors, strict=True):
        there = set(ngrams(text, 8 * factor))
        own = ngrams(words, 8 * factor)
        if not own:
            continue
        share = max(share, sum(ngram in there for ngram in own) / len(own))
        collisions += bool(set(ngrams(words, collision * factor)) & set(ngrams(text, collision * factor)))
        covered = set()
        for at in range(len(words)):
            for place in range(len(text)):
                if words[at] != text[place] or (at and place and words[at - 1] == text[place - 1]):
                    continue
                run = 0
                while at + run < len(words) and place + run < len(text) and words[at + run] == text[place + run]:
                    run += 1
                if run < 11 * factor:
                    continue
                others, k = 0, run
                covered |= set(range(at, at + run))
                while at + k < len(words) and place + k < len(text) and others <= 4:
                    others += words[at + k] != text[place + k]
                    if words[at + k] == text[place + k]:
                        covered |= set(range(at, at + k + 1))
                    k += 1
        tokens = max(tokens, len(covered) / len(words))
    return collisions, share, tokens


def test_case_and_punctuation_do_not_matter_and_the_place_is_shown() -> None:
    document = "Before. THE QUICK brown fox — jumps over the lazy dog (and then, it sleeps). For days"
    clean, found = search(EvaluationItems({"animals": [("7", FOX)]}), "The quick brown fox sleeps.", document)
    assert clean == Contamination(0, 0.0, 0.0, ())
    (run,) = found.runs
    assert (run.set, run.item, run.at, run.words) == ("animals", "7", 0, 14)
    part = document.encode()[run.start : run.end].decode()
    assert part == "THE QUICK brown fox — jumps over the lazy dog (and then, it sleeps). For"
    assert found[:3] == (1, 7 / 11, 14 / 18)


def test_random_documents_against_a_plain_search() -> None:
    """Mixed scripts; pieces of items with words changed, put in, left out."""
    random_ = random.Random(5)
    vocabulary = [f"w{k}" for k in range(4000)] + ["Straße", "œuvre", "नमस्ते", "снег", "don't", "1,000"]
    hanzi = [chr(0x4E00 + k) for k in range(5000)]

    def item() -> str:
        if random_.random() < 0.3:
            return "".join(random_.sample(hanzi, random_.randint(5, 70)))
        return " ".join(random_.sample(vocabulary, random_.randint(5, 60)))

    items = [item() for _ in range(60)]
    finder = EvaluationItems({"set": [(str(k), text) for k, text in enumerate(items)]})
    documents = []
    for _ in range(150):
        parts = []
        for text in random_.sample(items, random_.randint(0, 2)):
            words = plain_words(text)
            spaced = " " in text
            begin = random_.randrange(len(words))
            words = words[begin : begin + random_.randint(8, 70)]
            for _ in range(random_.choice((0, 0, 1, 3, 6))):
                words[random_.randrange(len(words))] = random_.choice((*vocabulary, "日"))
            parts += [(" " if spaced else "").join(words), "and so on"]
        documents.append("\n".join(parts))
    found = search(finder, *documents)
    assert sum(document.collisions > 0 for document in found) > 30
    assert sum(0 < document.ngram_share < 1 for document in found) > 30
    for document, text in zip(found, documents, strict=True):
        expected = plain(items, text, finder.sets[0].collision)
        assert document[:3] == pytest.approx(expected), text
        for run in document.runs:
            part = text.encode()[run.start : run.end].decode()
            assert plain_words(part) == plain_words(items[int(run.item)])[run.at : run.at + run.words]


def test_the_number_of_words_of_a_collision_is_that_of_short_items() -> None:
    def of(*lengths: int) -> int:
        items = [(str(k), " ".join(f"w{k}x{i}" for i in range(length))) for k, length in enumerate(lengths)]
        return EvaluationItems({"set": items}).sets[0].collision

    assert (of(3, 3, 3), of(10, 10), of(40, 50), of(*[10] * 2, *[50] * 98)) == (8, 10, 13, 13)
    short = EvaluationItems({"set": [("a", "one two three"), ("b", FOX)]}).sets[0]
    assert short.too_short == 1


def test_a_phrase_of_many_items_is_no_sign_of_any() -> None:
    phrase = "which of the following statements about the text is true"
    items = [(str(k), f"{phrase} {' '.join(f'w{k}x{i}' for i in range(10))}") for k in range(11)]
    assert search(EvaluationItems({"set": items}), phrase)[0].runs == ()
    assert len(search(EvaluationItems({"set": items[:10]}), phrase)[0].runs) == 10
    whole = search(EvaluationItems({"set": items}), items[3][1])[0]
    assert whole.ngram_share == 1 and whole.collisions == 1 and whole.runs[0].words == 20


def test_repetition_costs_no_more_than_once() -> None:
    items = EvaluationItems({"set": [("a", "la " * 500), ("b", "la la lo " * 200)]})
    found = search(items, "la " * 20_000)[0]
    assert found.ngram_share == 1 and len(found.runs) < 20_000 / 400


def test_more_runs_than_there_was_room_for() -> None:
    items = EvaluationItems({"set": [(str(k), " ".join(f"w{k}x{i}" for i in range(9))) for k in range(3000)]})
    text = " ".join(" ".join(f"w{k}x{i}" for i in range(9)) for k in range(3000))
    found = search(items, text, "nothing", text)
    assert [len(document.runs) for document in found] == [3000, 0, 3000]
    assert all(a.end < b.start for a, b in pairwise(found[0].runs))


def data_config(tmp_path: Path, sets: dict[str, Any], rules: list[str]) -> DataConfig:
    source = {"name": "web", "kind": "jsonl", "paths": [str(tmp_path / "raw")], "rules": rules}
    settings = {"output": str(tmp_path / "run"), "sources": [source], "decontamination": sets, "workers": 1}
    return DataConfig.model_validate(settings)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    half = " ".join(FOX.split()[:12])
    texts = ["A page about nothing in particular.", f"My test:\n\n{FOX}\n", f"I read that {half}, which I doubt."]
    lines = [json.dumps({"text": text, "url": f"https://site.example/{k}"}) + "\n" for k, text in enumerate(texts)]
    (tmp_path / "raw" / "a.jsonl").write_text("".join(lines))
    questions = [{"id": "q-1", "question": FOX.split(",")[0], "answer": "and" + FOX.partition("and")[2]}]
    with gzip.open(tmp_path / "items.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(question) + "\n" for question in questions)
    return tmp_path


def test_from_files_to_reasons(corpus: Path) -> None:
    settings = {
        "path": str(corpus / "items.jsonl.gz"),
        "text_template": "{question}, {answer}",
        "id_field": "id",
    }
    rules = ["decontamination_gpt3", "decontamination_palm", "decontamination_llama2"]
    config = data_config(corpus, {"animals": settings}, rules)
    run = RunDirectory(config.output)
    for stage in (extract, measure, dedup, decide):
        stage(config, run)
    signals = pq.read_table(run.signals / "web-00000.parquet").to_pylist()
    assert [row["evaluation_collisions"] for row in signals] == [0, 1, 0]
    assert [row["evaluation_ngram_share"] for row in signals] == [0, 1, 5 / 11]
    assert [row["evaluation_token_share"] for row in signals] == [0, 1, 12 / 18]
    match = {"set": "animals", "item": "q-1", "at": 0, "words": 18, "start": 10, "end": 10 + len(FOX) - 1}
    assert signals[1]["evaluation_matches"] == [match]
    verdicts = pq.read_table(run.verdicts / "web-00000.parquet").to_pylist()
    names = [
        "decontamination_gpt3.collisions",
        "decontamination_palm.ngram_share",
        "decontamination_llama2.token_share",
    ]
    assert [row["reasons"] for row in verdicts] == [[], names, []]
    explained = explain(config, run, "https://site.example/1")
    assert "FAILS     decontamination_gpt3.collisions" in explained and "'item': 'q-1'" in explained


def test_without_sets_nothing_is_measured(corpus: Path) -> None:
    config = data_config(corpus, {}, [])
    run = RunDirectory(config.output)
    extract(config, run)
    measure(config, run)
    signals = pq.read_table(run.signals / "web-00000.parquet").to_pylist()
    assert {row[name] for row in signals for name in row if name.startswith("evaluation_")} == {None}


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (None, {}, r"decontamination\.animals: .*items\.jsonl: no such file"),
        ("", {}, r"decontamination\.animals: .*has no items"),
        ('{"text": "a"}\n{"text": 3}\n', {}, r"items\.jsonl:2: missing_text: `text` is number"),
        ('{"text": "a"}\n{"te\n', {}, r"items\.jsonl:2: invalid_json"),
        ('{"text": "a"}\n', {"id_field": "id"}, r"items\.jsonl:1: missing_id"),
        ('{"text": "a"}\n', {"text_field": "a", "text_template": "{b}"}, "text_field: has no effect beside"),
    ],
)
def test_a_set_that_cannot_be_used_is_named(
    corpus: Path, content: str | None, settings: dict[str, Any], message: str
) -> None:
    path = corpus / "items.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        config = data_config(corpus, {"animals": {"path": str(path), **settings}}, [])
        run = RunDirectory(config.output)
        extract(config, run)
        measure(config, run)


def test_a_rule_without_a_set_is_refused(corpus: Path) -> None:
    with pytest.raises(ValueError, match=r"sources\.0\.rules: rule set `decontamination_palm` needs evaluation sets"):
        data_config(corpus, {}, ["decontamination_palm"])
