"""Attention by blocks of queries, which is faster on a CPU than torch's fused attention."""

from __future__ import annotations

from typing import Any

import torch

from pretrain.model.dropout import AttentionDropout, drop_attention
from pretrain.model.layout import FIRST_SEEN, SEEN_END

QUERY_BLOCK = 128
"""Rows of a query block: twice as fast as torch's fused CPU attention in bf16 at sequence length 512."""


class BlockAttention(torch.autograd.Function):
    """Attention by blocks of queries. Written by hand, because autograd would allocate a zeroed tensor of the keys'
    shape for each block's slice of them, and save the weights in fp32 as well. N is batch × heads; Q queries, S keys.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_BHQE: torch.Tensor,
        k_BHSE: torch.Tensor,
        v_BHSE: torch.Tensor,
        slopes_H: torch.Tensor | None,
        layout_BQC: torch.Tensor | None,
        dropout: AttentionDropout | None,
        places_Q: torch.Tensor,
        soft_cap: float | None,
    ) -> torch.Tensor:
        batch, heads, queries, size = q_BHQE.shape
        ctx.scale, ctx.dropout, ctx.places = size**-0.5, dropout, places_Q
        q_NQE, k_NSE, v_NSE = (part.reshape(batch * heads, -1, size) for part in (q_BHQE, k_BHSE, v_BHSE))
        # One transfer for the whole layer: the range of keys that each query block needs.
        firsts = None if layout_BQC is None else layout_BQC[..., FIRST_SEEN].amin(0).tolist()
        ends = None if layout_BQC is None else layout_BQC[..., SEEN_END].amax(0).tolist()
        places = torch.arange(k_NSE.shape[1], device=q_BHQE.device)
        result_NQE = torch.empty_like(q_NQE, memory_format=torch.contiguous_format)
        kept: list[torch.Tensor] = []
        derivatives: list[torch.Tensor] = []  # of the scores that a soft cap makes, by those before it
        ctx.firsts = []
        for start in range(0, queries, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, queries)
            first = 0 if firsts is None else min(firsts[start:stop])
            end = stop if ends is None else max(ends[start:stop])
            seen = slice(first, end)
            scores = torch.baddbmm(
                q_NQE.new_empty(()), q_NQE[:, start:stop], k_NSE[:, seen].transpose(1, 2), beta=0, alpha=ctx.scale
            ).view(batch, heads, stop - start, end - first)
            if soft_cap is not None:
                scores, derivative = _soft_capped(scores, soft_cap)
                derivatives.append(derivative)
            if slopes_H is not None:
                distances = (places_Q[start:stop, None] - places[seen]).abs().to(torch.float32)
                # In fp32: bf16 cannot tell a distance of 300 from 301.
                scores = scores.float() - slopes_H[:, None, None] * distances
            if layout_BQC is None:
                # Only the square on the diagonal has later tokens to mask; the columns before it are all earlier ones.
                future = torch.ones(stop - start, stop - start, dtype=torch.bool, device=scores.device).triu(1)
                scores[..., start:].masked_fill_(future, float("-inf"))
            else:
                rows = layout_BQC[:, None, start:stop, :, None]
                unseen = (places[seen] < rows[..., FIRST_SEEN, :]) | (places[seen] >= rows[..., SEEN_END, :])
                scores.masked_fill_(unseen, float("-inf"))
            weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(v_NSE.dtype)
            kept.append(weights)
            ctx.firsts.append(first)
            dropped = _dropped(weights, dropout, places_Q[start:stop], first)
            torch.bmm(dropped.flatten(0, 1), v_NSE[:, seen], out=result_NQE[:, start:stop])
        ctx.save_for_backward(q_NQE, k_NSE, v_NSE, *kept, *derivatives)
        return result_NQE.view(batch, heads, queries, size)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q_NQE, k_NSE, v_NSE, *saved = ctx.saved_tensors
        kept, derivatives = saved[: len(ctx.firsts)], saved[len(ctx.firsts) :]
        shape = grad_outputs[0].shape
        grad_NQE = grad_outputs[0].reshape(q_NQE.shape)
        grad_q = torch.empty_like(grad_NQE, memory_format=torch.contiguous_format)
        grad_k, grad_v = (torch.zeros_like(k_NSE, memory_format=torch.contiguous_format) for _ in range(2))
        for block_index, weights in enumerate(kept):
            start = block_index * QUERY_BLOCK
            block = slice(start, start + weights.shape[2])
            places_Q, first = ctx.places[block], ctx.firsts[block_index]
            seen = slice(first, first + weights.shape[3])
            dropped = _dropped(weights, ctx.dropout, places_Q, first)
            grad_v[:, seen].baddbmm_(dropped.flatten(0, 1).transpose(1, 2), grad_NQE[:, block])
            grad_weights = torch.bmm(grad_NQE[:, block], v_NSE[:, seen].transpose(1, 2)).view_as(weights)
            grad_weights = _dropped(
                grad_weights, ctx.dropout, places_Q, first
            )  # dropout is linear: its gradient applies the same mask
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            if derivatives:
                grad_scores.mul_(derivatives[block_index])
            grad_scores = grad_scores.flatten(0, 1)
            torch.baddbmm(grad_q[:, block], grad_scores, k_NSE[:, seen], beta=0, alpha=ctx.scale, out=grad_q[:, block])
            grad_k[:, seen].baddbmm_(grad_scores.transpose(1, 2), q_NQE[:, block], alpha=ctx.scale)
        keys_shape = *shape[:2], -1, shape[3]
        return grad_q.view(shape), grad_k.view(keys_shape), grad_v.view(keys_shape), None, None, None, None, None


def _dropped(
    weights_BHQK: torch.Tensor, dropout: AttentionDropout | None, places_Q: torch.Tensor, first_key: int
) -> torch.Tensor:
    if dropout is None:
        return weights_BHQK
    return drop_attention(
        weights_BHQK, dropout.rate, dropout.keys_B, dropout.site, dropout.first_head, places_Q, first_key
    )


def _soft_capped(scores: torch.Tensor, cap: float) -> tuple[torch.Tensor, torch.Tensor]:
    """cap · tanh(scores / cap) in fp32, and its derivative by the scores in their type."""
    shares = (scores.float() / cap).tanh_()
    derivative = (1 - shares.square()).to(scores.dtype)
    return shares.mul_(cap), derivative
