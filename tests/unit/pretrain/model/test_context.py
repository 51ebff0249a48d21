"""The division of a sample's tokens, and attention of one share of the queries to all keys, by every implementation."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex

from pretrain.data.objective import dropout_key
from pretrain.engine.own_tokens import own_tokens
from pretrain.model import flex, plain
from pretrain.model.attention import causal_attention
from pretrain.model.context import ContextParallel
from pretrain.model.dropout import AttentionDropout, drop_hidden
from pretrain.model.flex import TILE
from pretrain.model.layout import FIRST_SEEN, POSITION, SEEN_END, causal_layout, windowed
from pretrain.model.positions import alibi_slopes
from tests.attention_cases import KINDS, plain_attention, random_heads, seen_by

DEGREE = 3
LENGTH = 2 * DEGREE * 70
"""Chunks that do not fill a tile of FlexAttention or a block of queries."""


class OneOf:
    """A process group with a size and a rank, and nobody in it."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def size(self) -> int:
        return DEGREE

    def rank(self) -> int:
        return self._rank


def ranks() -> list[ContextParallel]:
    return [ContextParallel(OneOf(rank)) for rank in range(DEGREE)]  # type: ignore[arg-type]


def test_each_token_is_on_one_rank_and_the_work_is_even() -> None:
    places = torch.arange(24)
    shares = [context.own(places, 0) for context in ranks()]
    assert [share.tolist() for share in shares] == [
        [0, 1, 2, 3, 20, 21, 22, 23],
        [4, 5, 6, 7, 16, 17, 18, 19],
        [8, 9, 10, 11, 12, 13, 14, 15],
    ]
    for context, share in zip(ranks(), shares, strict=True):
        assert torch.equal(context.places(8, places.device), share)
    scores = [int((share + 1).sum()) for share in shares]  # causal: a token attends to itself and all earlier ones
    assert len(set(scores)) == 1


def test_without_the_axis_nothing_is_divided() -> None:
    alone, x = ContextParallel(), torch.randn(10, 2)
    assert alone.own(x, 0) is x and alone.whole(x)[0] is x
    assert alone.places(10, x.device).tolist() == list(range(10))
    batch = (torch.zeros(2, 6, dtype=torch.int64), torch.zeros(2, 6, dtype=torch.int64))
    assert own_tokens(batch, alone) is batch


def test_gathered_parts_are_in_the_samples_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a part gets the sum of the ranks' gradients, in fp32."""
    whole = [torch.randn(12, 2, 3), torch.randn(12, 2, 3)]
    parts = [[context.own(x, 0) for x in whole] for context in ranks()]
    joined = torch.cat([torch.cat(part, -1) for part in parts])
    monkeypatch.setattr("pretrain.model.context.gathered", lambda x, group: joined)
    monkeypatch.setattr(
        "pretrain.model.context.scattered", lambda x, group: x.chunk(group.size())[group.rank()] * group.size()
    )
    for context, own in zip(ranks(), parts, strict=True):
        leaves = [part.clone().requires_grad_() for part in own]
        found = context.whole(*leaves)
        for part, expected in zip(found, whole, strict=True):
            assert torch.equal(part, expected)
        upstream = [torch.randn(12, 2, 3) for _ in whole]
        for gradient, above in zip(torch.autograd.grad(found, leaves, upstream), upstream, strict=True):
            assert torch.equal(gradient, DEGREE * context.own(above, 0))


@pytest.mark.parametrize("slopes", [None, alibi_slopes(4)], ids=["plain", "alibi"])
@pytest.mark.parametrize("implementation", ["blocks", "scores", "flex"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_share_of_the_queries_is_that_share_of_the_attention(
    kind: str, implementation: str, slopes: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)  # see test_flex
    q, k, v = random_heads(LENGTH, 4 if implementation == "blocks" else 1)
    layout, seen = seen_by(kind, LENGTH)
    if layout is None:
        layout = causal_layout(2, LENGTH, q.device)
    reference = plain_attention(q, k, v, seen, slopes)
    for context in ranks():
        own_q, own_layout = context.own(q, 2), context.own(layout, 1)
        places = context.places(own_q.shape[2], q.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if implementation == "flex":
                ours = flex.flex_attention(own_q, k, v, slopes, flex.mask_of(own_layout, LENGTH), places)
            elif implementation == "scores":
                ours = plain.attention_of_scores(own_q, k, v, slopes, own_layout, None, places)
            else:
                ours = causal_attention(own_q, k, v, slopes, own_layout, places_Q=places)
        expected = context.own(reference, 2)
        torch.testing.assert_close(ours, expected)
        upstream = torch.randn(ours.shape)
        for mine, theirs in zip(
            torch.autograd.grad(ours, (q, k, v), upstream),
            torch.autograd.grad(expected, (q, k, v), upstream, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_hold_what_a_share_sees_and_no_more(kind: str) -> None:
    layout, seen = seen_by(kind, LENGTH)
    if layout is None:
        layout = causal_layout(2, LENGTH, seen.device)
    for context in ranks():
        own = context.own(layout, 1)
        mask = flex.mask_of(own, LENGTH)
        queries, rows, columns = own.shape[1], *(-(-length // TILE) for length in (own.shape[1], LENGTH))
        assert mask.seq_lengths == (queries, LENGTH)
        padded = torch.zeros(2, rows * TILE, columns * TILE, dtype=torch.bool)
        padded[:, :queries, :LENGTH] = context.own(seen, 1)
        touched = padded.view(2, rows, TILE, columns, TILE).any(4).any(2)
        listed = torch.zeros_like(touched)
        for counts, which in (
            (mask.kv_num_blocks, mask.kv_indices),
            (mask.full_kv_num_blocks, mask.full_kv_indices),
        ):
            for batch in range(2):
                for row in range(rows):
                    listed[batch, row, which[batch, 0, row, : counts[batch, 0, row]].long()] = True
        # A tile across both chunks may hold what lies between the ranges of its queries, and is masked there.
        assert (listed | ~touched).all()


def test_masks_of_dropout_are_those_of_the_whole_sample() -> None:
    keys = torch.tensor([int(dropout_key(7, "train", sample)) for sample in (3, 4)])
    x = torch.randn(24, 2, 8)
    whole = drop_hidden(x, 0.4, keys, 5)
    q, k, v = (torch.randn(2, 2, 24, 8) for _ in range(3))
    dropout = AttentionDropout(0.4, keys, 1, 0)
    mixed = causal_attention(q, k, v, layout_BQC=causal_layout(2, 24, x.device), dropout=dropout)
    for context in ranks():
        places = context.places(8, x.device)
        assert torch.equal(drop_hidden(context.own(x, 0), 0.4, keys, 5, places), context.own(whole, 0))
        own_layout = context.own(causal_layout(2, 24, x.device), 1)
        own = causal_attention(context.own(q, 2), k, v, None, own_layout, dropout, None, places)
        torch.testing.assert_close(own, context.own(mixed, 2))


def test_a_window_goes_back_from_each_tokens_place() -> None:
    whole = windowed(causal_layout(1, 24, torch.device("cpu")), 5, 24, torch.arange(24))
    assert whole is not None
    assert (whole[..., SEEN_END] - whole[..., FIRST_SEEN]).max() == 5
    for context in ranks():
        own = context.own(causal_layout(1, 24, torch.device("cpu")), 1)
        found = windowed(own, 5, 24, context.places(8, own.device))
        assert found is not None and torch.equal(found, context.own(whole, 1))


def test_a_batch_is_divided_with_its_layout_and_weights() -> None:
    tokens, targets = torch.arange(48).view(2, 24), torch.arange(1, 49).view(2, 24)
    weights, keys = torch.rand(2, 24), torch.tensor([8, 9])
    for context in ranks():
        (own, layout, own_keys), own_targets = own_tokens(((tokens, keys), targets), context)
        assert torch.equal(own, context.own(tokens, 1)) and torch.equal(own_targets, context.own(targets, 1))
        assert torch.equal(layout[0, :, POSITION], context.places(8, tokens.device)) and own_keys is keys
        _, (_, own_weights) = own_tokens((tokens, (targets, weights)), context)
        assert torch.equal(own_weights, DEGREE * context.own(weights, 1))
        _, (_, is_scored) = own_tokens((tokens, (targets, weights > 0.5)), context)
        assert is_scored.dtype == torch.bool
    given = torch.randint(0, 24, (2, 24, 4))
    (_, own_layout), _ = own_tokens(((tokens, given), targets), ranks()[1])
    assert torch.equal(own_layout, ranks()[1].own(given, 1))
