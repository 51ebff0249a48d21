"""Dropout whose mask is a function of (seed, sample, layer, place), and of no random state.

A random state would have to be another one on each tensor rank where a tensor is split, the same where it is not, put
back before a recomputation, and saved for a resume; and each topology would drop something else. Here each sample
brings a key, each place a number, and a hash of the two decides: the mask is the same under every topology, in a
recomputation, and after a resume, because there is nothing that could differ.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

EMBEDDING = 0
"""The site after the embedding."""
ATTENTION_WEIGHTS, ATTENTION_OUTPUT, MLP_OUTPUT = range(3)
"""The sites of a layer."""


class AttentionDropout(NamedTuple):
    """Dropout of the attention's weights after the softmax, see `drop_attention`."""

    rate: float
    keys_B: torch.Tensor
    site: int
    first_head: int


def site(layer: int, place: int) -> int:
    """The number of a place of a layer; each has masks of its own."""
    return 1 + 3 * layer + place


def drop_hidden(
    x_SBD: torch.Tensor, rate: float, keys_B: torch.Tensor, site: int, first_position: int = 0
) -> torch.Tensor:
    """Zero with probability `rate`, else x / (1 - rate) (Srivastava et al. 2014, JMLR 15, section 10).

    Args:
        keys_B: of the samples, int64.
        first_position: of this rank's share of the positions.
    """
    length, _, hidden = x_SBD.shape
    places = torch.arange(length * hidden, dtype=torch.int32, device=x_SBD.device).add_(first_position * hidden)
    dropped = _is_dropped(places.view(length, 1, hidden), _hashed(keys_B + site)[None, :, None], rate)
    return x_SBD.masked_fill(dropped, 0.0) * (1 / (1 - rate))


def drop_attention(
    weights_BHQK: torch.Tensor,
    rate: float,
    keys_B: torch.Tensor,
    site: int,
    first_head: int,
    first_query: int,
    first_key: int = 0,
) -> torch.Tensor:
    """The same for the attention's weights after the softmax, of Q queries from `first_query` on and K keys likewise.

    Args:
        first_head: of this rank's heads.
    """
    _, heads, queries, keys = weights_BHQK.shape
    device = weights_BHQK.device
    of_heads_BH = _hashed(_hashed(keys_B + site)[:, None] + torch.arange(first_head, first_head + heads, device=device))
    rows = torch.arange(first_query, first_query + queries, dtype=torch.int32, device=device)
    # 65,536 positions have places of their own; in longer sequences some are dropped together.
    columns = torch.arange(first_key, first_key + keys, dtype=torch.int32, device=device)
    places = (rows << 16)[:, None] + columns
    dropped = _is_dropped(places, of_heads_BH[:, :, None, None], rate)
    return weights_BHQK.masked_fill(dropped, 0.0) * (1 / (1 - rate))


def _hashed(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64's output function (Steele et al. 2014, OOPSLA, figure 17), on int64."""
    x = x * -0x61C8864680B583EB
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _is_dropped(places: torch.Tensor, keys: torch.Tensor, rate: float) -> torch.Tensor:
    """Of each place under each key, with probability `rate`; in int32, which the CPU's vector units multiply fast.

    The two multiplications of a 32-bit hash, with half of the key before the first and half before the second.
    """
    x = places ^ _as_int32(keys)
    x ^= (x >> 16) & 0xFFFF
    x *= 0x7FEB352D
    x += _as_int32(keys >> 32)
    x ^= (x >> 15) & 0x1FFFF
    x *= -0x7B935975
    # The sign and the bits below it are the best mixed ones: compared as a number in [-2^31, 2^31).
    return x < round(rate * 2**32) - 2**31


def _as_int32(x: torch.Tensor) -> torch.Tensor:
    """The low 32 bits."""
    low = x & 0xFFFFFFFF
    return (low - ((low >> 31) << 32)).to(torch.int32)
