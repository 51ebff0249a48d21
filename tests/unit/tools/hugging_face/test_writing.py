"""Text written by an exported model consists of whole characters."""

from __future__ import annotations

import codecs
import itertools
import random
from functools import cache

import pytest
import torch

from tools.hugging_face.writing import WholeCharacters, whole_words

BYTES: list[bytes | None] = [bytes([byte]) for byte in range(256)]


def is_beginning_of_utf8(text: bytes) -> bool:
    """Whether some bytes after these make a text that Python's own decoder reads. (Its incremental one takes surrogates
    for beginnings.)"""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.end == len(text) and can_be_completed(text[error.start :])
    return True


@cache
def can_be_completed(character: bytes) -> bool:
    for length in range(1, 4):
        for tail in itertools.product((0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF), repeat=length):
            try:
                (character + bytes(tail)).decode()
            except UnicodeDecodeError:
                continue
            return True
    return False


def allowed(processor: WholeCharacters, tokens: list[int], size: int) -> set[int]:
    scores = processor(torch.tensor([tokens]), torch.zeros(1, size))
    return set(torch.isfinite(scores[0]).nonzero().flatten().tolist())


@pytest.mark.parametrize("lead", [0x41, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEE, 0xF0, 0xF1, 0xF4, 0xF5])
def test_each_byte_goes_on_as_python_says(lead: int) -> None:
    """All first and second bytes, and every third and fourth after the edges of the second."""
    for second in [None, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0]:
        before = [lead] if second is None else [lead, second]
        if not is_beginning_of_utf8(bytes(before)):
            continue
        for third in [None, 0x80, 0xBF]:
            text = before if third is None else [*before, third]
            if not is_beginning_of_utf8(bytes(text)):
                continue
            expected = {byte for byte in range(256) if is_beginning_of_utf8(bytes([*text, byte]))}
            assert allowed(WholeCharacters(BYTES, [], 0), text, 256) == expected, bytes(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("class Lfm3Config\n\nconv_bi", "class Lfm3Config"),
        ("The keys and values of the", "The keys and values of"),
        ("The end of a line.\n", "The end of a line."),
        ("def averyveryverylongname", "def averyveryverylongname"),  # half of it would be lost
        ("書かれた文章には空白がない", "書かれた文章には空白がない"),
    ],
)
def test_a_prompt_ends_with_a_whole_word(text: str, expected: str) -> None:
    assert whole_words(text) == expected


def test_tokens_of_many_bytes_step_by_step() -> None:
    """Random walks over tokens that cut characters anywhere: what is chosen is always the beginning of UTF-8."""
    text = "zł € 𝔸 ñ".encode()
    pieces = {text[i:j] for i, j in itertools.combinations(range(len(text) + 1), 2) if j - i <= 5}
    texts: list[bytes | None] = [None, *sorted(pieces)]
    generator = random.Random(5)
    for _ in range(20):
        processor = WholeCharacters(texts, [0], prompt_tokens=0)
        tokens: list[int] = []
        for _ in range(30):
            found = allowed(processor, tokens, len(texts) + 3)  # padding rows are never chosen
            so_far = b"".join(texts[token] or b"" for token in tokens)
            expected = {i for i, piece in enumerate(texts) if piece and is_beginning_of_utf8(so_far + piece)}
            ended = codecs.getincrementaldecoder("utf-8")()
            ended.decode(so_far)
            assert found == expected | ({0} if not ended.getstate()[0] else set())
            tokens.append(generator.choice(sorted(expected)))
