"""FlexAttention, the GPU's implementation, on a CPU: against torch's attention with a full mask."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex

from pretrain.model import flex
from pretrain.model.flex import TILE, flex_attention, tile_mask
from pretrain.model.layout import windowed
from pretrain.model.positions import alibi_slopes
from tests.attention_cases import KINDS, plain_attention, random_heads, seen_by


def tile_mask_of(layout: torch.Tensor | None, length: int) -> object:
    return flex.causal_mask(length, torch.device("cpu")) if layout is None else flex.mask_of(layout, length)


@pytest.mark.parametrize("soft_cap", [None, 0.7])
@pytest.mark.parametrize("slopes", [None, alibi_slopes(4)], ids=["plain", "alibi"])
@pytest.mark.parametrize("key_value_heads", [1, 4])
@pytest.mark.parametrize("length", [5, TILE + 70, 3 * TILE])
@pytest.mark.parametrize("kind", KINDS)
def test_is_attention_with_a_plain_mask(
    kind: str,
    length: int,
    key_value_heads: int,
    slopes: torch.Tensor | None,
    soft_cap: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # torch refuses gradients on a CPU before it looks whether the plain implementation, which has them, is meant.
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
    q, k, v = random_heads(length, key_value_heads)
    layout, seen = seen_by(kind, length)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is slow without being compiled
        ours = flex_attention(q, k, v, slopes, tile_mask_of(layout, length), torch.arange(length), soft_cap)
    reference = plain_attention(q, k, v, seen, slopes, soft_cap)
    torch.testing.assert_close(ours, reference)
    upstream = torch.randn(ours.shape)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (q, k, v), upstream), torch.autograd.grad(reference, (q, k, v), upstream), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("length", [5, TILE, TILE + 70, 6 * TILE - 1])
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_hold_what_is_seen_and_no_more(kind: str, length: int) -> None:
    """The plain implementation does not look at the tiles, so they are held to the mask of all positions."""
    layout, seen = seen_by(kind, length)
    if layout is None:
        layout = torch.stack([torch.zeros(2, length, dtype=torch.int64), torch.arange(1, length + 1).expand(2, -1)], -1)
    mask = tile_mask(layout[..., 0], layout[..., 1], length, lambda batch, head, query, key: seen[batch, query, key])
    tiles = -(-length // TILE)
    square = torch.zeros(2, tiles * TILE, tiles * TILE)
    square[:, :length, :length] = seen
    square[:, length:, :length] = seen[:, -1:]  # queries that are not there ask for nothing
    shares = square.view(2, tiles, TILE, tiles, TILE).mean((2, 4))

    def listed(counts: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(2, tiles, tiles, dtype=torch.bool)
        for batch in range(2):
            for query in range(tiles):
                found[batch, query, which[batch, 0, query, : counts[batch, 0, query]].long()] = True
        return found

    in_part, whole = (
        listed(mask.kv_num_blocks, mask.kv_indices),
        listed(mask.full_kv_num_blocks, mask.full_kv_indices),
    )
    assert not (in_part & whole).any()
    assert torch.equal(in_part | whole, shares > 0)
    assert torch.equal(whole, shares == 1)


def test_layers_of_a_stage_share_one_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(flex, "tile_mask", lambda *arguments: made.append(arguments) or tile_mask(*arguments))
    layout, _ = seen_by("prefix", 20)
    q, k, v = (part.detach() for part in random_heads(20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            flex_attention(q, k, v, None, flex.mask_of(layout, 20), torch.arange(20))
    assert len(made) == 1


@pytest.mark.slow
@pytest.mark.parametrize("soft_cap", [None, 0.7])
@pytest.mark.parametrize("slopes", [None, alibi_slopes(4)], ids=["plain", "alibi"])
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_it_is_the_same(
    kind: str, slopes: torch.Tensor | None, soft_cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, with the tiles; torch compiles the forward pass for a CPU too."""
    q, k, v = (part.detach() for part in random_heads(3 * TILE))
    layout, seen = seen_by(kind, 3 * TILE)
    compiled = flex._compiled(torch_flex.flex_attention)
    monkeypatch.setattr(torch_flex, "flex_attention", compiled)
    ours = flex_attention(q, k, v, slopes, tile_mask_of(layout, 3 * TILE), torch.arange(3 * TILE), soft_cap)
    torch.testing.assert_close(ours, plain_attention(q, k, v, seen, slopes, soft_cap))


def test_a_window_of_plain_text_serves_every_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layout is one for the whole batch."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
    length, window = TILE + 70, 50
    layout = windowed(None, window, length, torch.arange(length))
    assert layout is not None and len(layout) == 1
    q, k, v = random_heads(length)
    places = torch.arange(length)
    seen = (places <= places[:, None]) & (places > places[:, None] - window)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = flex_attention(q, k, v, None, flex.mask_of(layout, length), places)
    torch.testing.assert_close(ours, plain_attention(q, k, v, seen.expand(2, length, length), None))
