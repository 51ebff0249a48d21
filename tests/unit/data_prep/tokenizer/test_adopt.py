"""An existing tokenizer: used unchanged, checked on the corpus, and refused where it cannot work."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import yaml
from pydantic import ValidationError
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from data_prep.config import TokenizerConfig
from data_prep.indexed_dataset.reader import IndexedDataset
from data_prep.run.commit_records import StaleOutputError
from data_prep.tokenize import tokenize
from data_prep.tokenizer.adopt import check_tokenizer
from data_prep.tokenizer.encoding.encode import ReferenceEncoder, SentencePieceEncoder, open_encoder
from data_prep.tokenizer.encoding.encoded import TokenizerError
from data_prep.tokenizer.encoding.piece_encoder import PieceEncoder
from data_prep.tokenizer.encoding.token_bytes import TokenBytes
from data_prep.tokenizer.train import learn, train_tokenizer
from tests.unit.data_prep.tokenizer.corpus import make_run, make_texts

TEXTS = make_texts(0, 300)
KEPT = {"books": make_texts(1, 60)}


def learnt(folder: Path, kind: str) -> Path:
    learn(TEXTS, TokenizerConfig.model_validate({"kind": kind, "vocabulary_size": 640, "reserved_entries": 5}), folder)
    return folder


def taken(folder: Path, source: Path, texts: dict[str, list[str]] = KEPT, **settings: Any) -> tuple[Any, Any]:
    """A run up to its tokenizer."""
    config, run, _ = make_run(folder, texts, settings={"tokenizer": {"path": str(source), **settings}})
    train_tokenizer(config, run)
    return config, run


@pytest.mark.parametrize("kind", ["byte_level_bpe", "sentencepiece_bpe"])
def test_it_is_taken_as_it_is(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = learnt(tmp_path / "theirs", kind)
    config, run = taken(tmp_path, source)
    for path in source.iterdir():
        assert (run.tokenizer / path.name).read_bytes() == path.read_bytes()
    report = json.loads((run.tokenizer / "report.json").read_text())
    assert (report["kind"], report["vocabulary_size"], report["from"]) == (kind, 640, str(source))
    assert report["round_trip"]["documents"] == 60 and "sample" not in report
    assert open_encoder(ReferenceEncoder(run.tokenizer)).name == PieceEncoder.name

    train_tokenizer(config, run)
    assert "already done" in capsys.readouterr().out
    content = json.loads((source / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (source / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(StaleOutputError, match="path"):
        train_tokenizer(config, run)


def test_a_sentencepiece_model_alone_is_enough(tmp_path: Path) -> None:
    whole = learnt(tmp_path / "whole", "sentencepiece_bpe")
    (tmp_path / "alone").mkdir()
    shutil.copy(whole / "tokenizer.model", tmp_path / "alone")
    _, run = taken(tmp_path, tmp_path / "alone")
    encoder = ReferenceEncoder(run.tokenizer)
    original = SentencePieceEncoder(whole, encoder.end_of_document, encoder.vocabulary_size)
    np.testing.assert_array_equal(encoder.encode(KEPT["books"]).tokens, original.encode(KEPT["books"]).tokens)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(whole / "tokenizer.model"))
    assert encoder.end_of_document == processor.eos_id()


def write_gpt_neox_like(folder: Path, normalizer: Any = None) -> Path:
    """GPT-2's pieces, and runs of spaces as added tokens that are text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens([AddedToken(" " * n, normalized=False) for n in (4, 3, 2)])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return folder


CODE = {"code": [*(f"def f{i}(x):\n    if x:\n      return {i}\n" for i in range(40)), "e\u0301t\u00e9  caf\u00e9"]}


def test_added_tokens_that_are_text_stand_for_it(tmp_path: Path) -> None:
    config, run = taken(tmp_path, write_gpt_neox_like(tmp_path / "theirs"), CODE)
    report = json.loads((run.tokenizer / "report.json").read_text())
    assert report["round_trip"]["inexact"] == [] and report["vocabulary_size"] == 603
    tokens = ReferenceEncoder(run.tokenizer).encode(CODE["code"]).tokens
    assert tokens.max() >= 600
    tokenize(config, run)
    assert len(IndexedDataset(run.tokens / "code")) > 30


def test_what_a_tokenizer_rewrites_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_gpt_neox_like(tmp_path / "theirs", normalizers.NFC())
    config, run = taken(tmp_path, source, CODE)
    report = json.loads((run.tokenizer / "report.json").read_text())["round_trip"]
    assert report["rewriting"] == "NFC" and len(report["inexact"]) == 1
    tokenize(config, run)
    assert "all 41 documents decode to their original bytes, except 1 that the tokenizer rewrites: NFC" in (
        " ".join(capsys.readouterr().out.split())
    )
    encoder = ReferenceEncoder(run.tokenizer)
    dataset, heldout = IndexedDataset(run.tokens / "code"), run.tokens / "code.heldout"
    texts = [encoder.decode(dataset.document(i)[:-1]) for i in range(len(dataset))]
    if heldout.with_suffix(".heldout.bin").is_file():
        texts += [encoder.decode(IndexedDataset(heldout).document(i)[:-1]) for i in range(len(IndexedDataset(heldout)))]
    assert sorted(texts) == sorted(unicodedata.normalize("NFC", text) for text in CODE["code"])


def test_the_model_may_have_more_entries(tmp_path: Path) -> None:
    source = learnt(tmp_path / "theirs", "byte_level_bpe")
    config, run = taken(tmp_path / "more", source, model_vocabulary_size=656)
    tokenize(config, run)
    assert yaml.safe_load((run.tokens / "mixture.yaml").read_text())["vocabulary_size"] == 656
    with pytest.raises(TokenizerError, match="model_vocabulary_size: 639 is less than the 640 entries"):
        taken(tmp_path / "less", source, model_vocabulary_size=639)


def test_what_cannot_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer.path: .*nowhere is not a folder"):
        taken(tmp_path / "a", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TokenizerError, match=r"empty contains neither tokenizer.json nor tokenizer.model"):
        taken(tmp_path / "b", tmp_path / "empty")
    endless = write_gpt_neox_like(tmp_path / "endless")
    (endless / "tokenizer_config.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r'no eos_token; .* name it there, such as "eos_token"'):
        taken(tmp_path / "c", endless)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.model").write_bytes(b"\xff\xff")
    with pytest.raises(TokenizerError, match=r"broken/tokenizer.model: not a SentencePiece model"):
        taken(tmp_path / "d", tmp_path / "broken")


def test_another_kind_of_tokenizer_is_refused(tmp_path: Path) -> None:
    unigram = tmp_path / "unigram"
    unigram.mkdir()
    model = models.Unigram([("<unk>", 0.0), ("a", -1.0), (" ", -2.0), ("</s>", -3.0)], unk_id=0)
    Tokenizer(model).save(str(unigram / "tokenizer.json"))
    (unigram / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    with pytest.raises(TokenizerError, match="neither byte-level BPE nor SentencePiece BPE with byte fallback"):
        taken(tmp_path, unigram)


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(ValidationError, match="vocabulary_size has no effect: path 'theirs' names a tokenizer"):
        TokenizerConfig.model_validate({"path": "theirs", "vocabulary_size": 1024})
    with pytest.raises(ValidationError, match="model_vocabulary_size has no effect without path"):
        TokenizerConfig.model_validate({"model_vocabulary_size": 1024})


def changed(source: Path, folder: Path, **parts: Any) -> Path:
    """A copy of a tokenizer whose `tokenizer.json` has other parts."""
    shutil.copytree(source, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"] |= parts.pop("model", {})
    (folder / "tokenizer.json").write_text(json.dumps(content | parts))
    return folder


def test_what_a_library_left_in_a_tokenizer_never_acts(tmp_path: Path) -> None:
    whole = learnt(tmp_path / "whole", "byte_level_bpe")
    left = changed(
        whole,
        tmp_path / "left",
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 600}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<pad>",
        },
        model={"dropout": 0.5},
    )  # fmt: skip
    texts = KEPT["books"]
    check_tokenizer(left, TokenizerConfig(path=left))
    np.testing.assert_array_equal(
        ReferenceEncoder(left).encode(texts).tokens, ReferenceEncoder(whole).encode(texts).tokens
    )


def test_a_sentencepiece_tokenizer_without_a_dummy_prefix(tmp_path: Path) -> None:
    whole = learnt(tmp_path / "whole", "sentencepiece_bpe")
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    decoder = [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    source = changed(whole, tmp_path / "theirs", normalizer=replace, decoder={"type": "Sequence", "decoders": decoder})
    (source / "tokenizer.model").unlink()
    check_tokenizer(source, TokenizerConfig(path=source))
    config, run = taken(tmp_path, source)
    tokenize(config, run)
    assert TokenBytes.of(ReferenceEncoder(run.tokenizer)).prefix == b""


def test_a_tokenizer_that_loses_text_is_refused_at_the_start(tmp_path: Path) -> None:
    whole = learnt(tmp_path / "whole", "byte_level_bpe")
    split = {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Removed", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    pre_tokenizer = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    source = changed(whole, tmp_path / "theirs", pre_tokenizer=pre_tokenizer)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: a text does not come back from its tokens: "):
        check_tokenizer(source, TokenizerConfig(path=source))
