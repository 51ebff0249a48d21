"""What DeepSpeed 0.19.8 does otherwise than a run needs, one function each.

A test beside each (`tests/unit/pretrain/engine/test_deepspeed_patches.py`) fails once DeepSpeed no longer needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pretrain.device import local_device
from pretrain.engine.library import BF16_Optimizer, DeepSpeedZeroOptimizer, deepspeed
from pretrain.model.block import HeadFactors


def disable_shared_memory_collective() -> None:
    """DeepSpeed 0.19.8 would build a shared-memory collective for CPUs that ignores process groups; gloo does not."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def keep_head_gradient(head: HeadFactors) -> HeadFactors:
    """DeepSpeed 0.19.8 clears the weights' gradients in a hook on the last stage's outputs. A weight among these would
    have its gradient before the hook of the other is called; a view of it has a hook of its own."""
    return head._replace(weight_VD=head.weight_VD.view_as(head.weight_VD))


def allow_stages_without_own_weights(optimizer: BF16_Optimizer) -> None:
    """A last stage that is a tied head alone has nothing of its own to count in the gradient norm; DeepSpeed 0.19.8's
    bf16 optimizer then fails, where its ZeRO one adds zero."""
    gradients_for_norm = optimizer.get_grads_for_norm

    def never_empty(for_clipping: bool = False) -> Any:
        found = gradients_for_norm(for_clipping=for_clipping)
        if for_clipping or found[0]:
            return found
        return [torch.zeros(1, device=local_device())], found[1]

    optimizer.get_grads_for_norm = never_empty


def norm_without_copies(optimizer: DeepSpeedZeroOptimizer) -> None:
    """DeepSpeed 0.19.8 copies each gradient into fp64 to take its norm, which in fp32 is 4 % of a step on a processor.
    The norms of short stretches have the same norm, and a stretch is copied within the cache."""
    norm = optimizer.get_grad_norm_direct

    def of_stretches(gradients: Sequence[torch.Tensor], parameters: Sequence[Any], norm_type: float = 2) -> Any:
        return norm([_stretch_norms(gradient) for gradient in gradients], parameters, norm_type)

    optimizer.get_grad_norm_direct = of_stretches


_STRETCH = 1 << 15


def _stretch_norms(gradient: torch.Tensor) -> torch.Tensor:
    """fp64 norms of stretches of a gradient, each of `_STRETCH` numbers but the last."""
    norms = torch.stack([torch.linalg.vector_norm(part.double()) for part in gradient.reshape(-1).split(_STRETCH)])
    if getattr(gradient, "_zero_padding", False):
        norms._zero_padding = True  # type: ignore[attr-defined]
    return norms
