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


def windowed(layout_BSC: torch.Tensor | None, window: int, length: int, device: torch.device) -> torch.Tensor | None:
    """The layout in which a token attends to the last `window` tokens at most, itself included.

    Args:
        layout_BSC: None: plain text, whose result is [1, S, C], the same for every sample.
        length: S.
    """
    if window >= length:
        return layout_BSC
    if layout_BSC is None:
        return _windowed_text(window, length, device)
    result: torch.Tensor | None = getattr(layout_BSC, "windowed", None)
    if result is None:  # kept with the layout, because all layers share it
        result = layout_BSC.clone()
        first = torch.arange(length, device=device) - (window - 1)
        result[..., FIRST_SEEN] = torch.maximum(result[..., FIRST_SEEN], first)
        layout_BSC.windowed = result  # type: ignore[attr-defined]
    return result


@lru_cache(maxsize=4)
def _windowed_text(window: int, length: int, device: torch.device) -> torch.Tensor:
    places = torch.arange(length, device=device)
    layout_SC = torch.zeros(length, COLUMNS, dtype=torch.int64, device=device)
    layout_SC[:, FIRST_SEEN] = (places - (window - 1)).clamp_min(0)
    layout_SC[:, SEEN_END] = places + 1
    layout_SC[:, POSITION] = places
    return layout_SC[None]
