"""The tokenizer's report against counts made in a plain way."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_prep.config import DataConfig
from data_prep.run.commit_records import restart
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import load_manifest
from data_prep.tokenizer import report as report_module
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.tokenizer.encoding.token_bytes import TokenBytes
from data_prep.tokenizer.kept_documents import read_kept
from data_prep.tokenizer.report import count_words, fertility, own_settings, report_tokenizer
from data_prep.tokenizer.sample import is_measured, kept_bytes_of, measured_shares
from data_prep.tokenizer.train import train_tokenizer
from tests.unit.data_prep.tokenizer.corpus import make_run, make_texts

Prepared = tuple[DataConfig, RunDirectory]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("can't stop, won’t stop", 4),
        ("3.14 and 1,000", 3),
        ("你好世界。", 4),
        ("カタカナ", 1),
        ("नमस्ते दुनिया।", 2),
        ("e\u0301te\u0301 l'été", 2),
        ("foo-bar (baz)", 3),
        (" \n …!", 0),
    ],
)
def test_words_by_unicodes_boundaries(text: str, words: int) -> None:
    assert count_words(text) == words


def test_a_language_is_flagged_when_it_is_more_than_a_tenth_worse() -> None:
    count = {"bytes": 900, "documents": 3, "measured_words": 100, "measured_tokens": 220}
    good = fertility(count, {"vocabulary_size": 512, "tokens": 200})
    assert (good["tokens_per_word"], good["own_tokens_per_word"], good["ratio"], good["flagged"]) == (
        2.2,
        2.0,
        1.1,
        False,
    )
    assert fertility(count, {"vocabulary_size": 512, "tokens": 199})["flagged"]
    assert not fertility(count, {"not_compared": "too little"})["flagged"]


def test_the_other_tokenizer_is_of_the_same_kind() -> None:
    own = own_settings("sentencepiece_bpe", 32000, None)
    assert (own.kind, own.vocabulary_size, own.reserved) == ("sentencepiece_bpe", 7936, 0)
    given = own_settings("byte_level_bpe", 32000, 1024)
    assert (given.kind, given.vocabulary_size, given.reserved) == ("byte_level_bpe", 1024, 0)


def rare_texts(count: int) -> list[str]:
    """A small language of words that the others do not have."""
    source = random.Random(7)
    words = ["".join(source.choice("bdfghjkqvwxz") for _ in range(9)) for _ in range(60)]
    return [" ".join(source.choice(words) for _ in range(40)) for _ in range(count)]


@pytest.fixture(params=["byte_level_bpe", "sentencepiece_bpe"])
def run(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[DataConfig, RunDirectory]:
    monkeypatch.setattr(report_module, "_FEWEST_LEARNT_BYTES", 1000)
    monkeypatch.setattr(report_module, "_FEWEST_MEASURED_WORDS", 10)
    sources = {"web": [*make_texts(0, 600), *rare_texts(60)], "books": [*make_texts(1, 80), "solo 👾"]}
    languages = {"web": ["es"] * 600 + ["la"] * 60, "books": ["es"] * 80 + ["tiny"]}
    settings = {
        "workers": 1,
        "tokenizer": {
            "kind": request.param,
            "vocabulary_size": 768,
            "reserved_entries": 8,
            "sample_bytes": 60_000,
            "language_weights": {"la": 0.01},
        },
    }
    config, run, _ = make_run(tmp_path, sources, settings=settings, languages=languages)
    train_tokenizer(config, run)
    return config, run


def test_the_report_counts_what_is_there(
    run: tuple[DataConfig, RunDirectory], capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = run
    capsys.readouterr()
    report_tokenizer(config, folder)
    report = json.loads((folder.tokenizer_report / "report.json").read_text())
    assert (folder.tokenizer_report / "report.png").read_bytes().startswith(b"\x89PNG")

    manifest = load_manifest(folder)
    shares = measured_shares(kept_bytes_of(config, folder, manifest))
    encoder = ReferenceEncoder(folder.tokenizer)
    used = Counter[int]()
    tokens, sizes, words, measured = (Counter[str]() for _ in range(4))
    for shard in manifest.shards:
        for document in read_kept(folder, shard.name):
            ids = encoder.encode([document.text]).tokens[:-1].tolist()
            used.update(ids)
            tokens[shard.source] += len(ids)
            sizes[shard.source] += len(document.text.encode())
            if is_measured(config.seed, shares, document.id, document.language):
                words[document.language] += count_words(document.text)
                measured[document.language] += len(ids)
    trip = report["round_trip"]
    assert (trip["documents"], trip["inexact"]) == (741, 0)
    assert (trip["bytes"], trip["tokens"]) == (sum(sizes.values()), sum(tokens.values()))
    assert report["bytes_per_token"] == {name: round(sizes[name] / tokens[name], 4) for name in ("web", "books")}
    for language in ("es", "la"):
        found = report["fertility"][language]
        assert found["tokens_per_word"] == round(measured[language] / words[language], 4)
        own = ReferenceEncoder(folder.tokenizer_report / "languages" / language)
        assert found["own_vocabulary_size"] == own.vocabulary_size <= 512
    assert report["fertility"]["la"]["flagged"] and not report["fertility"]["es"]["flagged"]
    assert report["fertility"]["tiny"]["not_compared"].startswith("only ")
    table = TokenBytes.of(encoder)
    never = [i for i, text in enumerate(table.texts) if text is not None and not used[i]]
    assert report["unused_entries"]["entries"] == len(never) > 0
    sizes_of = [token["bytes"] for token in report["longest_tokens"]]
    assert sizes_of == sorted(sizes_of, reverse=True) and sizes_of[0] >= 5
    assert all(token["used"] == used[token["id"]] for token in report["longest_tokens"])
    fallback = sum(used[i] for i in np.flatnonzero(table.is_fallback).tolist())
    assert report["byte_fallback"]["share_of_tokens"] == round(fallback / sum(tokens.values()), 6) > 0

    output = capsys.readouterr().out
    assert "FLAGGED" in output and "reasons are in report.json): tiny" in output
    assert "flagged, more than 10 % worse: la. Improve them with tokenizer.language_weights" in output
    assert "741 of 741" in output

    before = (folder.tokenizer_report / "report.json").read_text()
    report_tokenizer(config, folder)
    assert "already done" in capsys.readouterr().out
    assert (folder.tokenizer_report / "report.json").read_text() == before
    restart(folder, "train-tokenizer")
    assert not folder.tokenizer_report.exists()
