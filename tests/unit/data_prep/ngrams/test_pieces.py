"""The tokenizer of an n-gram model: an even sample, and errors that name the option."""

from __future__ import annotations

from pathlib import Path

import pytest
from sentencepiece import sentencepiece_model_pb2

from data_prep.ngrams.pieces import even_sample, open_pieces, train_pieces
from data_prep.tokenizer.encoding.encoded import TokenizerError

WINDS, SKIES = ("north", "south", "east", "west"), ("wind", "rain", "snow", "sun")
LINES = [f"{wind} {sky}" for wind in WINDS for sky in SKIES] * 9


def test_a_sample_is_spread_over_all_lines() -> None:
    lines = [f"{number:04}" for number in range(1000)]
    assert even_sample(lines, 4000) == lines
    assert even_sample(lines, 3999) == lines[::2]
    assert even_sample(lines, 999) == lines[::8]
    assert even_sample(["ä" * 50, "b"], 10) == ["ä" * 50] and even_sample(iter(()), 10) == []
    assert even_sample(["x" * 99_999], 100_000) == ["x" * 16384]


def test_a_model_as_ccnets() -> None:
    model = train_pieces(LINES, 20)
    assert model == train_pieces(iter(LINES), 20), "the same lines give the same bytes"
    parsed = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    parsed.ParseFromString(model)
    spec = parsed.trainer_spec
    assert (spec.model_type, spec.vocab_size, spec.byte_fallback) == (1, 20, False)  # 1: unigram
    assert spec.character_coverage == pytest.approx(0.9995) and parsed.normalizer_spec.name == "nmt_nfkc"


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"^there is no text"):
        train_pieces([])
    told = r"^--pieces 5000 cannot be filled: the text is enough for (\d+)\. Give more text, or --pieces \1$"
    with pytest.raises(TokenizerError, match=told):
        train_pieces(LINES, 5000)
    with pytest.raises(TokenizerError, match=r"^--pieces 9 is too small: the text's characters alone take \d+"):
        train_pieces(LINES, 9)
    with pytest.raises(TokenizerError, match=r"gone\.model: there is no such file; --tokenizer names"):
        open_pieces(tmp_path / "gone.model")
    (tmp_path / "text.model").write_text("no model")
    with pytest.raises(TokenizerError, match=r"text\.model: not a model of SentencePiece"):
        open_pieces(tmp_path / "text.model")
