"""Training objectives: predict the next token, the text after a prefix, or the content of blanks.

A window may contain several documents. Unless they are separated, a token also attends to the documents before its own.

Samples are built on the fly, as a pure function of (seed, split, sample number, tokens): the same under every topology
and after a resume. Shape suffixes: B micro-batch size, S sequence length, C columns of a layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pretrain.config import ObjectiveConfig
from pretrain.model.layout import BLOCK_POSITION, COLUMNS, FIRST_SEEN, POSITION, SEEN_END

Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Batch = tuple[Any, Any]
"""Inputs and labels, (tokens_BS or (tokens_BS, layout_BSC), targets_BS or (targets_BS, weights_BS)); see `mean_loss` on
the weights. With dropout, the keys of the samples, int64 [B], are the last of the inputs: (tokens_BS, keys_B)."""

SHORT_SPAN_SHARE = 0.15
"""Share of a text's tokens in [MASK] spans (Du et al. 2021, arXiv:2103.10360, section 2.1)."""
SHORT_SPAN_MEAN = 3
"""Mean length of [MASK] spans, Poisson distributed (same section)."""
LONG_SPAN_SHARE = 0.5
"""Smallest share of the text in a [gMASK] span, which covers at most all of it but one token (section 2.2)."""


@dataclass(frozen=True)
class Windows:
    """Windows of the token streams.

    Attributes:
        tokens: tokens of the windows, [B, S + 1].
        samples: numbers of the samples, [B].
        weights: relative weight of each target, [B, S]; None: all targets have the same weight, or, of a kind that is
            not causal, the objective weighs them.
        opens: whether the input opens a document, [B, S]; None: documents are not separated.
    """

    tokens: Integers
    samples: Integers
    weights: Floats | None = None
    opens: Booleans | None = None


@dataclass(frozen=True)
class Sample:
    """One sample of an objective that is not causal; arrays [S], the layout [S, C]."""

    tokens: Integers
    targets: Integers
    is_predicted: Booleans
    layout: Integers


class Objective:
    """Turns windows into batches.

    Args:
        config: kind of the objective, and weighting of the targets.
        seed: seed of the run; held-out samples are the same in every run.
        split: "train" or "heldout".
        two_dimensional: GLM's positions: a token of a blank has the position of its mask and its place in the blank.
        dropout: whether batches include the keys of the samples' dropout masks.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        seed: int = 0,
        split: str = "train",
        *,
        two_dimensional: bool = False,
        dropout: bool = False,
    ) -> None:
        self.config = config
        self.seed = seed
        self.split = split
        self._two_dimensional = two_dimensional
        self._dropout = dropout

    @property
    def is_causal(self) -> bool:
        """Whether every token predicts the next one, so that weights belong to tokens of the stream."""
        return self.config.kind == "causal"

    def batch(self, windows: Windows) -> Batch:
        """Inputs and labels of a micro-batch. Weights in the labels are relative, fp64 [B, S]."""
        if self.is_causal:
            inputs, labels = self._next_token(windows)
        else:
            inputs, labels = self._arranged(windows) if windows.weights is None else self._packed(windows)
        if not self._dropout:
            return inputs, labels
        keys = np.array([dropout_key(self.seed, self.split, sample) for sample in windows.samples.tolist()])
        return (*(inputs if isinstance(inputs, tuple) else (inputs,)), torch.from_numpy(keys)), labels

    def predicted_tokens(self, sample: int, length: int) -> int:
        """Number of targets of a sample that is not causal, without building it."""
        random = self._random(sample)
        if self.config.kind == "prefix":
            return length - int(random.randint(1, length)) + 1
        _, _, spans = _draw_spans(length, self.config, random)
        return sum(stop - start + 1 for start, stop in spans)

    def _next_token(self, windows: Windows) -> Batch:
        """Each token predicts the next one."""
        inputs: Any = torch.from_numpy(np.ascontiguousarray(windows.tokens[:, :-1]))
        targets: Any = torch.from_numpy(np.ascontiguousarray(windows.tokens[:, 1:]))
        if windows.opens is not None:
            inputs = (inputs, torch.from_numpy(separate_documents(windows.opens)))
        if windows.weights is not None:
            targets = (targets, torch.from_numpy(windows.weights))
        return inputs, targets

    def _arranged(self, windows: Windows) -> Batch:
        made = []
        for window, sample in zip(windows.tokens, windows.samples.tolist(), strict=True):
            random = self._random(sample)
            made.append(
                prefix_sample(window, random)
                if self.config.kind == "prefix"
                else blank_sample(window, self.config, random, self._two_dimensional)
            )
        tokens, targets, layouts = (
            torch.from_numpy(np.stack(arrays))
            for arrays in zip(*((one.tokens, one.targets, one.layout) for one in made), strict=True)
        )
        is_predicted = np.stack([one.is_predicted for one in made])
        weights = np.where(is_predicted, 1 / is_predicted.sum(1, keepdims=True), 0.0)
        return (tokens, layouts), (
            targets,
            torch.from_numpy(weights if self.config.weighting == "sample" else is_predicted.astype(np.float64)),
        )

    def _packed(self, windows: Windows) -> Batch:
        """Conversations whose question attends to itself in both directions and whose answer is predicted."""
        assert windows.opens is not None and windows.weights is not None
        inputs, targets = windows.tokens[:, :-1], windows.tokens[:, 1:]
        layout = answer_layout(
            inputs, windows.opens, windows.weights > 0, self.config, two_dimensional=self._two_dimensional
        )
        tokens, predicted = (torch.from_numpy(np.ascontiguousarray(part)) for part in (inputs, targets))
        return (tokens, torch.from_numpy(layout)), (predicted, torch.from_numpy(windows.weights))

    def _random(self, sample: int) -> np.random.RandomState:
        """Random numbers of a sample. RandomState's streams are frozen, so that every numpy version builds the same
        samples."""
        is_train = self.split == "train"
        key = np.random.SeedSequence([self.seed if is_train else 0, 0 if is_train else 1, sample])
        return np.random.RandomState(np.random.MT19937(key))


def separate_documents(opens: Booleans) -> Integers:
    """Layout in which no token attends to another document, [B, S, C].

    Args:
        opens: whether the input at this place opens a document, [B, S]. The end-of-document token after a document
            opens the next one: as an input it only predicts that document's first token, which must not depend on the
            document before. So a document is trained on as if it were alone, with an end-of-document token in front and
            one, as a target, at its end. See `pretrain.data.weights.document_boundaries`.
    """
    batch, length = opens.shape
    places = np.arange(length)
    first = np.maximum.accumulate(np.where(opens, places, 0), axis=1)
    layout = np.zeros((batch, length, COLUMNS), np.int64)
    layout[..., FIRST_SEEN] = first
    layout[..., SEEN_END] = places + 1
    layout[..., POSITION] = places - first
    return layout


def answer_layout(
    tokens: Integers, opens: Booleans, learnt: Booleans, config: ObjectiveConfig, *, two_dimensional: bool
) -> Integers:
    """Layout of packed conversations of kind `prefix` or `blank_infilling`, [B, S, C].

    The question, up to the first learnt token, attends to itself in both directions; everything after it attends to
    what comes before it. In blank infilling the question ends with a mask token, and the answer, after a start token,
    is the content of that blank (Du et al. 2021, arXiv:2103.10360, section 2.3). A conversation without learnt tokens,
    such as padding, attends to what comes before each token.

    Args:
        tokens: inputs, [B, S].
        opens: whether a conversation begins at this input, [B, S].
        learnt: whether the target of this input counts, [B, S].

    Raises:
        ValueError: in blank infilling, an answer does not follow a mask token and the start token.
    """
    layout = separate_documents(opens)
    places = np.arange(tokens.shape[1])
    is_blank = config.kind == "blank_infilling"
    for row in range(len(tokens)):
        firsts = np.unique(np.append(np.flatnonzero(opens[row]), 0))
        for first, stop in zip(firsts.tolist(), [*firsts[1:].tolist(), len(places)], strict=True):
            answers = np.flatnonzero(learnt[row, first:stop])
            if not len(answers):
                continue
            begin = first + int(answers[0])  # this input predicts the first learnt token
            if is_blank:
                _check_blank(tokens[row], first, begin, config)
            question = slice(first, begin if is_blank else begin + 1)
            layout[row, question, SEEN_END] = question.stop
            if is_blank and two_dimensional:
                layout[row, begin:stop, POSITION] = begin - 1 - first
                layout[row, begin:stop, BLOCK_POSITION] = places[begin:stop] - begin + 1
    return layout


def _check_blank(tokens: Integers, first: int, begin: int, config: ObjectiveConfig) -> None:
    masks = (config.mask_token, config.long_mask_token)
    found = tokens[max(first, begin - 1) : begin + 1].tolist()
    if len(found) < 2 or found[0] not in masks or found[1] != config.start_token:
        raise ValueError(
            f"objective.kind blank_infilling: the answer of a conversation follows the tokens {found}; it must follow "
            f"mask_token {masks[0]} or long_mask_token {masks[1]} and start_token {config.start_token}: tokenize with "
            "a template such as glm, or set these tokens to those of the template"
        )


def dropout_key(seed: int, split: str, sample: int) -> np.int64:
    """Key of a sample's dropout masks; two samples of a run have the same one only by chance."""
    sequence = np.random.SeedSequence([seed, 0 if split == "train" else 1, sample], spawn_key=(1,))
    key: np.int64 = sequence.generate_state(1, np.uint64).view(np.int64)[0]
    return key


def prefix_sample(window: Integers, random: np.random.RandomState) -> Sample:
    """A sample whose prefix, of random length, attends to itself in both directions and whose rest is predicted.

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
    """A sample of GLM's blank infilling.

    Part A is the text with each span replaced by one mask token, with attention in both directions. In part B the spans
    follow in random order; each is predicted from left to right after a start token, ends with an end token, and
    attends to part A and to what comes before it in part B.

    A text of n tokens with m spans takes n + 2 m places; as many tokens of the window as fit are used. Without
    two-dimensional positions the spans keep the text's order, because nothing else tells which mask a span belongs to.

    Source: Du et al. 2021, arXiv:2103.10360, sections 2.1 to 2.3; shares of the two kinds of spans by GLM-130B,
    arXiv:2210.02414, section 2.2.
    """
    assert objective.mask_token is not None and objective.long_mask_token is not None
    assert objective.start_token is not None and objective.end_token is not None
    length = len(window) - 1
    is_short, size, spans = _draw_spans(length, objective, random)
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
    # The remaining places predict nothing, and no other token attends to them; each attends to itself, because a
    # softmax needs at least one position.
    layout[place:, FIRST_SEEN] = places[place:]
    return Sample(tokens, targets, is_predicted, layout)


def _draw_spans(
    length: int, objective: ObjectiveConfig, random: np.random.RandomState
) -> tuple[bool, int, list[tuple[int, int]]]:
    """Whether the blanks are short; size of the text; its spans, half-open, in order."""
    is_short = bool(random.random_sample() < objective.short_span_share)
    return is_short, *(_short_spans if is_short else _long_span)(length, random)


def _short_spans(length: int, random: np.random.RandomState) -> tuple[int, list[tuple[int, int]]]:
    """Size of the text and its spans, half-open, in order, with at least one token between any two."""
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
