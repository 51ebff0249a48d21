"""Bits per byte: every token of every text counts once, whatever the windows."""

from __future__ import annotations

import math

import pytest
import torch

from data_prep.config import TokenizerConfig
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.tokenizer.train import learn
from tests.unit.data_prep.tokenizer.corpus import make_texts
from tools.bits_per_byte import bits_per_byte

TEXTS = make_texts(0, 300)
MEASURED = [*TEXTS[:5], "", "雪é👩‍👧"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ReferenceEncoder:
    folder = tmp_path_factory.mktemp("tokenizer")
    learn(TEXTS, TokenizerConfig(vocabulary_size=700, reserved_entries=0), folder)
    return ReferenceEncoder(folder)


@pytest.mark.parametrize("context", [3, 16, 10_000])
def test_a_model_that_knows_nothing_needs_a_fixed_number_of_bits_a_token(
    encoder: ReferenceEncoder, context: int
) -> None:
    tokens = sum(len(encoder.encode([text]).tokens) - 1 for text in MEASURED)
    size = sum(len(text.encode()) for text in MEASURED)
    found = bits_per_byte(lambda tokens_BS: torch.zeros(*tokens_BS.shape, 700), encoder, MEASURED, context)
    assert found == pytest.approx(tokens * math.log2(700) / size)


def test_windows_are_what_the_model_reads(encoder: ReferenceEncoder) -> None:
    """A model whose logits depend on the place in the window and on the token before, beside a sum token by token."""
    table = torch.randn(8, 700, 700, generator=torch.Generator().manual_seed(1))

    def model(tokens_BS: torch.Tensor) -> torch.Tensor:
        assert tokens_BS.shape[1] <= 8
        return table[: tokens_BS.shape[1]].gather(1, tokens_BS[0, :, None, None].expand(-1, -1, 700)).transpose(0, 1)

    bits = 0.0
    for text in MEASURED:
        before = encoder.end_of_document
        for place, token in enumerate(encoder.encode([text]).tokens[:-1].tolist()):
            bits -= float(table[place % 8, before].log_softmax(-1)[token]) / math.log(2)
            before = token
    size = sum(len(text.encode()) for text in MEASURED)
    assert bits_per_byte(model, encoder, MEASURED, 8) == pytest.approx(bits / size, rel=1e-5)


def test_no_text_is_an_error(encoder: ReferenceEncoder) -> None:
    with pytest.raises(ValueError, match="there is no text to measure"):
        bits_per_byte(lambda tokens_BS: torch.zeros(*tokens_BS.shape, 700), encoder, [""], 8)
