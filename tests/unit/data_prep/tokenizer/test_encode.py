"""The encoders against each other, and the proof that decides between them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from data_prep.config import TokenizerConfig
from data_prep.tokenizer.encode import (
    BulkEncoder,
    Encoded,
    ReferenceEncoder,
    TokenizerError,
    check_encoders,
    open_encoder,
    prove_equal,
)
from data_prep.tokenizer.train import save, train_byte_level_bpe
from tests.unit.data_prep.tokenizer.corpus import make_texts

TEXTS = make_texts(0, 300)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    save(train_byte_level_bpe(iter(TEXTS), TokenizerConfig(vocabulary_size=512, reserved_entries=20)), folder)
    return folder


@pytest.fixture(scope="module")
def gpt2_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with the pre-tokenizer of GPT-2, which gigatoken knows."""
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>", "<pad>")],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text.replace("s>", "") for text in TEXTS], trainer)
    save(tokenizer, folder)
    return folder


def test_reference_encodes_many_as_one_by_one(ours: Path) -> None:
    encoder = ReferenceEncoder(ours)
    together = encoder.encode(TEXTS)
    assert together.tokens.dtype == np.uint32
    alone = [encoder.encode([text]).tokens for text in TEXTS]
    np.testing.assert_array_equal(together.tokens, np.concatenate(alone))
    assert together.sizes.tolist() == [len(tokens) for tokens in alone]
    ends = np.cumsum(together.sizes) - 1
    assert set(together.tokens[ends].tolist()) == {2} and np.count_nonzero(together.tokens == 2) == len(TEXTS)


def test_names_of_control_tokens_stay_text(gpt2_like: Path, ours: Path) -> None:
    for encoder in (BulkEncoder(gpt2_like), ReferenceEncoder(gpt2_like), ReferenceEncoder(ours)):
        tokens = encoder.encode(["</s> a <s>", "<pad>", "<unk>x"]).tokens
        assert np.count_nonzero(tokens < 4) == 3, encoder.name  # the three ends of documents


def test_gigatoken_is_used_where_it_is_proven(gpt2_like: Path) -> None:
    record = check_encoders(gpt2_like, TEXTS)
    assert record["equal"] and record["used"] == record["bulk"]
    assert record["documents"] > len(TEXTS)
    encoder = open_encoder(gpt2_like)
    assert isinstance(encoder, BulkEncoder)
    reference = ReferenceEncoder(gpt2_like).encode(TEXTS)
    np.testing.assert_array_equal(encoder.encode(TEXTS).tokens, reference.tokens)
    np.testing.assert_array_equal(encoder.encode(TEXTS).sizes, reference.sizes)


def test_a_proof_for_another_tokenizer_does_not_count(
    gpt2_like: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_encoders(gpt2_like, TEXTS)
    copy = Path(shutil.copytree(gpt2_like, tmp_path / "copy"))
    content = json.loads((copy / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (copy / "tokenizer.json").write_text(json.dumps(content))
    assert isinstance(open_encoder(copy), ReferenceEncoder)
    assert "was made for other versions" in capsys.readouterr().err


class OneTokenOff:
    """An encoder that is right except for one text."""

    name = "one off"

    def __init__(self, right: ReferenceEncoder, text: str) -> None:
        self.right, self.text = right, text
        self.end_of_document, self.vocabulary_size = right.end_of_document, right.vocabulary_size

    def encode(self, texts: Sequence[str]) -> Encoded:
        encoded = self.right.encode(texts)
        if self.text in texts:
            place = int(encoded.sizes[: texts.index(self.text)].sum())
            encoded.tokens[place] ^= 1
        return encoded


def test_a_single_wrong_token_is_found(ours: Path) -> None:
    reference = ReferenceEncoder(ours)
    assert prove_equal(reference, reference, TEXTS)["equal"]
    wrong = prove_equal(reference, OneTokenOff(reference, TEXTS[217]), TEXTS)
    assert not wrong["equal"]
    assert wrong["difference"].startswith("at token 0 of a text that begins") and TEXTS[217][:10] in wrong["difference"]


def test_without_a_proof_the_reference_encodes(ours: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(ours, tmp_path / "copy"))
    (copy / "encoder_check.json").unlink(missing_ok=True)
    assert isinstance(open_encoder(copy), ReferenceEncoder)


def test_a_tokenizer_without_end_of_document(ours: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(ours, tmp_path / "copy"))
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": None}))
    with pytest.raises(TokenizerError, match="no eos_token; token files need an end-of-document token"):
        ReferenceEncoder(copy)
    (copy / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|endoftext|>"}))
    with pytest.raises(TokenizerError, match=r"'<\|endoftext\|>' is not in the vocabulary"):
        ReferenceEncoder(copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: no such file; .* train-tokenizer"):
        ReferenceEncoder(copy)
