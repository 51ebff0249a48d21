"""An extended vocabulary: no old id moves, old text is encoded as before, and the model knows the new rows."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch

from data_prep.config import TokenizerConfig
from data_prep.tokenizer.encoding.encode import ReferenceEncoder, SentencePieceEncoder, prove_equal
from data_prep.tokenizer.encoding.encoded import TokenizerError
from data_prep.tokenizer.extend import merge_vocabularies, old_pieces, read_model
from data_prep.tokenizer.sentence_piece import parse
from data_prep.tokenizer.train import learn
from pretrain.checkpoint.read import CheckpointReader
from pretrain.checkpoint.single import load_single_process_model
from pretrain.config import ModelConfig
from tests.unit.data_prep.tokenizer.corpus import make_texts
from tests.unit.pretrain.families.small import SMALL, InMemory
from tools import extend_vocabulary
from tools.starting_checkpoint import write_starting_checkpoint

OLD_TEXTS = make_texts(0, 300)


def chinese_texts(seed: int, count: int) -> list[str]:
    source = random.Random(seed)
    characters = [chr(0x4E00 + 7 * i) for i in range(90)]
    words = ["".join(source.choice(characters) for _ in range(source.randint(1, 3))) for _ in range(80)]
    return ["".join(source.choice(words) for _ in range(source.randint(5, 60))) + "。" for _ in range(count)]


NEW_TEXTS = chinese_texts(1, 300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizers `old` and `other`, and `new`, made of both by the command."""
    folder = tmp_path_factory.mktemp("extend")
    learn(OLD_TEXTS, TokenizerConfig(kind="sentencepiece_bpe", vocabulary_size=768), folder / "old")
    # Both know some syllables, as two real vocabularies know each other's Latin letters.
    learn(
        [*NEW_TEXTS, *OLD_TEXTS[:100]], TokenizerConfig(kind="sentencepiece_bpe", vocabulary_size=768), folder / "other"
    )
    assert extend_vocabulary.main(["tokenizer", *(str(folder / name) for name in ("old", "other", "new"))]) == 0
    return folder


def test_no_old_id_changes(folder: Path) -> None:
    old, new = (parse(read_model(folder / name)) for name in ("old", "new"))
    assert len(old.pieces) == 768 < len(new.pieces) < 2 * 768 - 259
    for before, after in zip(old.pieces, new.pieces, strict=False):
        assert (before.piece, before.score, before.type) == (after.piece, after.score, after.type)
    names = [piece.piece for piece in new.pieces]
    assert len(set(names)) == len(names)
    assert set(names) == {piece.piece for name in ("old", "other") for piece in parse(read_model(folder / name)).pieces}


def test_old_text_is_encoded_as_before_and_new_text_shorter(folder: Path) -> None:
    old, new = (ReferenceEncoder(folder / name) for name in ("old", "new"))
    for text in OLD_TEXTS:
        before, after = old.encode([text]).tokens, new.encode([text]).tokens
        if after.max() < 768:
            np.testing.assert_array_equal(after, before)
        assert len(after) <= len(before)
    before, after = (int(encoder.encode(NEW_TEXTS).sizes.sum()) for encoder in (old, new))
    own = int(ReferenceEncoder(folder / "other").encode(NEW_TEXTS).sizes.sum())
    assert after < before / 3 and after < 1.1 * own
    assert [new.decode(new.encode([text]).tokens[:-1]) for text in NEW_TEXTS] == NEW_TEXTS
    assert prove_equal(new, SentencePieceEncoder(folder / "new", 2, new.vocabulary_size), [*OLD_TEXTS, *NEW_TEXTS])[
        "equal"
    ]


def test_each_new_entry_knows_what_it_was_made_of(folder: Path) -> None:
    sources = old_pieces(read_model(folder / "old"), read_model(folder / "new"))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "old" / "tokenizer.model"))
    pieces = parse(read_model(folder / "new")).pieces[768:]
    assert len(sources) == len(pieces)
    for piece, tokens in zip(pieces, sources, strict=True):
        assert max(tokens) < 768
        text = processor.decode([processor.piece_to_id("▁a"), *tokens]).removeprefix("a")
        assert text == piece.piece.replace("▁", " ")
    with pytest.raises(TokenizerError, match=r"entry \d+ is .* in the old vocabulary and .* in the extended one"):
        old_pieces(read_model(folder / "other"), read_model(folder / "new"))


@pytest.mark.parametrize("name", ["llama", "llama-tied"])
def test_a_model_gets_rows_and_keeps_its_mind(name: str, folder: Path, tmp_path: Path) -> None:
    settings = {**SMALL[name], "vocabulary_size": 768}
    model = ModelConfig.model_validate(
        {
            "hidden_size": 32,
            "layers": 2,
            "attention_heads": 4,
            "key_value_heads": 4,
            "feed_forward_size": 48,
            "maximum_positions": 64,
            **settings,
        }
    )
    weights = InMemory(model)
    write_starting_checkpoint(
        tmp_path / "before", model, weights.tensor, data_digest="", origin={}, tokenizer=None, title="test"
    )
    command = [
        "checkpoint",
        *(str(path) for path in (tmp_path / "before", folder / "old", folder / "new", tmp_path / "after")),
    ]
    assert extend_vocabulary.main(command) == 0
    reader = CheckpointReader(tmp_path / "after")
    sources = old_pieces(read_model(folder / "old"), read_model(folder / "new"))
    assert reader.config["model"]["vocabulary_size"] == 768 + len(sources)
    assert (tmp_path / "after" / "tokenizer" / "tokenizer.model").read_bytes() == read_model(folder / "new")

    tokens = torch.from_numpy(ReferenceEncoder(folder / "old").encode(OLD_TEXTS[:1]).tokens[:40].astype(np.int64))[None]
    before = load_single_process_model(tmp_path / "before")(tokens)
    after = load_single_process_model(tmp_path / "after")(tokens)
    torch.testing.assert_close(after[..., :768], before, rtol=0, atol=0)
    # The head is linear: a mean of rows gives a mean of logits; and as inputs the rows are means as well.
    for i, source in list(enumerate(sources, start=768))[::7]:
        torch.testing.assert_close(after[..., i], before[..., source].mean(-1), rtol=1e-4, atol=1e-5)
        row = reader.tensor("embedding.weight")[i]
        torch.testing.assert_close(row, weights.tensor("embedding.weight")[source].mean(0))


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, other = str(folder / "old"), str(folder / "other")
    assert extend_vocabulary.main(["tokenizer", old, other, old]) == 2
    assert "is one of the inputs" in capsys.readouterr().err
    assert extend_vocabulary.main(["tokenizer", old, str(tmp_path), str(tmp_path / "x")]) == 2
    assert "tokenizer.model: no such file; only SentencePiece vocabularies can be extended" in capsys.readouterr().err
    with pytest.raises(TokenizerError, match=r"all .* pieces of the other vocabulary are in the old one"):
        merge_vocabularies(read_model(folder / "new"), read_model(folder / "other"))
