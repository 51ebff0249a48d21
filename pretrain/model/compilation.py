"""torch's compiler: which runs use it, and what keeps it from falling back to slow code in silence."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import torch

VARIANTS_OF_A_LENGTH = 4
"""Graphs of one sequence length: with gradients and without, for evaluation; and with one and several heads of keys
where tensor ranks differ, or a last, smaller chunk of logits. Each chunk and each length is compiled for its shape."""


def is_compiled(choice: Literal["auto", "on", "off"], device: torch.device) -> bool:
    """Whether a run with this `compile` setting compiles. `auto`: on GPUs only; a CPU has its own functions."""
    return choice == "on" or (choice == "auto" and device.type == "cuda")


def refuse_fallbacks(sequence_lengths: Sequence[int], kinds_of_blocks: int = 1) -> None:
    """Allow as many graphs as these lengths need, and make it an error where torch would go on without compiling.

    By default torch compiles a function eight times and then runs it uncompiled; FlexAttention would then keep all
    scores in memory, S × S a head, and only warn.

    Args:
        kinds_of_blocks: number of kinds of blocks by which of their weights are trained, each with graphs of its own.
    """
    import torch._dynamo.config  # here: importing it takes a second, and runs without the compiler do not need it

    torch._dynamo.config.recompile_limit = VARIANTS_OF_A_LENGTH * (1 + len(set(sequence_lengths))) * kinds_of_blocks
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    warnings.filterwarnings("error", message="flex_attention called without torch.compile")
