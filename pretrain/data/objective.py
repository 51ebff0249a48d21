"""What a window of tokens teaches: the next token, a text after a prefix, or blanks to fill in.

A window may hold several documents. As long as they are not separated, a token sees those before its own document too.

Built on the fly, a pure function of (seed, split, sample number, tokens): the same under every topology and after a
resume. Shape suffixes: B micro-batch size, S sequence length, C columns of a layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pretrain.config import ObjectiveConfig
from pretrain.model.layout import BLOCK_POSITION, COLUMNS, FIRST_SEEN, POSITION, SEEN_END

Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]
Batch = tuple[Any, Any]
"""(tokens_BS or (tokens_BS, layout_BSC), targets_BS or (targets_BS, weights_BS)); see `mean_loss` on the weights. With
dropout, the keys of the samples, int64 [B], come last in the first part: (tokens_BS, keys_B)."""
Arrange = Callable[[Integers, Integers, "Booleans | None"], Batch]
"""(windows [B, S + 1], sample numbers [B], which tokens the loss counts [B, S + 1] or None for all) -> batch"""

SHORT_SPAN_SHARE = 0.15
"""Of a text's tokens are in [MASK] spans (Du et al. 2021, arXiv:2103.10360, section 2.1)."""
SHORT_SPAN_MEAN = 3
"""Their mean length, Poisson distributed (same section)."""
LONG_SPAN_SHARE = 0.5
"""A [gMASK] span has at least this share of the text, and at most all of it but one token (section 2.2)."""


@dataclass(frozen=True)
class Sample:
    """One arranged sample; arrays [S], the layout [S, C]."""

    tokens: Integers
    targets: Integers
    is_predicted: Booleans
    layout: Integers


def arrange(
    objective: ObjectiveConfig,
    seed: int,
    split: str,
    *,
    two_dimensional: bool,
    end_of_document: int,
    dropout: bool = False,
) -> Arrange:
    """The function that makes batches of windows.

    Args:
        seed: of the run; held-out samples are arranged alike in every run.
        two_dimensional: positions as in GLM: of a blank's tokens, that of its mask and their place in the blank.
        end_of_document: the token that ends each document.
        dropout: each sample brings the key of its masks.
    """

    def with_keys(windows: Integers, samples: Integers, counted: Booleans | None) -> Batch:
        inputs, labels = make(windows, samples, counted)
        keys = np.array([dropout_key(seed, split, sample) for sample in samples.tolist()])
        return (*(inputs if isinstance(inputs, tuple) else (inputs,)), torch.from_numpy(keys)), labels

    def arranged(windows: Integers, samples: Integers, counted: Booleans | None) -> Batch:
        assert counted is None, "loss masks are for causal samples; the command line says so"
        made = []
        for window, sample in zip(windows, samples.tolist(), strict=True):
            random = _random(seed if split == "train" else 0, split, sample)
            made.append(
                prefix_sample(window, random)
                if objective.kind == "prefix"
                else blank_sample(window, objective, random, two_dimensional)
            )
        tokens, targets, layouts = (
            torch.from_numpy(np.stack(arrays))
            for arrays in zip(*((one.tokens, one.targets, one.layout) for one in made), strict=True)
        )
        return (tokens, layouts), (targets, _weights(np.stack([one.is_predicted for one in made])))

    make: Arrange = arranged
    if objective.kind == "causal":
        make = partial(next_token_batch, end_of_document=end_of_document if objective.separate_documents else None)
    return with_keys if dropout else make


def next_token_batch(
    windows: Integers, samples: Integers, counted: Booleans | None, *, end_of_document: int | None
) -> Batch:
    """Each token predicts the one behind it.

    Args:
        end_of_document: documents are separated at this token, see `separate_documents`; None: they are not.
    """
    inputs: Any = torch.from_numpy(np.ascontiguousarray(windows[:, :-1]))
    targets: Any = torch.from_numpy(np.ascontiguousarray(windows[:, 1:]))
    if end_of_document is not None:
        inputs = (inputs, torch.from_numpy(separate_documents(windows[:, :-1], end_of_document)))
    if counted is not None:
        targets = (targets, _weights(counted[:, 1:]))
    return inputs, targets


NEXT_TOKEN: Arrange = partial(next_token_batch, end_of_document=None)
"""Windows as they are."""


def separate_documents(tokens: Integers, end_of_document: int) -> Integers:
    """The layout in which no token sees another document: [B, S, C] for inputs [B, S].

    As an input, an end-of-document token opens the document behind it: its only use is to predict that document's first
    token, which must not depend on the document before. So a document is trained on as if it stood alone, with an
    end-of-document token in front and one, as a target, at its end; no target is lost.
    """
    batch, length = tokens.shape
    places = np.arange(length)
    opens = np.where(tokens == end_of_document, places, 0)
    first = np.maximum.accumulate(opens, axis=1)
    layout = np.zeros((batch, length, COLUMNS), np.int64)
    layout[..., FIRST_SEEN] = first
    layout[..., SEEN_END] = places + 1
    layout[..., POSITION] = places - first
    return layout


def _weights(counted: Booleans) -> torch.Tensor:
    """Of each target, fp32: they sum to one in each sample; all zero in one that predicts nothing."""
    counts = np.maximum(counted.sum(1, keepdims=True), 1)
    return torch.from_numpy((counted / counts).astype(np.float32))


def dropout_key(seed: int, split: str, sample: int) -> np.int64:
    """What the sample's dropout masks are a function of; never the same for two samples of a run, but by chance."""
    sequence = np.random.SeedSequence([seed, 0 if split == "train" else 1, sample], spawn_key=(1,))
    key: np.int64 = sequence.generate_state(1, np.uint64).view(np.int64)[0]
    return key


def _random(seed: int, split: str, sample: int) -> np.random.RandomState:
    """RandomState: its streams are frozen, so that another numpy makes the same samples."""
    key = np.random.SeedSequence([seed, 0 if split == "train" else 1, sample])
    return np.random.RandomState(np.random.MT19937(key))


def prefix_sample(window: Integers, random: np.random.RandomState) -> Sample:
    """A prefix of random length sees itself in both directions, and the rest is predicted.

    Source: Raffel et al. 2019, arXiv:1910.10683, section 3.2.3.
    """
    length = len(window) - 1
    prefix = int(random.randint(1, length))
    places = np.arange(length)
    layout = np.zeros((length, COLUMNS), np.int64)
    layout[:, SEEN_END] = np.maximum(places + 1, prefix)
    layout[:, POSITION] = places
    return Sample(window[:-1].copy(), window[1:].copy(), places >= prefix - 1, layout)


def blank_sample(
    window: Integers, objective: ObjectiveConfig, random: np.random.RandomState, two_dimensional: bool
) -> Sample:
    """GLM's blank infilling: part A is the text with each span replaced by one mask token, seen in both directions; in
    part B the spans follow in random order, each predicted from left to right after a start token and ended by an end
    token, seeing part A and what stands before in part B.

    A text of n tokens with m spans takes n + 2 m places; as many tokens of the window as fit are used. Without
    two-dimensional positions nothing tells which mask a span belongs to, so the spans then stay in the text's order.

    Source: Du et al. 2021, arXiv:2103.10360, sections 2.1 to 2.3; shares of the two kinds of spans by GLM-130B,
    arXiv:2210.02414, section 2.2.
    """
    assert objective.mask_token is not None and objective.long_mask_token is not None
    assert objective.start_token is not None and objective.end_token is not None
    length = len(window) - 1
    is_short = bool(random.random_sample() < objective.short_span_share)
    size, spans = (_short_spans if is_short else _long_span)(length, random)
    text = window[:size]
    mask = objective.mask_token if is_short else objective.long_mask_token

    part_a: list[int] = []
    mask_places = []
    end = 0
    for start, stop in spans:
        part_a += text[end:start].tolist()
        mask_places.append(len(part_a))
        part_a.append(mask)
        end = stop
    part_a += text[end:].tolist()

    tokens = np.full(length, objective.end_token, np.int64)
    targets = np.full(length, objective.end_token, np.int64)
    is_predicted = np.zeros(length, np.bool_)
    layout = np.zeros((length, COLUMNS), np.int64)
    places = np.arange(length)
    known = len(part_a)
    tokens[:known] = part_a
    layout[:known, SEEN_END] = known
    layout[:, POSITION] = places
    order = random.permutation(len(spans)) if two_dimensional else range(len(spans))
    place = known
    for span in order:
        start, stop = spans[span]
        here = slice(place, place + stop - start + 1)
        tokens[here] = [objective.start_token, *text[start:stop]]
        targets[here] = [*text[start:stop], objective.end_token]
        is_predicted[here] = True
        if two_dimensional:
            layout[here, POSITION] = mask_places[span]
            layout[here, BLOCK_POSITION] = np.arange(1, stop - start + 2)
        place = here.stop
    layout[known:, SEEN_END] = places[known:] + 1
    # What is left over predicts nothing and is seen by nobody; it sees itself, because a softmax needs something.
    layout[place:, FIRST_SEEN] = places[place:]
    return Sample(tokens, targets, is_predicted, layout)


def _short_spans(length: int, random: np.random.RandomState) -> tuple[int, list[tuple[int, int]]]:
    """Size of the text and its spans, half-open, in order, with a token or more between any two."""
    sizes = np.maximum(random.poisson(SHORT_SPAN_MEAN, length), 1)
    masked = np.cumsum(sizes)

    def spans_of(size: int) -> int:
        return int(np.searchsorted(masked, SHORT_SPAN_SHARE * size)) + 1

    size = length
    while size + 2 * spans_of(size) > length:
        size -= 1
    count = spans_of(size)
    gaps = np.sort(random.permutation(size - int(masked[count - 1]) + 1)[:count])
    starts = gaps + np.concatenate([[0], masked[: count - 1]])
    return size, [(int(start), int(start + sizes[i])) for i, start in enumerate(starts)]


def _long_span(length: int, random: np.random.RandomState) -> tuple[int, list[tuple[int, int]]]:
    """Size of the text and the one span at its end."""
    size = length - 2
    masked = int(random.randint(max(1, round(LONG_SPAN_SHARE * size)), size))
    return size, [(size - masked, size)]
