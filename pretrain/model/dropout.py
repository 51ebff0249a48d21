"""Dropout whose mask is a function of (seed, sample, layer, place), without any random state.

A random state would have to differ between tensor ranks where a tensor is split, be the same where it is not, be
restored before a recomputation and be saved for a resume; and each topology would drop other activations. Here each
sample has a key, each place a number, and a hash of the two decides. So the mask is the same under every topology, in a
recomputation, and after a resume.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

EMBEDDING = 0
"""Site after the embedding."""
ATTENTION_WEIGHTS, ATTENTION_OUTPUT, MLP_OUTPUT = range(3)
"""Places of a layer, see `site`."""


class AttentionDropout(NamedTuple):
    """Dropout of the attention's weights after the softmax, see `drop_attention`."""

    rate: float
    keys_B: torch.Tensor
    site: int | torch.Tensor
    first_head: int


def site(layer: int, place: int) -> int:
    """Number of a place in a layer; each site has its own masks."""
    return 1 + 3 * layer + place


def adapter_site(layer: int, place: int, places: int) -> int:
    """Number of an adapter's place in a layer that has `places` of them; negative, where `site` has none."""
    return -1 - (layer * places + place)


def drop_hidden(
    x_SBD: torch.Tensor,
    rate: float,
    keys_B: torch.Tensor,
    site: int | torch.Tensor,
    places_S: torch.Tensor | None = None,
    first_column: int = 0,
    columns: int | None = None,
) -> torch.Tensor:
    """Zero with probability `rate`, else x / (1 - rate) (Srivastava et al. 2014, JMLR 15, section 10).

    Args:
        keys_B: keys of the samples, int64.
        places_S: place in the sample of each position of x; None: x has all of them.
        first_column: first column of this rank's share.
        columns: columns of all ranks; None: x has all of them.
    """
    length, _, own = x_SBD.shape
    device = x_SBD.device
    rows = torch.arange(length, dtype=torch.int32, device=device) if places_S is None else places_S.to(torch.int32)
    places = (rows * (columns or own))[:, None] + torch.arange(
        first_column, first_column + own, dtype=torch.int32, device=device
    )
    dropped = _is_dropped(places[:, None], _hashed(keys_B + site)[None, :, None], rate)
    return x_SBD.masked_fill(dropped, 0.0) * (1 / (1 - rate))


def drop_attention(
    weights_BHQK: torch.Tensor,
    rate: float,
    keys_B: torch.Tensor,
    site: int | torch.Tensor,
    first_head: int,
    places_Q: torch.Tensor,
    first_key: int = 0,
) -> torch.Tensor:
    """Dropout of the attention's weights after the softmax.

    Args:
        weights_BHQK: Q queries, and K keys from `first_key` on.
        first_head: index of this rank's first head.
        places_Q: place in the sample of each query.
    """
    _, heads, _, keys = weights_BHQK.shape
    device = weights_BHQK.device
    of_heads_BH = _hashed(_hashed(keys_B + site)[:, None] + torch.arange(first_head, first_head + heads, device=device))
    # 65,536 positions have distinct places; in longer sequences some share a place and are dropped together.
    columns = torch.arange(first_key, first_key + keys, dtype=torch.int32, device=device)
    places = (places_Q.to(torch.int32) << 16)[:, None] + columns
    dropped = _is_dropped(places, of_heads_BH[:, :, None, None], rate)
    return weights_BHQK.masked_fill(dropped, 0.0) * (1 / (1 - rate))


def _hashed(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64's output function (Steele et al. 2014, OOPSLA, figure 17), on int64."""
    x = x * -0x61C8864680B583EB
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _is_dropped(places: torch.Tensor, keys: torch.Tensor, rate: float) -> torch.Tensor:
    """Whether each place is dropped under each key, with probability `rate`.

    In int32, which the CPU's vector units multiply fast: a 32-bit hash of two multiplications, with half of the key
    mixed in before the first and half before the second.
    """
    x = places ^ _as_int32(keys)
    x ^= (x >> 16) & 0xFFFF
    x *= 0x7FEB352D
    x += _as_int32(keys >> 32)
    x ^= (x >> 15) & 0x1FFFF
    x *= -0x7B935975
    # The highest bits are mixed best, so the hash is compared as a number in [-2^31, 2^31).
    return x < round(rate * 2**32) - 2**31


def _as_int32(x: torch.Tensor) -> torch.Tensor:
    """The low 32 bits, as int32."""
    low = x & 0xFFFFFFFF
    return (low - ((low >> 31) << 32)).to(torch.int32)
