"""Rotary position embedding and ALiBi's slopes."""

from __future__ import annotations

import math

import torch

from pretrain.config import RopeScaling
from pretrain.model.gradients import Rotation
from pretrain.model.plain import rotated, uses_plain


def rotary_table(
    sequence_length: int, size: int, theta: float, scaling: RopeScaling | None = None, *, is_long: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of every position and frequency, fp32, each [S, size / 2].

    Args:
        size: entries of a head that are rotated.
        is_long: the table is for sequences longer than before the adaptation, which kind longrope distinguishes.

    Source: Su et al. 2021, arXiv:2104.09864, section 3.2.
    """
    base = theta if scaling is None else scaling.base(theta, size)
    frequencies = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    magnitude = 1.0
    if scaling is not None:
        frequencies, magnitude = scaled_frequencies(frequencies, scaling, base, is_long=is_long)
    angles = torch.outer(torch.arange(sequence_length, dtype=torch.float64), frequencies)
    return (magnitude * angles.cos()).float(), (magnitude * angles.sin()).float()


def scaled_frequencies(
    frequencies: torch.Tensor, scaling: RopeScaling, base: float, *, is_long: bool = False
) -> tuple[torch.Tensor, float]:
    """Rotary frequencies, in radians per position, after a scaling, and the factor of the rotated queries and keys; see
    `RopeScaling` for the sources."""
    factor, length = scaling.factor or 1.0, scaling.original_positions or 1
    turns = length * frequencies / (2 * math.pi)  # within a sequence of the original length
    if scaling.kind == "linear":
        return frequencies / factor, 1.0
    if scaling.kind == "llama3":
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        assert low is not None and high is not None
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        return frequencies * (kept + (1 - kept) / factor), 1.0
    if scaling.kind == "longrope":
        divisors = scaling.long_factors if is_long else scaling.short_factors
        return frequencies / torch.tensor(divisors, dtype=torch.float64), scaling.attention_factor or 1.0
    if scaling.kind == "yarn":
        count = len(frequencies)
        # Index of the frequency that makes so many turns, not rounded.
        edges = [
            count * math.log(length / (2 * math.pi * turns)) / math.log(base)
            for turns in (scaling.beta_fast or 32, scaling.beta_slow or 1)
        ]
        if scaling.rounds_edges is not False:
            edges = [math.floor(edges[0]), math.ceil(edges[1])]
        first, last = max(edges[0], 0), min(edges[1], 2 * count - 1)
        width = last - first or 0.001  # a step, as in the released code
        kept = 1 - ((torch.arange(count, dtype=torch.float64) - first) / width).clamp(0, 1)
        magnitude = scaling.attention_factor or 0.1 * math.log(factor) + 1
        return frequencies * (kept + (1 - kept) / factor), magnitude
    return frequencies, 1.0  # ntk, which is in the base


def rotate(
    x_SBHE: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    interleaved: bool = False,
    positions_SB: torch.Tensor | None = None,
) -> torch.Tensor:
    """Rotate each pair of a head, or of its first part, by the angle of its position.

    Computed in fp32, because neighbouring late positions at low frequencies differ by less than bf16 resolves.

    Args:
        cos, sin: [maximum positions, R / 2] for the first R entries of a head; the others stay as they are.
        interleaved: the pairs are (2i, 2i + 1), as in transformers' Cohere, else (i, i + R/2), as in its LLaMA.
        positions_SB: position of each token; None: its place in the sequence.
    """
    size = 2 * cos.shape[-1]
    if size < x_SBHE.shape[-1]:
        first, rest = x_SBHE.split([size, x_SBHE.shape[-1] - size], dim=-1)
        return torch.cat([rotate(first, cos, sin, interleaved=interleaved, positions_SB=positions_SB), rest], dim=-1)
    sequence_length = x_SBHE.shape[0]
    if positions_SB is None:
        cos, sin = cos[:sequence_length, None, None, :], sin[:sequence_length, None, None, :]
    else:
        cos, sin = cos[positions_SB].unsqueeze(2), sin[positions_SB].unsqueeze(2)
    if uses_plain(x_SBHE):
        return rotated(x_SBHE, cos, sin, interleaved)
    result: torch.Tensor = Rotation.apply(x_SBHE, cos, sin, interleaved)
    return result


def alibi_slopes(heads: int) -> torch.Tensor:
    """Slope of each head, fp32 [H]: a score falls by the slope for each token of distance.

    2^(-8i/H), i = 1 … H, for a power of two; for other head counts the slopes of the next lower power of two, then
    every second slope of twice that number.

    Source: Press et al. 2021, arXiv:2108.12409, section 3, and the authors' released code for other head counts.
    """
    lower = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8 * i / lower) for i in range(1, lower + 1)]
    slopes += [2.0 ** (-8 * i / (2 * lower)) for i in range(1, 2 * (heads - lower) + 1, 2)]
    return torch.tensor(slopes, dtype=torch.float32)
