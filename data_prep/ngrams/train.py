"""The n-gram model of a language and its tokenizer, from a corpus: what perplexity in this language is measured with.

Text is prepared as it is when perplexity is measured (`data_prep/signals/perplexity.py`): each line is normalised as by
CCNet and is one sentence of pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from data_prep.corpora import Corpus
from data_prep.ngrams.model import Summary, checked_thresholds, estimate
from data_prep.ngrams.pieces import open_pieces, train_pieces
from data_prep.signals.perplexity import plain_lines
from foundation.atomic_files import whole_file
from foundation.progress import Progress

LEAST_MEMORY_BYTES = 10_000_000
_BATCH_CHARACTERS = 1 << 16
"""Characters that are encoded at a time."""


@dataclass(frozen=True)
class NGramSettings:
    """Settings of a model; defaults are CCNet's (cc_net/Makefile, data/lm_sp/%.arpa) but for the fallback.

    Attributes:
        prune, discount_fallback, memory_bytes: see `estimate`.
        pieces: size of the vocabulary of a tokenizer that is trained.
        documents: number of documents to read, the first ones; None: all.
    """

    pieces: int
    memory_bytes: int
    order: int = 5
    prune: tuple[int, ...] = (0,)
    discount_fallback: bool = False
    documents: int | None = None


@dataclass(frozen=True)
class Trained:
    """The files of a language's model, and what it was made from."""

    model: Path
    tokenizer: Path
    summary: Summary


def train(corpus: Corpus, language: str, folder: Path, tokenizer: Path | None, settings: NGramSettings) -> Trained:
    """Write `LANGUAGE.arpa`, and beside it `LANGUAGE.sp.model` unless a tokenizer is given.

    Args:
        tokenizer: model of SentencePiece; None: one is trained.

    Raises:
        ValueError: a setting cannot be, a file exists already or cannot be read, or the text is too small.
    """
    checked_thresholds(settings.prune, settings.order)
    if settings.memory_bytes < LEAST_MEMORY_BYTES:
        raise ValueError(f"--memory-bytes {settings.memory_bytes}: must be at least {LEAST_MEMORY_BYTES}")
    model, own_tokenizer = folder / f"{language}.arpa", folder / f"{language}.sp.model"
    if model.exists():
        raise ValueError(f"{model} exists already; remove it, or choose another --output")
    if tokenizer is None and own_tokenizer.exists():
        raise ValueError(
            f"{own_tokenizer} exists already; use it with --tokenizer, remove it, or choose another --output"
        )
    if tokenizer is None:
        tokenizer = own_tokenizer
        documents = _documents(corpus, settings.documents, f"train-ngrams: read {language} for its tokenizer")
        content = train_pieces((line for lines in documents for line in lines), settings.pieces)
        with whole_file(tokenizer) as partial:
            partial.write_bytes(content)
    processor = open_pieces(tokenizer)
    summary = estimate(
        _sentences(_documents(corpus, settings.documents, f"train-ngrams: count {language}"), processor),
        model,
        order=settings.order,
        prune=settings.prune,
        discount_fallback=settings.discount_fallback,
        memory_bytes=settings.memory_bytes,
    )
    return Trained(model, tokenizer, summary)


def _documents(corpus: Corpus, limit: int | None, title: str) -> Iterator[list[str]]:
    """Yield the normalised lines of each document."""
    with Progress(title, corpus.size, "bytes") as progress:
        for document in islice(corpus.read(progress.advance), limit):
            yield plain_lines(document.text)


def _sentences(documents: Iterable[list[str]], processor: SentencePieceProcessor) -> Iterator[list[list[str]]]:
    """Yield lines as pieces, in batches."""
    batch: list[str] = []
    size = 0
    for lines in documents:
        batch += lines
        size += sum(map(len, lines))
        if size >= _BATCH_CHARACTERS:
            yield processor.encode(batch, out_type=str)
            batch, size = [], 0
    if batch:
        yield processor.encode(batch, out_type=str)
