"""SentencePiece BPE: what it learns and ignores, and that every form of it encodes the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from data_prep.config import TokenizerConfig
from data_prep.indexed_dataset.reader import IndexedDataset
from data_prep.tokenize import tokenize
from data_prep.tokenizer.encoding.encode import GigatokenEncoder, ReferenceEncoder, SentencePieceEncoder, check_encoders
from data_prep.tokenizer.encoding.encoded import TokenizerError
from data_prep.tokenizer.encoding.piece_encoder import PieceEncoder
from data_prep.tokenizer.encoding.token_bytes import TokenBytes
from data_prep.tokenizer.sentence_piece import (
    parse,
    save_sentencepiece_bpe,
    to_tokenizers,
    train_sentencepiece_bpe,
)
from data_prep.tokenizer.train import train_tokenizer
from tests.unit.data_prep.tokenizer.corpus import make_run, make_texts

TEXTS = [*make_texts(0, 300), *["def f(x):\n        return 1234 + 56789\n\n\tpass"] * 30]
SETTINGS = TokenizerConfig(kind="sentencepiece_bpe", vocabulary_size=768)
TRICKY = (
    "",
    " ",
    "  a",
    "a\n\n b\t",
    "</s><s>",
    "12345",
    "é雪👩‍👩‍👧 \U0010ffff",
    "\x00\x01\ufeff",
    "\u2585 \u2047 e\u0301 \u00a0x",
)


@pytest.fixture(scope="module")
def model() -> bytes:
    return train_sentencepiece_bpe(TEXTS, SETTINGS)


@pytest.fixture(scope="module")
def folder(model: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentencepiece")
    save_sentencepiece_bpe(model, folder)
    return folder


def test_pieces_are_llamas(model: bytes) -> None:
    pieces = [piece.piece for piece in parse(model).pieces]
    assert len(pieces) == 768
    assert pieces[:4] == ["<unk>", "<s>", "</s>", "<0x00>"] and pieces[258] == "<0xFF>"
    learnt = pieces[259:]
    assert not [piece for piece in learnt if len(piece) > 1 and any(character.isdigit() for character in piece)]
    assert "▁▁▁▁" in learnt, "indentation"
    assert not [piece for piece in learnt if "\n" in piece]
    rules = parse(model).normalizer_spec
    assert (rules.name, rules.add_dummy_prefix, rules.remove_extra_whitespaces) == ("identity", True, False)


def test_the_same_texts_give_the_same_model(model: bytes) -> None:
    assert train_sentencepiece_bpe(iter(TEXTS), SETTINGS) == model


def test_text_beside_reserved_characters_is_learnt_from() -> None:
    """The trainer leaves out a line that holds one of them, unless it is cut there."""
    odd = [f"{text} zyzzyva\u2585zyzzyva\u2581zyzzyva\x00" for text in make_texts(0, 300)]
    pieces = {piece.piece for piece in parse(train_sentencepiece_bpe(odd, SETTINGS)).pieces}
    assert "▁zyzzyva" in pieces


def test_reserved_entries(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"reserved_entries": 3})
    save_sentencepiece_bpe(train_sentencepiece_bpe(TEXTS, settings), tmp_path)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert [processor.id_to_piece(i) for i in range(2, 7)] == [
        "</s>",
        *(f"<|reserved_{i}|>" for i in range(3)),
        "<0x00>",
    ]
    tokens = ReferenceEncoder(tmp_path).encode(["<|reserved_1|>"]).tokens
    assert tokens[-1] == 2 and min(tokens[:-1]) > 5, "text never becomes a reserved token"


def test_every_form_encodes_the_same(folder: Path) -> None:
    texts = [*TEXTS, *TRICKY, "a\u2581b"]
    reference = ReferenceEncoder(folder)
    right = reference.encode(texts)
    for other in (SentencePieceEncoder(folder, 2, 768), GigatokenEncoder(folder, 2, 768), PieceEncoder(folder, 2, 768)):
        found = other.encode(texts)
        np.testing.assert_array_equal(found.sizes, right.sizes, err_msg=other.name)
        np.testing.assert_array_equal(found.tokens, right.tokens, err_msg=other.name)
    record = check_encoders(folder, lambda: TEXTS)
    assert record["used"] == PieceEncoder.name
    assert record["compared"][SentencePieceEncoder.name]["equal"]


def test_transformers_loads_it(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert (loaded.unk_token_id, loaded.bos_token_id, loaded.eos_token_id, len(loaded)) == (0, 1, 2, 768)
    for text in [*make_texts(9, 50), *TRICKY]:
        plain = text.replace("</s>", "").replace("<s>", "")
        ids = loaded(plain)["input_ids"]
        assert ids == processor.encode(plain)
        assert loaded.decode(ids) == plain


def test_every_text_comes_back_but_for_the_mark_of_a_space(folder: Path) -> None:
    encoder = ReferenceEncoder(folder)
    table = TokenBytes.of(encoder)
    texts = [*TEXTS, *TRICKY]
    assert not table.inexact(encoder.encode(texts), texts).any()
    for text in texts:
        assert encoder.decode(encoder.encode([text]).tokens[:-1]) == text
    assert table.inexact(encoder.encode(["a b", "a\u2581b", "c"]), ["a b", "a\u2581b", "c"]).tolist() == [
        False,
        True,
        False,
    ]
    assert encoder.decode(encoder.encode(["a\u2581b"]).tokens[:-1]) == "a b"


def test_a_model_and_a_tokenizer_that_differ_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    content = json.loads((copy / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:-40]
    (copy / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=r"tokenizer\.model and tokenizer\.json differ: at token \d+ of a text"):
        check_encoders(copy, lambda: TEXTS)


def test_models_that_are_not_of_this_kind() -> None:
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        parse(b"{}")
    changed = parse(train_sentencepiece_bpe(TEXTS, SETTINGS))
    changed.normalizer_spec.remove_extra_whitespaces = True
    with pytest.raises(TokenizerError, match="remove_extra_whitespaces is True, it must be False"):
        to_tokenizers(changed.SerializeToString())


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(TokenizerError, match=r"65536 cannot be filled: .*tokenizer\.vocabulary_size=(\d+)") as caught:
        train_sentencepiece_bpe(TEXTS, SETTINGS.model_copy(update={"vocabulary_size": 65536}))
    size = int(str(caught.value).rsplit("=", 1)[1])
    train_sentencepiece_bpe(TEXTS, SETTINGS.model_copy(update={"vocabulary_size": size}))
    free = train_sentencepiece_bpe(TEXTS, SETTINGS.model_copy(update={"vocabulary_size": 65536}), must_fill=False)
    assert size <= len(parse(free).pieces) < size + 128
    many = ["".join(chr(0x4E00 + i) for i in range(1000))] * 5
    with pytest.raises(TokenizerError, match=r"512 is too small: .* the sample's characters take 1\d\d\d"):
        train_sentencepiece_bpe(many, SETTINGS.model_copy(update={"vocabulary_size": 512}))
    with pytest.raises(TokenizerError, match="there is no text"):
        train_sentencepiece_bpe(["\n\n"], SETTINGS)


def test_rare_characters_are_spelled_by_their_bytes() -> None:
    """Of 3,000 characters, of which half occur once, the common ones are entries."""
    common, rare = ([chr(0x4E00 + first + k) for k in range(1500)] for first in (0, 1500))
    texts = ["".join(common)] * 200 + ["".join(rare)]
    with pytest.raises(TokenizerError, match=r"lower character_coverage \(0\.99995\)"):
        train_sentencepiece_bpe(texts, TokenizerConfig(kind="sentencepiece_bpe", vocabulary_size=2000))
    lower = TokenizerConfig(kind="sentencepiece_bpe", vocabulary_size=2000, character_coverage=0.995)
    entries = {piece.piece for piece in parse(train_sentencepiece_bpe(texts, lower)).pieces}
    assert set(common) <= entries and not set(rare) & entries


def test_the_coverage_of_bytes_has_no_effect() -> None:
    with pytest.raises(ValueError, match=r"character_coverage: has no effect: kind is 'byte_level_bpe'"):
        TokenizerConfig(character_coverage=0.9995)


def test_the_stages_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training, its report, and token files in which one document has lost the mark of a space."""
    texts = [*TEXTS[:70], "bars ▁▂▃ of a chart"]
    settings = {"tokenizer": {"kind": "sentencepiece_bpe", "vocabulary_size": 640}}
    config, run, _ = make_run(tmp_path, {"books": texts}, settings=settings)
    train_tokenizer(config, run)
    report = json.loads((run.tokenizer / "report.json").read_text())
    assert (report["kind"], report["reserved_entries"], report["vocabulary_size"]) == ("sentencepiece_bpe", 0, 640)
    assert report["round_trip"]["inexact"] == ["books-00001/0000030"]
    tokenize(config.model_copy(update={"workers": 1}), run)
    assert (
        "all 71 documents decode to their original bytes, except 1 that the tokenizer rewrites: U+2581"
        in capsys.readouterr().out
    )
    encoder, dataset = ReferenceEncoder(run.tokenizer), IndexedDataset(run.tokens / "books")
    written = {encoder.decode(dataset.document(i)[:-1]) for i in range(len(dataset))}
    assert written <= {*texts, "bars  ▂▃ of a chart"} and len(written) > 40
