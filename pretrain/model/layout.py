"""The layout of a sample: the range of positions that each token attends to, and its own position.

Integers [B, S, C] that pass through the pipeline with the activations. A sample without a layout is a plain text: each
token attends to itself and all earlier tokens, and its position is its place in the sequence.
"""

from __future__ import annotations

from functools import lru_cache

import torch

FIRST_SEEN = 0
"""Column: first position that the token attends to."""
SEEN_END = 1
"""Column: one past the last position that the token attends to; for a token that also attends to later ones, more than
one past its own place."""
POSITION = 2
"""Column: the token's position for rotary and learned positions."""
BLOCK_POSITION = 3
"""Column: GLM's second position, the place within a blank, from 1; 0 outside (arXiv:2103.10360, section 2.3)."""
COLUMNS = 4


def causal_layout(batch: int, length: int, device: torch.device) -> torch.Tensor:
    """The layout of plain texts, [B, S, C], the same memory for every sample."""
    return _causal_layout(length, device)[None].expand(batch, length, COLUMNS)


def windowed(layout_BSC: torch.Tensor | None, window: int, length: int, places_S: torch.Tensor) -> torch.Tensor | None:
    """The layout in which a token attends to the last `window` tokens at most, itself included.

    Args:
        layout_BSC: of this rank's tokens; None: plain text, whose result is [1, S, C], the same for every sample.
        length: length of the whole sample.
        places_S: place in the sample of each of this rank's tokens.
    """
    if window >= length:
        return layout_BSC
    if layout_BSC is None:
        return _windowed_text(window, length, places_S.device)
    result: torch.Tensor | None = getattr(layout_BSC, "windowed", None)
    if result is None:  # kept with the layout, because all layers share it
        result = layout_BSC.clone()
        result[..., FIRST_SEEN] = torch.maximum(result[..., FIRST_SEEN], places_S - (window - 1))
        layout_BSC.windowed = result  # type: ignore[attr-defined]
    return result


@lru_cache(maxsize=4)
def _windowed_text(window: int, length: int, device: torch.device) -> torch.Tensor:
    layout_SC = _causal_layout(length, device).clone()
    layout_SC[:, FIRST_SEEN] = (layout_SC[:, POSITION] - (window - 1)).clamp_min(0)
    return layout_SC[None]


@lru_cache(maxsize=4)
def _causal_layout(length: int, device: torch.device) -> torch.Tensor:
    places = torch.arange(length, device=device)
    layout_SC = torch.zeros(length, COLUMNS, dtype=torch.int64, device=device)
    layout_SC[:, SEEN_END] = places + 1
    layout_SC[:, POSITION] = places
    return layout_SC
