"""Patches of DeepSpeed 0.19.8, one function each.

Each has a test in `tests/unit/pretrain/engine/test_deepspeed_patches.py` that fails once DeepSpeed no longer needs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from pretrain.device import local_device
from pretrain.engine.library import (
    BF16_Optimizer,
    DeepSpeedZeroOptimizer,
    NoopTimer,
    deepspeed,
    get_global_norm_of_tensors,
)


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


def reduce_in_place(engine: Any) -> None:
    """Average the accumulated gradients over the data axis where they are, with the same bits; one rank has none to
    average.

    Cause: DeepSpeed 0.19.8 copies up to 500 million of them, 4 bytes each, into a buffer and back, also for one rank.
    """

    def reduce() -> None:
        group = engine.mpu.get_data_parallel_group()
        ranks = dist.get_world_size(group)
        gradients = engine.optimizer.fp32_groups_gradients_flat if ranks > 1 else []
        for work in [dist.all_reduce(gradient, group=group, async_op=True) for gradient in gradients]:
            work.wait()
        for gradient in gradients:
            gradient.mul_(1.0 / ranks)

    engine._bf16_reduce_grads = reduce


def step_without_waiting(optimizer: BF16_Optimizer, norm_limit: Callable[[], float]) -> None:
    """Clip, apply or drop an update by numbers that stay on the device, with the same bits.

    Cause: DeepSpeed 0.19.8 asks on the host whether the gradient norm is finite, and whether it clips: a GPU then has
        nothing to do until the host has read the answer and queued the rest of the step.

    Args:
        norm_limit: gradient norm above which the update of this step is dropped, as it is where the norm is not finite.
    """
    inner = optimizer.optimizer

    @torch.no_grad()
    def step() -> None:
        gradients, _ = optimizer.get_grads_for_norm()
        norm = get_global_norm_of_tensors(gradients, mpu=optimizer.mpu)  # -1 where it is not finite
        is_finite = norm >= 0
        optimizer._global_grad_norm = torch.where(is_finite, norm, math.inf)
        clipped = optimizer.get_grads_for_norm(for_clipping=True)
        if clipped:
            torch._foreach_mul_(clipped, (optimizer.clip_grad / (norm + 1e-6)).clamp(max=1.0))
        inner.found_inf = (~is_finite | (norm > norm_limit())).float()  # with it, AdamW's kernel changes nothing
        for weights, gradient in zip(
            optimizer.fp32_groups_flat_partition, optimizer.fp32_groups_gradient_flat_partition, strict=True
        ):
            weights.grad = gradient
        inner.step()
        optimizer._lazy_init_hp_params_optimizer_state()
        optimizer.update_lp_params()
        optimizer.clear_hp_grads()

    optimizer.step = step


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
