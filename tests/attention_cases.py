"""Attention layouts with the masks they stand for, for the tests of both attention implementations."""

from __future__ import annotations

import torch
import torch.nn.functional as F

KINDS = ("causal", "prefix", "documents", "ranges")


def seen_by(kind: str, length: int) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Two samples: a layout [2, S, 2] (None: plain causal attention) and the mask [2, S, S] that it stands for."""
    places = torch.arange(length)
    seen = (places <= places[:, None]).expand(2, length, length)
    if kind == "prefix":
        prefix = torch.tensor([3, length // 2 + 1])[:, None]
        layout = torch.stack([torch.zeros(2, length, dtype=torch.int64), torch.maximum(places + 1, prefix)], -1)
        return layout, seen | (places < prefix[:, None])
    if kind == "documents":
        starts = torch.stack([places // 40 * 40, places // 3 * 3])
        layout = torch.stack([starts, (places + 1).expand(2, length)], -1)
        return layout, seen & (places >= starts[..., None])
    if kind == "ranges":  # any boundaries that leave each token visible to itself
        back, ahead = torch.randint(0, 200, (2, 2, length), generator=torch.Generator().manual_seed(3))
        first, end = (places - back).clamp_min(0), (places + 1 + ahead).clamp_max(length)
        return torch.stack([first, end], -1), (places >= first[..., None]) & (places < end[..., None])
    return None, seen


def plain_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    seen: torch.Tensor,
    slopes: torch.Tensor | None,
    soft_cap: float | None = None,
) -> torch.Tensor:
    """Reference: torch's attention with a full mask; with a soft cap, which that one lacks, its formula."""
    places = torch.arange(q.shape[2])
    bias = torch.zeros(len(q), 1, *seen.shape[1:]).masked_fill(~seen[:, None], float("-inf"))
    if slopes is not None:
        bias = bias - slopes[:, None, None] * (places[:, None] - places).abs()
    if soft_cap is not None:
        k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], dim=1) for part in (k, v))
        capped = soft_cap * torch.tanh(q @ k.transpose(2, 3) / (q.shape[3] ** 0.5 * soft_cap))
        return (capped + bias).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True)


def random_heads(length: int, key_value_heads: int = 4) -> list[torch.Tensor]:
    """Queries, keys and values of two samples, four heads of size 16."""
    generator = torch.Generator().manual_seed(length)
    heads = (4, key_value_heads, key_value_heads)
    return [torch.randn(2, number, length, 16, generator=generator, requires_grad=True) for number in heads]
