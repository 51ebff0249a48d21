"""Positions: rotary embedding."""

from __future__ import annotations

import torch


def rotary_table(sequence_length: int, head_size: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of every position and frequency, fp32, each [S, E / 2].

    Source: Su et al. 2021, arXiv:2104.09864, section 3.2.
    """
    frequencies = theta ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angles = torch.outer(torch.arange(sequence_length, dtype=torch.float64), frequencies)
    return angles.cos().float(), angles.sin().float()


def rotate(x_SBHE: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn each pair (i, i + E/2) of a head by its position's angle: the half-split layout, as transformers' LLaMA.

    Computed in fp32, since late positions of low frequencies differ by less than bf16 can tell.
    """
    sequence_length = x_SBHE.shape[0]
    cos = cos[:sequence_length, None, None, :]
    sin = sin[:sequence_length, None, None, :]
    first, second = x_SBHE.float().chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x_SBHE.dtype)
