"""Self-attention, heads split over the tensor axis.

What a token sees is a half-open range of positions, two integers a token (`Layout`), so that no mask of S × S booleans
exists: on a CPU each block of queries compares positions for itself, on a GPU FlexAttention skips whole tiles.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from pretrain.config import ModelConfig
from pretrain.model.dropout import ATTENTION_WEIGHTS, drop_attention, site
from pretrain.model.flex import flex_attention
from pretrain.model.layout import FIRST_SEEN, POSITION, SEEN_END
from pretrain.model.linear import TensorParallel
from pretrain.model.partition import Partition
from pretrain.model.positions import alibi_slopes, rotary_table, rotate
from pretrain.model.recomputation import recompute

QUERY_BLOCK = 128
"""Rows of a query block on the CPU: twice as fast as torch's fused CPU attention in bf16 at sequence 512."""


class AttentionDropout(NamedTuple):
    """See `pretrain/model/dropout.py`."""

    rate: float
    keys_B: torch.Tensor
    site: int
    first_head: int


def causal_attention(
    q_BHSE: torch.Tensor,
    k_BKSE: torch.Tensor,
    v_BKSE: torch.Tensor,
    slopes_H: torch.Tensor | None = None,
    layout_BSC: torch.Tensor | None = None,
    dropout: AttentionDropout | None = None,
) -> torch.Tensor:
    """Softmax(q kᵀ / sqrt(E) - slope · distance) v. Returns [B, H, S, E].

    H must be a multiple of K: each key/value head serves H / K query heads (Ainslie et al. 2023, arXiv:2305.13245).

    Args:
        slopes_H: ALiBi's, fp32; none when left out.
        layout_BSC: which range of positions each token sees, see `pretrain/model/layout.py`; itself and those before it
            when left out.
        dropout: of the weights after the softmax; on a GPU the fused kernels have none that fits, so that it takes the
            query blocks too.
    """
    if q_BHSE.is_cuda and dropout is None:
        if slopes_H is None and layout_BSC is None:
            return F.scaled_dot_product_attention(q_BHSE, k_BKSE, v_BKSE, is_causal=True, enable_gqa=True)
        return flex_attention(q_BHSE, k_BKSE, v_BKSE, slopes_H, layout_BSC)
    groups = q_BHSE.shape[1] // k_BKSE.shape[1]
    if groups > 1:
        k_BKSE = k_BKSE.repeat_interleave(groups, dim=1)
        v_BKSE = v_BKSE.repeat_interleave(groups, dim=1)
    result: torch.Tensor = _BlockAttention.apply(q_BHSE, k_BKSE, v_BKSE, slopes_H, layout_BSC, dropout)
    return result


class _BlockAttention(torch.autograd.Function):
    """Attention by blocks of queries. By hand, because autograd would fill a tensor like the keys with zeros for each
    block's slice of them, and keep the weights in fp32 too. N is batch × heads."""

    @staticmethod
    def forward(
        ctx: Any,
        q_BHSE: torch.Tensor,
        k_BHSE: torch.Tensor,
        v_BHSE: torch.Tensor,
        slopes_H: torch.Tensor | None,
        layout_BSC: torch.Tensor | None,
        dropout: AttentionDropout | None,
    ) -> torch.Tensor:
        batch, heads, length, size = q_BHSE.shape
        ctx.scale, ctx.dropout = size**-0.5, dropout
        q_NSE, k_NSE, v_NSE = (part.reshape(batch * heads, length, size) for part in (q_BHSE, k_BHSE, v_BHSE))
        # One transfer for the whole layer: from where and how far each query block must look.
        firsts = None if layout_BSC is None else layout_BSC[..., FIRST_SEEN].amin(0).tolist()
        ends = None if layout_BSC is None else layout_BSC[..., SEEN_END].amax(0).tolist()
        places = torch.arange(length, device=q_BHSE.device)
        result_NSE = torch.empty_like(v_NSE, memory_format=torch.contiguous_format)
        kept = []
        ctx.firsts = []
        for start in range(0, length, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, length)
            first = 0 if firsts is None else min(firsts[start:stop])
            end = stop if ends is None else max(stop, *ends[start:stop])
            seen = slice(first, end)
            scores = torch.baddbmm(
                q_NSE.new_empty(()), q_NSE[:, start:stop], k_NSE[:, seen].transpose(1, 2), beta=0, alpha=ctx.scale
            ).view(batch, heads, stop - start, end - first)
            if slopes_H is not None:
                distances = (places[start:stop, None] - places[seen]).abs().to(torch.float32)
                # In fp32: a distance of 300 has no neighbour in bf16.
                scores = scores.float() - slopes_H[:, None, None] * distances
            if layout_BSC is None:
                # Only the square on the diagonal has a future to hide; the columns before it are all past.
                future = torch.ones(stop - start, stop - start, dtype=torch.bool, device=scores.device).triu(1)
                scores[..., start:].masked_fill_(future, float("-inf"))
            else:
                rows = layout_BSC[:, None, start:stop, :, None]
                unseen = (places[seen] < rows[..., FIRST_SEEN, :]) | (places[seen] >= rows[..., SEEN_END, :])
                scores.masked_fill_(unseen, float("-inf"))
            weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(v_NSE.dtype)
            kept.append(weights)
            ctx.firsts.append(first)
            dropped = _dropped(weights, dropout, start, first)
            torch.bmm(dropped.flatten(0, 1), v_NSE[:, seen], out=result_NSE[:, start:stop])
        ctx.save_for_backward(q_NSE, k_NSE, v_NSE, *kept)
        return result_NSE.view(batch, heads, length, size)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q_NSE, k_NSE, v_NSE, *kept = ctx.saved_tensors
        shape = upstream[0].shape
        upstream_NSE = upstream[0].reshape(q_NSE.shape)
        q_gradient = torch.empty_like(upstream_NSE, memory_format=torch.contiguous_format)
        k_gradient, v_gradient = torch.zeros_like(q_gradient), torch.zeros_like(q_gradient)
        for number, weights in enumerate(kept):
            start = number * QUERY_BLOCK
            block = slice(start, start + weights.shape[2])
            first = ctx.firsts[number]
            seen = slice(first, first + weights.shape[3])
            dropped = _dropped(weights, ctx.dropout, start, first)
            v_gradient[:, seen].baddbmm_(dropped.flatten(0, 1).transpose(1, 2), upstream_NSE[:, block])
            of_weights = torch.bmm(upstream_NSE[:, block], v_NSE[:, seen].transpose(1, 2)).view_as(weights)
            of_weights = _dropped(of_weights, ctx.dropout, start, first)  # linear, so its gradient is itself
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype).flatten(0, 1)
            torch.baddbmm(
                q_gradient[:, block], of_scores, k_NSE[:, seen], beta=0, alpha=ctx.scale, out=q_gradient[:, block]
            )
            k_gradient[:, seen].baddbmm_(of_scores.transpose(1, 2), q_NSE[:, block], alpha=ctx.scale)
        return q_gradient.view(shape), k_gradient.view(shape), v_gradient.view(shape), None, None, None


def _dropped(
    weights_BHQK: torch.Tensor, dropout: AttentionDropout | None, first_query: int, first_key: int
) -> torch.Tensor:
    if dropout is None:
        return weights_BHQK
    return drop_attention(
        weights_BHQK, dropout.rate, dropout.keys_B, dropout.site, dropout.first_head, first_query, first_key
    )


class _GatherShared(torch.autograd.Function):
    """Put the ranks' slices of the last dim, of these sizes, together; backward sums what all ranks send back and takes
    its slice."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sizes: list[int], group: dist.ProcessGroup) -> torch.Tensor:
        ctx.sizes, ctx.group = sizes, group
        longest = max(sizes)
        padded = F.pad(x, (0, longest - x.shape[-1])).contiguous()  # collectives want slices of one size
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[..., :size] for part, size in zip(parts, sizes, strict=True)], dim=-1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient = gradients[0].float()  # fp32: as many terms as ranks are summed
        dist.all_reduce(gradient, group=ctx.group)
        return gradient.split(ctx.sizes, dim=-1)[ctx.group.rank()].to(gradients[0].dtype), None, None


class Attention(nn.Module):
    """Fused query/key/value projection, rotary positions or ALiBi, attention, output projection.

    With fewer key/value heads than tensor ranks, each rank projects an equal share of their rows and the ranks exchange
    the results, a small part of the layer's traffic: so every row is stored, updated and counted once, and a checkpoint
    looks the same under any degree.
    """

    def __init__(
        self, config: ModelConfig, tensor_parallel: TensorParallel, number: int, *, recompute_scores: bool = False
    ) -> None:
        super().__init__()
        heads, kv_heads, degree = config.attention_heads, config.key_value_heads, tensor_parallel.degree
        self.dropout = config.attention_dropout
        self.dropout_site = site(number, ATTENTION_WEIGHTS)
        self.first_head = tensor_parallel.rank * heads // degree
        self.head_size = config.head_size
        q_size, kv_size = heads * self.head_size, kv_heads * self.head_size
        blocks = q_size, kv_size, kv_size
        partition = Partition(0, blocks)
        self.local_blocks = partition.sizes(tensor_parallel.rank, degree)
        self.key_sizes = [partition.sizes(rank, degree)[1] for rank in range(degree)]
        self.query_key_value = tensor_parallel.column(config.hidden_size, blocks, config.biases)
        self.output = tensor_parallel.row(q_size, config.hidden_size, config.biases)
        self.group = tensor_parallel.group
        self.recompute_scores = recompute_scores
        self.shared_head = tensor_parallel.rank * kv_heads // degree if kv_heads < degree else None
        self.interleaved = config.positions == "rotary_interleaved"
        # Plain attributes, no buffers: `.bfloat16()` must not round them.
        self.rotary: tuple[torch.Tensor, torch.Tensor] | None = None
        self.slopes: torch.Tensor | None = None
        if config.is_rotary:
            self.rotary = rotary_table(config.maximum_positions, self.head_size, config.rope_theta)
        elif config.positions == "alibi":
            self.slopes = alibi_slopes(heads).chunk(degree)[tensor_parallel.rank]

    def forward(
        self, x_SBD: torch.Tensor, layout_BSC: torch.Tensor | None = None, keys_B: torch.Tensor | None = None
    ) -> torch.Tensor:
        projected, _ = self.query_key_value(x_SBD)
        length, batch, _ = projected.shape
        parts = projected.split(self.local_blocks, -1)
        q, k, v = (part.reshape(length, batch, -1, self.head_size) for part in (parts[0], *self._own_heads(*parts[1:])))
        if self.rotary is not None:
            # Moved once: a copy in each forward pass would make the GPU wait.
            self.rotary = cos, sin = self.rotary[0].to(x_SBD.device), self.rotary[1].to(x_SBD.device)
            positions = None if layout_BSC is None else layout_BSC[..., POSITION].T
            q, k = (rotate(part, cos, sin, interleaved=self.interleaved, positions_SB=positions) for part in (q, k))
        if self.slopes is not None:
            self.slopes = self.slopes.to(x_SBD.device)
        q_BHSE, k_BKSE, v_BKSE = (part.permute(1, 2, 0, 3) for part in (q, k, v))
        dropout = None
        if keys_B is not None and self.dropout and self.training:
            dropout = AttentionDropout(self.dropout, keys_B, self.dropout_site, self.first_head)
        arguments = (q_BHSE, k_BKSE, v_BKSE, self.slopes, layout_BSC, dropout)
        mixed_BHSE = recompute(causal_attention, *arguments) if self.recompute_scores else causal_attention(*arguments)
        mixed, _ = self.output(mixed_BHSE.permute(2, 0, 1, 3).reshape(length, batch, -1))
        return mixed

    def _own_heads(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the heads that this rank's queries look at."""
        if self.shared_head is None:
            return k, v
        whole_k, whole_v = (_GatherShared.apply(part, self.key_sizes, self.group) for part in (k, v))
        own = slice(self.shared_head * self.head_size, (self.shared_head + 1) * self.head_size)
        return whole_k[..., own], whole_v[..., own]
