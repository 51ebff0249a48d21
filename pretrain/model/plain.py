"""Formulas as the papers write them, for GPUs and for compiled code; `cpu/` has those that are faster on a CPU.

torch's compiler turns them into few kernels, and derives their gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pretrain.model.dropout import AttentionDropout, drop_attention
from pretrain.model.layout import FIRST_SEEN, SEEN_END


def uses_plain(x: torch.Tensor) -> bool:
    """Whether `x` is computed with these formulas: on a GPU, and in compiled code on any device."""
    return x.is_cuda or torch.compiler.is_compiling()


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) · up of [.., gate and up]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def soft_capped(x: torch.Tensor, cap: float | None) -> torch.Tensor:
    """cap · tanh(x / cap), which is close to x where x is small and never beyond ±cap; without a cap x itself.

    Source: Gemma Team 2024, Gemma 2, arXiv:2408.00118, section 2.
    """
    return x if cap is None else cap * torch.tanh(x / cap)


def rotated(x_SBHE: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """Each pair of a head rotated by an angle, computed in fp32."""
    x32 = x_SBHE.float()
    if interleaved:
        first, second = x32.unflatten(-1, (-1, 2)).unbind(-1)
        pairs = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)
        return pairs.flatten(-2).to(x_SBHE.dtype)
    first, second = x32.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x_SBHE.dtype)


def causal_attention(q_BHSE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor) -> torch.Tensor:
    """torch's fused attention, each token attending to itself and all earlier ones."""
    k_BKSE, v_BKSE, shares = grouped_for_kernel(q_BHSE, k_BKSE, v_BKSE)
    return F.scaled_dot_product_attention(q_BHSE, k_BKSE, v_BKSE, is_causal=True, enable_gqa=shares)


def grouped_for_kernel(
    q_BHSE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Keys and values as a fused kernel takes them, and whether it shares them between heads: those for fp32 cannot, so
    that they get a copy for each head."""
    groups = q_BHSE.shape[1] // k_BKSE.shape[1]
    if groups > 1 and q_BHSE.dtype == torch.float32:
        k_BKSE, v_BKSE = (part.repeat_interleave(groups, dim=1) for part in (k_BKSE, v_BKSE))
        groups = 1
    return k_BKSE, v_BKSE, groups > 1


def attention_of_scores(
    q_BHQE: torch.Tensor,
    k_BKSE: torch.Tensor,
    v_BKSE: torch.Tensor,
    slopes_H: torch.Tensor | None,
    layout_BQC: torch.Tensor | None,
    dropout: AttentionDropout | None,
    places_Q: torch.Tensor,
    soft_cap: float | None = None,
) -> torch.Tensor:
    """Attention with all scores in memory, Q × S a head: for dropout of the weights, whose masks no fused kernel can
    reproduce, and for layouts, ALiBi and soft caps on a CPU."""
    _, heads, _, size = q_BHQE.shape
    groups = heads // k_BKSE.shape[1]
    if groups > 1:
        k_BKSE, v_BKSE = (part.repeat_interleave(groups, dim=1) for part in (k_BKSE, v_BKSE))
    scores = soft_capped((q_BHQE @ k_BKSE.transpose(2, 3)).float() * size**-0.5, soft_cap)
    places = torch.arange(k_BKSE.shape[2], device=q_BHQE.device)
    if slopes_H is not None:
        scores = scores - slopes_H[:, None, None] * (places_Q[:, None] - places).abs()
    if layout_BQC is None:
        unseen = places > places_Q[:, None]
    else:
        first_B1Q1, end_B1Q1 = layout_BQC[:, None, :, FIRST_SEEN, None], layout_BQC[:, None, :, SEEN_END, None]
        unseen = (places < first_B1Q1) | (places >= end_B1Q1)
    weights = torch.softmax(scores.masked_fill(unseen, float("-inf")), dim=-1).to(v_BKSE.dtype)
    if dropout is not None:
        weights = drop_attention(weights, dropout.rate, dropout.keys_B, dropout.site, dropout.first_head, places_Q)
    return weights @ v_BKSE
