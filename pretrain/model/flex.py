"""FlexAttention (Dong et al. 2024, arXiv:2412.05496), which GPUs use for ALiBi, soft caps and layouts.

It computes only the tiles of scores that a tile mask lists, and compares single positions only in tiles that are
attended to in part. The tile mask is built from each token's range of positions, so that no mask of S × S booleans is
needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from pretrain.model.layout import FIRST_SEEN, SEEN_END
from pretrain.model.plain import soft_capped

TILE = 128
"""Rows and columns of a tile; FlexAttention's default."""


def flex_attention(
    q_BHQE: torch.Tensor,
    k_BKSE: torch.Tensor,
    v_BKSE: torch.Tensor,
    slopes_H: torch.Tensor | None,
    tile_mask: Any,
    places_Q: torch.Tensor,
    soft_cap: float | None = None,
) -> torch.Tensor:
    """Compute what `causal_attention` does: compiled on a GPU; uncompiled and slow on a CPU, for tests.

    Args:
        tile_mask: from `mask_of` or `causal_mask`.
        places_Q: place of each query among the keys.
    """
    from torch.nn.attention import flex_attention as flex

    def changed(score: Any, batch: Any, head: Any, query: Any, key: Any) -> Any:
        score = soft_capped(score, soft_cap)
        return score if slopes_H is None else score - slopes_H[head] * (places_Q[query] - key).abs()

    is_alone = q_BHQE.is_cuda and not torch.compiler.is_compiling()
    attend = _compiled(flex.flex_attention) if is_alone else flex.flex_attention
    result: torch.Tensor = attend(
        q_BHQE,
        k_BKSE,
        v_BKSE,
        score_mod=None if slopes_H is None and soft_cap is None else changed,
        block_mask=tile_mask,
        enable_gqa=q_BHQE.shape[1] != k_BKSE.shape[1],
    )
    return result


@lru_cache(maxsize=1)
def _compiled(function: Any) -> Any:
    return torch.compile(function, fullgraph=True, dynamic=False)


def mask_of(layout_BQC: torch.Tensor, keys: int) -> Any:
    """The tile mask of a layout; cached on it, because all layers of a stage share it.

    Args:
        keys: number of positions that its ranges are of.
    """
    mask = getattr(layout_BQC, "tile_mask", None)
    if mask is None:
        first_BQ, end_BQ = layout_BQC[..., FIRST_SEEN].contiguous(), layout_BQC[..., SEEN_END].contiguous()
        serves_all = len(layout_BQC) == 1  # plain text with a window has one layout, whatever the batch

        def is_seen(batch: Any, head: Any, query: Any, key: Any) -> Any:
            sample = batch * 0 if serves_all else batch
            return (key >= first_BQ[sample, query]) & (key < end_BQ[sample, query])

        mask = layout_BQC.tile_mask = tile_mask(first_BQ, end_BQ, keys, is_seen)  # type: ignore[attr-defined]
    return mask


@lru_cache(maxsize=4)
def causal_mask(length: int, device: torch.device) -> Any:
    """The tile mask of plain text: each token attends to itself and all earlier ones."""

    def is_past(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return key <= query

    places_BS = torch.arange(length, device=device)[None]
    return tile_mask(torch.zeros_like(places_BS), places_BS + 1, length, is_past)


def tile_mask(
    first_BQ: torch.Tensor, end_BQ: torch.Tensor, keys: int, is_seen: Callable[[Any, Any, Any, Any], Any]
) -> Any:
    """FlexAttention's tile mask for queries that attend to the half-open range [first, end) of the keys each.

    Args:
        keys: number of keys.
        is_seen: (batch, head, query, key) -> whether the key is in the query's range, for tiles attended to in part.
    """
    from torch.nn.attention.flex_attention import BlockMask

    batch, queries = first_BQ.shape
    tiles = -(-queries // TILE)
    # Ranges by tile of queries; a shorter last tile is padded with its last query.
    rows = torch.arange(tiles * TILE, device=first_BQ.device).clamp_max(queries - 1)
    first = first_BQ[:, rows].view(batch, tiles, TILE, 1)
    end = end_BQ[:, rows].view(batch, tiles, TILE, 1)
    starts = torch.arange(-(-keys // TILE), device=first_BQ.device) * TILE
    # Touched: some query may attend to some of it. Whole: every query attends to all of it.
    is_touched = (starts < end.amax(2)) & (starts + TILE > first.amin(2))
    is_whole = (starts >= first.amax(2)) & (starts + TILE <= end.amin(2))
    return BlockMask.from_kv_blocks(
        *_listed(is_touched & ~is_whole),
        *_listed(is_whole),
        BLOCK_SIZE=TILE,
        mask_mod=is_seen,
        seq_lengths=(queries, keys),
    )


def _listed(tiles_BQK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Number of selected tiles in each row, and all tiles with the selected first: int32, [B, 1, Q] and [B, 1, Q,
    K]."""
    which = tiles_BQK.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return tiles_BQK.sum(-1).to(torch.int32)[:, None], which.to(torch.int32)[:, None].contiguous()
