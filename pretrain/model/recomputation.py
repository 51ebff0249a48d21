"""Activation recomputation: the backward pass computes activations again instead of saving them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.checkpoint import checkpoint


def recompute(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, of which only the arguments are saved for the backward pass.

    The random state is not saved: nothing in the model draws random numbers, see `dropout.py`.
    """
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
