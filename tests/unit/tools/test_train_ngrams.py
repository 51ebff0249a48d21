"""From text to the perplexity that KenLM measures under our own model, and the model of each language of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import sentencepiece

from data_prep.config import DataConfig, LanguageModelConfig
from data_prep.dedup.stage import dedup
from data_prep.extract import extract
from data_prep.rules.decide import decide
from data_prep.run.directory import RunDirectory
from data_prep.signals.measure import measure
from data_prep.signals.perplexity import Perplexity, normalize
from tests.unit.data_prep.ngrams.plain_ngrams import PlainModel, read_arpa
from tools.train_ngrams import main

ENGLISH = "the wind blows over the hills and the rain falls on the old town while people wait for the train"
GERMAN = "der Wind weht über die Hügel und der Regen fällt auf die alte Stadt während die Leute warten"


def texts(words: str, count: int, seed: int) -> list[str]:
    """Documents of three lines; some repeat others' phrases."""
    generator = np.random.default_rng(seed)
    lines = [" ".join(generator.choice(words.split(), 12).tolist()).capitalize() + "." for _ in range(count)]
    return ["\n".join(generator.choice(lines, 3).tolist()) for _ in range(count)]


def write(path: Path, documents: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return path


def perplexities(model: Path, tokenizer: Path, documents: list[str]) -> list[float]:
    encoded = [text.encode() for text in documents]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    judge = Perplexity({"en": LanguageModelConfig(model=model, tokenizer=tokenizer)})
    return judge.measure(np.frombuffer(b"".join(encoded), np.uint8), offsets, ["en"] * len(documents)).tolist()


def expected(plain: PlainModel, tokenizer: sentencepiece.SentencePieceProcessor, text: str) -> float:
    lines = tokenizer.encode([normalize(line) for line in text.split("\n") if line.strip()], out_type=str)
    return float(10 ** (-sum(map(plain.score, lines)) / sum(len(line) + 1 for line in lines)))


def test_files_to_perplexity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = [*texts(ENGLISH, 120, 1), "Ünïcode in 1984: “<s> quoted </s>”\n\nand <unk> 漢字 once", "漢字"]
    path = write(tmp_path / "text.jsonl", documents)
    with open(path, "a") as file:
        file.write("no JSON\n")
    models = tmp_path / "models"
    arguments = ["--files", str(path), "--languages", "eng", "--output", str(models)]
    assert main([*arguments, "--pieces", "38", "--order", "4", "--discount-fallback"]) == 0
    printed = capsys.readouterr().out
    model, tokenizer = models / "en.arpa", models / "en.sp.model"
    assert printed.endswith(
        f"en: left out: 1 invalid_json\nperplexity:\n  en:\n    model: {model}\n    tokenizer: {tokenizer}\n"
    )
    assert sorted(models.iterdir()) == [model, tokenizer]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    lines = [plain for text in documents for line in text.split("\n") if (plain := normalize(line))]
    sentences = processor.encode(lines, out_type=str)
    assert f"{sum(map(len, sentences)):,} pieces in {len(sentences)} lines" in printed
    plain = PlainModel(sentences, 4, fallback=True)
    assert {gram for gram in read_arpa(model) if gram not in (("<unk>",), ("<s>",))} == set().union(*plain.kept)
    assert ("漢字",) in plain.kept[1], "what the tokenizer does not know is a word"
    unseen = [*texts(ENGLISH, 5, 2), "漢字 漢", "Ünïcode"]
    for text, found in zip([*documents, *unseen], perplexities(model, tokenizer, [*documents, *unseen]), strict=True):
        assert found == pytest.approx(expected(plain, processor, text), rel=1e-4), text

    # the same tokenizer, and the first documents only
    other = [*arguments[:-1], str(tmp_path / "other"), "--tokenizer", str(tokenizer), "--documents", "7"]
    assert main([*other, "--order", "2", "--prune", "0", "1", "--discount-fallback"]) == 0
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["en.arpa"]
    seven = [plain for text in documents[:7] for line in text.split("\n") if (plain := normalize(line))]
    few = PlainModel(processor.encode(seven, out_type=str), 2, (0, 1), fallback=True)
    assert set(read_arpa(tmp_path / "other" / "en.arpa")) == {("<unk>",), ("<s>",), *few.kept[1], *few.kept[2]}


def test_the_languages_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    english, german = texts(ENGLISH, 60, 3), texts(GERMAN, 40, 4)
    write(tmp_path / "web.jsonl", [*english, *german, *english[:20]])
    source = {"name": "web", "kind": "jsonl", "paths": [str(tmp_path / "web.jsonl")], "rules": []}
    config = DataConfig.model_validate(
        {"output": tmp_path / "run", "workers": 1, "sources": [source], "dedup": {"minimum_jaccard": 1}}
    )
    (tmp_path / "data.yaml").write_text(config.model_dump_json())
    arguments = ["--config", str(tmp_path / "data.yaml"), "--output", str(tmp_path / "models"), "--pieces", "30"]
    arguments += ["--order", "3", "--discount-fallback"]
    assert main([*arguments, "--languages", "en"]) == 2
    assert "manifest.json: no such file; run `altiplano data extract` first" in capsys.readouterr().err
    run = RunDirectory(config.output)
    for stage in (extract, measure, dedup):
        stage(config, run)
    assert main([*arguments, "--languages", "en"]) == 2
    assert "decide is not complete" in capsys.readouterr().err
    decide(config, run)
    capsys.readouterr()
    assert main([*arguments, "--languages", "en,de"]) == 0
    printed = capsys.readouterr().out
    verdicts = pq.read_table(run.verdicts / "web-00000.parquet").to_pylist()
    assert sum(row["kept"] for row in verdicts) == len({*english, *german}) == len(verdicts) - 20
    for language in ("en", "de"):
        lines = 3 * sum(row["kept"] and row["language"] == language for row in verdicts)
        assert lines > 60
        assert f"{language}.arpa: " in printed and f" pieces in {lines} lines" in printed, printed
    assert {path.name for path in (tmp_path / "models").iterdir()} == {
        f"{language}.{kind}" for language in ("en", "de") for kind in ("arpa", "sp.model")
    }
    assert main([*arguments, "--languages", "sw"]) == 2
    assert "the run keeps no document in 'sw'; most text is in en, de" in capsys.readouterr().err


def test_what_cannot_work_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path / "text.jsonl", texts(ENGLISH, 50, 1)))
    files = ["--files", path, "--languages", "en", "--output", str(tmp_path / "models"), "--pieces", "30"]

    def refused(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        return capsys.readouterr().err

    assert "--files are of one language" in refused("--files", path, "--languages", "en,de", "--output", "x")
    assert "do not name a language: 'xx'" in refused("--files", path, "--languages", "xx", "--output", "x")
    assert "output=y: has no effect without --config" in refused(*files, "--order", "3", "output=y")
    assert "--kind: has no effect beside --config" in refused(
        "--config", "x", "--kind", "text", "--languages", "en", "--output", "x"
    )
    assert "gone.jsonl: no such file or folder" in refused(
        "--files", str(tmp_path / "gone.jsonl"), "--languages", "en", "--output", "x"
    )
    assert "no file that kind 'epub' reads; --kind names another one" in refused(
        "--files", str(tmp_path), "--kind", "epub", "--languages", "en", "--output", "x"
    )
    assert "text_field: has no effect: kind is 'text', not jsonl or parquet or arrow" in refused(
        *files, "--kind", "text", "--text-field", "body"
    )
    assert "form: missing; kind conversations needs one of" in refused(*files, "--kind", "conversations")
    assert "--pieces: has no effect beside --tokenizer" in refused(*files, "--tokenizer", "x")
    assert "--documents 0: must be at least 1" in refused(*files, "--documents", "0")
    assert "--memory-bytes 1: must be at least 10000000" in refused(*files, "--memory-bytes", "1")
    assert "--order 7: must be from 2 to 6" in refused(*files, "--order", "7")
    assert not (tmp_path / "models").exists(), "settings are checked before anything is written"
    assert "--discount-fallback, which takes 0.5, 1, 1.5" in refused(*files, "--order", "2")
    assert "en.sp.model exists already; use it with --tokenizer" in refused(*files)
    tokenizer = str(tmp_path / "models" / "en.sp.model")
    assert main([*files[:-2], "--tokenizer", tokenizer, "--discount-fallback"]) == 0
    assert "en.arpa exists already; remove it" in refused(*files)
    (tmp_path / "empty.jsonl").write_text("")
    empty = ["--files", str(tmp_path / "empty.jsonl"), "--languages", "en", "--output", str(tmp_path / "none")]
    assert "there is no text to train a tokenizer on" in refused(*empty)
    assert "en.arpa: there is no text to estimate" in refused(*empty, "--tokenizer", tokenizer)
