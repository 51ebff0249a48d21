"""The SentencePiece model that a language's n-gram model is trained with, as CCNet trains it.

A unigram model of 65,536 pieces that covers 99.95 % of the characters (cc_net/Makefile, data/lm_sp/%.sp.model; Wenzek
et al. 2020, arXiv:1911.00359, "LM filtering"). It has SentencePiece's own normalisation, which puts together again
what the decomposition of CCNet's has taken apart, such as the syllables of Hangul.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
from sentencepiece import SentencePieceProcessor

from data_prep.tokenizer.encoding.encoded import TokenizerError

PIECES = 65536
SAMPLE_BYTES = 200_000_000
"""Largest number of bytes of text that a model is trained on."""
_CHARACTER_COVERAGE = 0.9995
_THREADS = 16
"""Parts that the text is divided into for training, on any number of cores: sums of another number round otherwise."""
_LONGEST_LINE = 16384
"""Characters of a line that are used: the trainer would skip longer ones."""


def train_pieces(lines: Iterable[str], pieces: int = PIECES) -> bytes:
    """Train a model on normalised lines, on an even sample of them if they are many; return the content of its file.

    Raises:
        TokenizerError: there is no text, or it does not fit the number of pieces.
    """
    sample = even_sample(lines, SAMPLE_BYTES)
    if not sample:
        raise TokenizerError("there is no text to train a tokenizer on")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample),
            model_writer=model,
            model_type="unigram",
            vocab_size=pieces,
            character_coverage=_CHARACTER_COVERAGE,
            max_sentence_length=4 * _LONGEST_LINE,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise TokenizerError(_explained(str(error), pieces)) from None
    return model.getvalue()


def even_sample(lines: Iterable[str], maximum_bytes: int) -> list[str]:
    """Return every k-th line, k being the smallest power of two with which they have at most so many bytes."""
    kept: list[str] = []
    size, step = 0, 1
    for number, line in enumerate(lines):
        if number % step:
            continue
        kept.append(line[:_LONGEST_LINE])
        size += len(kept[-1].encode())
        while size > maximum_bytes and len(kept) > 1:
            kept, step = kept[::2], 2 * step
            size = sum(len(line.encode()) for line in kept)
    return kept


def open_pieces(path: Path) -> SentencePieceProcessor:
    """Load a model.

    Raises:
        TokenizerError: there is no such file, or it is of another kind.
    """
    if not path.is_file():
        raise TokenizerError(f"{path}: there is no such file; --tokenizer names a model of SentencePiece")
    try:
        return SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise TokenizerError(f"{path}: not a model of SentencePiece: {error}") from None


def _explained(message: str, pieces: int) -> str:
    if too_many := re.search(r"Vocabulary size too high .* value <= (\d+)", message):
        return (
            f"--pieces {pieces} cannot be filled: the text is enough for {too_many[1]}. Give more text, or "
            f"--pieces {too_many[1]}"
        )
    if too_few := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return f"--pieces {pieces} is too small: the text's characters alone take {too_few[1]}"
    return f"sentencepiece cannot train: {message}"
