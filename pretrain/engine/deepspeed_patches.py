"""Patches of DeepSpeed 0.19.8, one function each.

Each has a test in `tests/unit/pretrain/engine/test_deepspeed_patches.py` that fails once DeepSpeed no longer needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pretrain.device import local_device
from pretrain.engine.library import BF16_Optimizer, DeepSpeedZeroOptimizer, NoopTimer, deepspeed


def disable_shared_memory_collective() -> None:
    """Keep DeepSpeed from building its shared-memory collective for CPUs.

    Cause: where a compiler is found, DeepSpeed 0.19.8 builds it at start-up, and its all-reduce ignores process groups.
    Without it DeepSpeed uses gloo.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def allow_stages_without_own_weights(optimizer: BF16_Optimizer) -> None:
    """Let a stage without weights of its own, such as a tied head alone, contribute zero to the gradient norm.

    Cause: DeepSpeed 0.19.8's bf16 optimizer fails on an empty list of gradients; its ZeRO optimizer adds zero.
    """
    gradients_for_norm = optimizer.get_grads_for_norm

    def never_empty(for_clipping: bool = False) -> Any:
        found = gradients_for_norm(for_clipping=for_clipping)
        if for_clipping or found[0]:
            return found
        return [torch.zeros(1, device=local_device())], found[1]

    optimizer.get_grads_for_norm = never_empty


def add_gradients_without_copies(optimizer: BF16_Optimizer) -> None:
    """Add a gradient in bf16 to its sum in fp32 in one pass, with the same bits.

    Cause: DeepSpeed 0.19.8 converts it to a copy in fp32 first, which takes 8 more bytes of traffic for each weight and
        micro-batch.
    """

    @torch.no_grad()
    def add(parameter: torch.nn.Parameter, group: int, index: int, clear_lp_grads: bool) -> None:
        if parameter.grad is None:
            return
        total = optimizer.fp32_groups_gradients[group][index]
        total.add_(parameter.grad.view(total.shape))
        parameter._hp_grad = total  # type: ignore[attr-defined]
        optimizer.fp32_groups_has_gradients[group][index] = True

    optimizer._update_hp_grad = add


def keep_no_times(engine: Any) -> None:
    """Switch off the engine's timers, which nobody reads.

    Cause: DeepSpeed 0.19.8 times each step, on a GPU with two events, and keeps all of them as long as it does not
        print.
    """
    engine.timers = NoopTimer()


def norm_without_copies(optimizer: DeepSpeedZeroOptimizer) -> None:
    """Compute the gradient norm from the norms of short parts of each gradient, which are copied within the cache.

    Cause: DeepSpeed 0.19.8 copies each gradient to fp64 for its norm, which takes 4 % of a step in fp32 on a CPU.
    """
    norm = optimizer.get_grad_norm_direct

    def norm_of_parts(gradients: Sequence[torch.Tensor], parameters: Sequence[Any], norm_type: float = 2) -> Any:
        return norm([_part_norms(gradient) for gradient in gradients], parameters, norm_type)

    optimizer.get_grad_norm_direct = norm_of_parts


PART_ELEMENTS = 1 << 15
"""Elements of a part of a gradient that is copied to fp64 at a time."""


def _part_norms(gradient: torch.Tensor) -> torch.Tensor:
    """Norms of consecutive parts of a gradient, fp64."""
    parts = gradient.reshape(-1).split(PART_ELEMENTS)
    norms = torch.stack([torch.linalg.vector_norm(part.double()) for part in parts])
    if getattr(gradient, "_zero_padding", False):
        norms._zero_padding = True  # type: ignore[attr-defined]
    return norms
