"""Bits per byte of texts: how well a model predicts them, comparable between tokenizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from foundation.progress import Progress

Logits = Callable[[torch.Tensor], torch.Tensor]
"""tokens [B, S], int64 -> logits [B, S, V], fp32"""


def bits_per_byte(model: Logits, encoder: ReferenceEncoder, texts: Sequence[str], context: int) -> float:
    """Negative log-likelihood of texts in bits, divided by their bytes of UTF-8.

    Each text follows the token that ends documents, as in training. One that is longer than the context is read in
    windows that do not overlap.

    Args:
        context: most tokens that the model reads at a time.

    Raises:
        ValueError: there is no text.
    """
    size = sum(len(text.encode()) for text in texts)
    if not size:
        raise ValueError("there is no text to measure")
    nats = 0.0
    with Progress("bits per byte", len(texts), "texts") as progress:
        for text in texts:
            tokens = torch.tensor([encoder.end_of_document, *encoder.encode([text]).tokens[:-1].tolist()])
            for start in range(0, len(tokens) - 1, context):
                window = tokens[start : start + context + 1]
                log_probabilities = model(window[None, :-1]).log_softmax(-1)[0]
                nats -= float(log_probabilities.gather(1, window[1:, None]).double().sum())
            progress.advance()
    return nats / math.log(2) / size
