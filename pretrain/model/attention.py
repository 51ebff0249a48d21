"""Self-attention, heads split over the tensor axis.

Each token attends to a half-open range of positions, two integers per token (`layout.py`), so that no mask of S × S
booleans is needed: on a CPU each block of queries compares positions, on a GPU FlexAttention skips whole tiles.

Under context parallelism a rank has the queries of some positions and gathers the keys and values of all, see
`context.py`: Q queries, S keys.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pretrain.config import ModelConfig
from pretrain.model import plain
from pretrain.model.collectives import GatherHeads
from pretrain.model.cpu.attention import BlockAttention
from pretrain.model.dropout import ATTENTION_WEIGHTS, AttentionDropout, site
from pretrain.model.flex import causal_mask, flex_attention, mask_of
from pretrain.model.gradients import GatherShared
from pretrain.model.layout import POSITION, windowed
from pretrain.model.linear import TensorParallel, product
from pretrain.model.norm import make_head_norm
from pretrain.model.partition import Partition
from pretrain.model.plain import uses_plain
from pretrain.model.positions import alibi_slopes, rotary_table, rotate
from pretrain.model.recomputation import recompute

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


def causal_attention(
    q_BHQE: torch.Tensor,
    k_BKSE: torch.Tensor,
    v_BKSE: torch.Tensor,
    slopes_H: torch.Tensor | None = None,
    layout_BQC: torch.Tensor | None = None,
    dropout: AttentionDropout | None = None,
    tile_mask: BlockMask | None = None,
    places_Q: torch.Tensor | None = None,
    soft_cap: float | None = None,
) -> torch.Tensor:
    """Softmax(capped(q kᵀ / sqrt(E)) - slope · distance) v. Returns [B, H, Q, E].

    H must be a multiple of K: each key/value head serves H / K query heads (Ainslie et al. 2023, arXiv:2305.13245).

    Args:
        slopes_H: ALiBi's slopes, fp32; None: no ALiBi.
        layout_BQC: range of positions that each query attends to, see `pretrain/model/layout.py`; None: itself and all
            earlier ones.
        dropout: dropout of the weights after the softmax.
        tile_mask: FlexAttention's mask, see `Attention.tile_mask`; None: another kernel is used.
        places_Q: place of each query among the keys, for which there must be a layout; None: queries are at all places.
        soft_cap: bound of the scores, see `plain.soft_capped`; None: none.
    """
    if places_Q is None:
        places_Q = torch.arange(q_BHQE.shape[2], device=q_BHQE.device)
    if uses_plain(q_BHQE):
        if dropout is None and slopes_H is None and layout_BQC is None and soft_cap is None:
            return plain.causal_attention(q_BHQE, k_BKSE, v_BKSE)
        if tile_mask is not None:
            return flex_attention(q_BHQE, k_BKSE, v_BKSE, slopes_H, tile_mask, places_Q, soft_cap)
        return plain.attention_of_scores(q_BHQE, k_BKSE, v_BKSE, slopes_H, layout_BQC, dropout, places_Q, soft_cap)
    groups = q_BHQE.shape[1] // k_BKSE.shape[1]
    if groups > 1:
        k_BKSE = k_BKSE.repeat_interleave(groups, dim=1)
        v_BKSE = v_BKSE.repeat_interleave(groups, dim=1)
    result: torch.Tensor = BlockAttention.apply(
        q_BHQE, k_BKSE, v_BKSE, slopes_H, layout_BQC, dropout, places_Q, soft_cap
    )
    return result


def is_on_gpu(x: torch.Tensor) -> bool:
    """Whether FlexAttention, which has no gradients on a CPU, can be used."""
    return x.is_cuda


class Attention(nn.Module):
    """Fused query/key/value projection, rotary positions or ALiBi, attention, output projection.

    With fewer key/value heads than tensor ranks, each rank projects an equal share of their rows, and the ranks
    exchange the results, a small part of the layer's traffic. So every row is stored, updated and counted once, and a
    checkpoint is the same under any degree.
    """

    def __init__(
        self, config: ModelConfig, tensor_parallel: TensorParallel, layer_index: int, *, recompute_scores: bool = False
    ) -> None:
        super().__init__()
        heads, kv_heads, degree = config.attention_heads, config.key_value_heads, tensor_parallel.degree
        self.dropout = config.attention_dropout
        # A tensor, so that one compiled graph serves all layers.
        self.dropout_site = torch.tensor(site(layer_index, ATTENTION_WEIGHTS))
        self.first_head = tensor_parallel.rank * heads // degree
        self.head_size = config.head_size
        q_size, kv_size = heads * self.head_size, kv_heads * self.head_size
        blocks = q_size, kv_size, kv_size
        partition = Partition(0, blocks)
        self.local_blocks = partition.sizes(tensor_parallel.rank, degree)
        self.key_sizes = [partition.sizes(rank, degree)[1] for rank in range(degree)]
        self.query_key_value = tensor_parallel.column(config.hidden_size, blocks, config.query_key_value_biases)
        self.output = tensor_parallel.row(q_size, config.hidden_size, config.biases)
        self.normalises_all_heads = config.query_key_norm == "all_heads"
        self.query_norm, self.key_norm = (make_head_norm(config, n, tensor_parallel) for n in (heads, kv_heads))
        self.window = config.sliding_window if config.has_window(layer_index) else None
        # The kernels divide by sqrt(head size).
        self.query_scale = 1.0 if config.attention_scale is None else config.attention_scale * self.head_size**0.5
        self.soft_cap = config.attention_soft_cap
        self.group = tensor_parallel.group
        self.tensor_parallel, self.context = tensor_parallel, tensor_parallel.context
        self.recompute_scores = recompute_scores
        self.shared_head = tensor_parallel.rank * kv_heads // degree if kv_heads < degree else None
        self.interleaved = config.positions == "rotary_interleaved"
        # Plain attributes instead of buffers: `.bfloat16()` must not round them.
        self.rotary: tuple[torch.Tensor, torch.Tensor] | None = None
        self.long_rotary: tuple[torch.Tensor, torch.Tensor] | None = None
        self.original_positions: int | None = None
        self.slopes: torch.Tensor | None = None
        if config.is_rotary:
            theta, scaling = config.rope_theta, config.rope_scaling
            if self.window is not None and config.window_rope_theta is not None:
                theta, scaling = config.window_rope_theta, None
            table = partial(rotary_table, config.maximum_positions, config.rotary_size, theta, scaling)
            self.rotary = table()
            if scaling is not None and scaling.kind == "longrope":
                self.original_positions, self.long_rotary = scaling.original_positions, table(is_long=True)
        elif config.positions == "alibi":
            self.slopes = alibi_slopes(heads).chunk(degree)[tensor_parallel.rank]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Attention:
        """Move the tables with the module, without rounding them."""
        super()._apply(fn, recurse)
        device = self.query_key_value.weight.device
        if self.rotary is not None:
            self.rotary = self.rotary[0].to(device), self.rotary[1].to(device)
        if self.long_rotary is not None:
            self.long_rotary = self.long_rotary[0].to(device), self.long_rotary[1].to(device)
        if self.slopes is not None:
            self.slopes = self.slopes.to(device)
        self.dropout_site = self.dropout_site.to(device)
        return self

    def seen(self, x_SBD: torch.Tensor, layout_BSC: torch.Tensor | None) -> torch.Tensor | None:
        """The layout with this layer's sliding window, if it has one."""
        if self.window is None:
            return layout_BSC
        queries = self._queries(x_SBD)
        places_Q = self.context.places(queries, x_SBD.device)
        return windowed(layout_BSC, self.window, queries * self.context.degree, places_Q)

    def _queries(self, x_SBD: torch.Tensor) -> int:
        """Number of this rank's queries, of whose positions sequence parallelism divides `x` once more."""
        return len(x_SBD) * (self.group.size() if self.tensor_parallel.sequence else 1)

    def tile_mask(self, x_SBD: torch.Tensor, layout_BSC: torch.Tensor | None, keys_B: torch.Tensor | None) -> Any:
        """The layout's mask for FlexAttention, the same for all layers; None where another kernel computes it."""
        drops = keys_B is not None and self.dropout > 0 and self.training
        is_fused = self.slopes is None and layout_BSC is None and self.soft_cap is None
        if not is_on_gpu(x_SBD) or drops or is_fused:
            return None
        queries = self._queries(x_SBD)
        if layout_BSC is None:
            return causal_mask(queries, x_SBD.device)
        return mask_of(layout_BSC, queries * self.context.degree)

    def forward(
        self,
        x_SBD: torch.Tensor,
        layout_BSC: torch.Tensor | None = None,
        keys_B: torch.Tensor | None = None,
        tile_mask: BlockMask | None = None,
    ) -> torch.Tensor:
        projected = product(self.query_key_value, x_SBD, keys_B)
        length, batch, _ = projected.shape
        q, k, v = projected.split(self.local_blocks, -1)
        if self.normalises_all_heads:
            q, k = self.query_norm(q), self.key_norm(k)
        q, k, v = (part.reshape(length, batch, -1, self.head_size) for part in (q, *self._own_heads(k, v)))
        if not self.normalises_all_heads:
            q, k = self.query_norm(q), self.key_norm(k)
        if self.rotary is not None:
            whole_length = length * self.context.degree
            is_long = self.original_positions is not None and whole_length > self.original_positions
            cos, sin = self.long_rotary if is_long and self.long_rotary is not None else self.rotary
            positions = None if layout_BSC is None else layout_BSC[..., POSITION].T
            q, k = (rotate(part, cos, sin, interleaved=self.interleaved, positions_SB=positions) for part in (q, k))
        if self.query_scale != 1.0:
            q = q * self.query_scale
        dropout = None
        if keys_B is not None and self.dropout and self.training:
            dropout = AttentionDropout(self.dropout, keys_B, self.dropout_site, self.first_head)
        places_Q = self.context.places(length, x_SBD.device)
        arguments = q, k, v, self.slopes, layout_BSC, dropout, tile_mask, places_Q, self.soft_cap

        def attend(q_QBHE: torch.Tensor, k_QBKE: torch.Tensor, v_QBKE: torch.Tensor, *others: Any) -> torch.Tensor:
            q_BHQE, k_BKSE, v_BKSE = (
                part.permute(1, 2, 0, 3) for part in (q_QBHE, *self.context.whole(k_QBKE, v_QBKE))
            )
            return causal_attention(q_BHQE, k_BKSE, v_BKSE, *others)

        # What is recomputed begins at this rank's own keys and values, so that those of all ranks are not saved.
        mixed_BHQE = recompute(attend, *arguments) if self.recompute_scores else attend(*arguments)
        return product(self.output, mixed_BHQE.permute(2, 0, 1, 3).reshape(length, batch, -1), keys_B)

    def _own_heads(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the heads that this rank's queries attend to."""
        if self.shared_head is None:
            return k, v
        gather = GatherHeads if torch.compiler.is_compiling() else GatherShared
        whole_k, whole_v = (gather.apply(part, self.key_sizes, self.group) for part in (k, v))
        own = slice(self.shared_head * self.head_size, (self.shared_head + 1) * self.head_size)
        return whole_k[..., own], whole_v[..., own]
