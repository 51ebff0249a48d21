"""The bytes of tokens: a wrong token is found, and the loss counts the right bytes."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.config import TokenizerConfig
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.tokenizer.encoding.encoded import Encoded
from data_prep.tokenizer.encoding.token_bytes import TokenBytes
from data_prep.tokenizer.train import learn
from tests.unit.data_prep.tokenizer.corpus import make_texts

TEXTS = [*make_texts(0, 300), "", "雪é👩"]


@pytest.fixture(scope="module", params=["byte_level_bpe", "sentencepiece_bpe"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ReferenceEncoder:
    folder = tmp_path_factory.mktemp(request.param)
    learn(TEXTS, TokenizerConfig(kind=request.param, vocabulary_size=640, reserved_entries=5), folder)
    return ReferenceEncoder(folder)


def test_entries_stand_for_their_bytes(encoder: ReferenceEncoder) -> None:
    table = TokenBytes.of(encoder)
    assert len(table.texts) == 640 and table.texts[:3] == (None, None, None)
    assert sum(text is None for text in table.texts) in (3 + 5, 4 + 5)
    assert {text for text in table.texts if text is not None and len(text) == 1} >= {bytes([i]) for i in range(256)}
    assert table.is_fallback.sum() == 128
    for text in TEXTS[:100]:
        tokens = encoder.encode([text]).tokens[:-1]
        assert b"".join(table.texts[token] or b"?" for token in tokens).decode() == table.prefix.decode() + text


def test_one_wrong_token_is_found_in_its_document_alone(encoder: ReferenceEncoder) -> None:
    table, encoded = TokenBytes.of(encoder), encoder.encode(TEXTS)
    assert not table.inexact(encoded, TEXTS).any()
    ends = np.cumsum(encoded.sizes)
    random = np.random.default_rng(1)
    for _ in range(200):
        place = int(random.integers(len(encoded.tokens)))
        document = int(np.searchsorted(ends, place, "right"))
        if place == ends[document] - 1:
            continue  # the end-of-document token is the writer's affair
        tokens = encoded.tokens.copy()
        tokens[place] = random.choice(np.flatnonzero(np.arange(640) != tokens[place]))
        if table.texts[tokens[place]] == table.texts[encoded.tokens[place]]:
            continue  # a byte entry beside the entry of the same letter
        assert np.flatnonzero(table.inexact(Encoded(tokens, encoded.sizes), TEXTS)).tolist() == [document]
    shorter = encoded.sizes.copy()
    shorter[3] -= 1
    shorter[4] += 1
    assert np.flatnonzero(table.inexact(Encoded(encoded.tokens, shorter), TEXTS)).tolist() == [3, 4]


@pytest.mark.parametrize("size", [1, 7, 31, 32, 33, 64, 100])
@pytest.mark.parametrize("prefix", [b"", b" "])
def test_entries_of_any_length_are_compared_to_the_last_byte(size: int, prefix: bytes) -> None:
    entry = bytes(range(65, 65 + size)) if size < 60 else b"long" * (size // 4)
    others = [entry[:i] + bytes([entry[i] ^ 1]) + entry[i + 1 :] for i in range(size)]
    table = TokenBytes((None, entry, prefix + entry, *others), np.zeros(3 + size, np.bool_), prefix)
    for copies in (1, 3):
        text = (entry * copies).decode("latin-1")
        right = [2, *[1] * (copies - 1), 0]
        wrong = [[2, *[1] * (copies - 2), 3 + i, 0] for i in range(size)] if copies > 1 else []
        documents = [right, *wrong, [*right[:-2], 0], [2, 1, *right[1:]]]
        encoded = Encoded(
            np.array([token for row in documents for token in row], np.uint32), np.array(list(map(len, documents)))
        )
        differs = [row != right for row in documents]
        assert table.inexact(encoded, [text] * len(documents)).tolist() == differs


def test_the_loss_counts_tokens_that_end_outside_of_the_ranges(encoder: ReferenceEncoder) -> None:
    table = TokenBytes.of(encoder)
    texts = ["snow in the altiplano", "plain", "雪雪雪 answer"]
    encoded = encoder.encode(texts)
    ranges = [[(0, 4), (8, 21)], [], [(0, 9)]]
    mask = table.loss_mask(encoded, ranges)
    first = 0
    for text, size, inside in zip(texts, encoded.sizes.tolist(), ranges, strict=True):
        place = -len(table.prefix)
        for k in range(size - 1):
            place += len(table.texts[encoded.tokens[first + k]] or b"")
            assert mask[first + k] == (not any(start <= place - 1 < stop for start, stop in inside)), (text, k)
        assert place == len(text.encode())
        assert mask[first + size - 1] == mask[first + size - 2], "the end is learnt when the text before it is"
        first += size
    learnt = [
        encoder.decode(part[kept])
        for part, kept in zip(
            *(np.split(a, np.cumsum(encoded.sizes)[:-1]) for a in (encoded.tokens, mask)), strict=True
        )
    ]
    assert "snow" not in learnt[0] and "altiplano" not in learnt[0] and learnt[0].strip().startswith("in")
    assert learnt[1].startswith("plain") and learnt[2].strip().startswith("answer")
