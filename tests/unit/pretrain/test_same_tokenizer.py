"""Starting weights and token files made with different tokenizers are detected, whatever their kinds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sentencepiece import SentencePieceTrainer
from tokenizers import AddedToken, Tokenizer, models

from pretrain.checkpoint.layout import CheckpointError
from pretrain.checkpoint.same_tokenizer import check_same_tokenizer


def save(folder: Path, model: Any, *added: str) -> None:
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(model)
    tokenizer.add_tokens([AddedToken(name) for name in added])
    tokenizer.save(str(folder / "tokenizer.json"))


def check(folder: Path) -> None:
    mixture = SimpleNamespace(path=folder / "mixture.yaml", tokenizer=folder / "tokenizer")
    check_same_tokenizer(SimpleNamespace(path=folder / "start"), mixture)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("theirs", "ours", "told"),
    [
        (models.BPE({"a": 0, "b": 1}, []), models.BPE({"a": 0, "c": 1}, []), "token 1 is 'b' .* and 'c' in"),
        (models.BPE({"a": 0, "b": 1}, []), models.BPE({"a": 0}, []), "token 1 is 'b' .* and None in"),
        (
            models.Unigram([("a", 0.0), ("b", -1.0)], 0),
            models.BPE({"b": 0, "a": 1}, []),
            "token 0 is 'a' .* and 'b' in",
        ),
    ],
)
def test_the_first_id_that_differs_is_named(theirs: Any, ours: Any, told: str, tmp_path: Path) -> None:
    save(tmp_path / "start" / "tokenizer", theirs)
    save(tmp_path / "tokenizer", ours)
    with pytest.raises(CheckpointError, match=told):
        check(tmp_path)


def test_added_tokens_count(tmp_path: Path) -> None:
    save(tmp_path / "start" / "tokenizer", models.BPE({"a": 0}, []), "<x>")
    save(tmp_path / "tokenizer", models.BPE({"a": 0}, []), "<y>")
    with pytest.raises(CheckpointError, match=r"token 1 is '<x>' .* and '<y>' in"):
        check(tmp_path)


def test_the_same_or_none_is_fine(tmp_path: Path) -> None:
    check(tmp_path)
    save(tmp_path / "tokenizer", models.BPE({"a": 0}, []))
    check(tmp_path)
    save(tmp_path / "start" / "tokenizer", models.BPE({"a": 0}, []))
    check(tmp_path)


def sentencepiece_model(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    trainer: Any = SentencePieceTrainer
    trainer.train(
        sentence_iterator=iter([text] * 50),
        model_prefix=str(path.with_suffix("")),
        vocab_size=30,
        hard_vocab_limit=False,
        minloglevel=2,
    )


def test_sentencepiece_models_and_plain_vocabularies_are_compared(tmp_path: Path) -> None:
    sentencepiece_model(tmp_path / "start" / "tokenizer" / "tokenizer.model", "the cat sat on the mat")
    sentencepiece_model(tmp_path / "tokenizer" / "tokenizer.model", "the cat sat on the mat")
    check(tmp_path)
    sentencepiece_model(tmp_path / "tokenizer" / "tokenizer.model", "a dog ran over a log")
    with pytest.raises(CheckpointError, match=r"token \d+ is '.*' for its tokenizer, and '.*' in data\.mixture"):
        check(tmp_path)
    # Of another kind: the same entries in another file are the same, others are not.
    (tmp_path / "tokenizer" / "tokenizer.model").unlink()
    (tmp_path / "start" / "tokenizer" / "tokenizer.model").unlink()
    (tmp_path / "start" / "tokenizer" / "vocab.json").write_text('{"a": 0, "b": 1}')
    (tmp_path / "start" / "tokenizer" / "added_tokens.json").write_text('{"<x>": 2}')
    Tokenizer(models.BPE({"a": 0, "b": 1, "<x>": 2}, [])).save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    check(tmp_path)
    (tmp_path / "start" / "tokenizer" / "added_tokens.json").write_text('{"<y>": 2}')
    with pytest.raises(CheckpointError, match=r"token 2 is '<y>' .* and '<x>' in"):
        check(tmp_path)
    (tmp_path / "start" / "tokenizer" / "vocab.json").unlink()
    with pytest.raises(CheckpointError, match=r"cannot be compared .* has neither tokenizer\.json nor"):
        check(tmp_path)
