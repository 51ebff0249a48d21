"""The stages of the pipeline: embedding, block, head.

Each stage passes on the activations, the layout of the samples where they have one, and the keys of the samples where
dropout is on. Dropout is active in training mode only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from pretrain.config import ModelConfig
from pretrain.model.attention import Attention
from pretrain.model.dropout import ATTENTION_OUTPUT, EMBEDDING, MLP_OUTPUT, drop_hidden, site
from pretrain.model.layout import BLOCK_POSITION, POSITION
from pretrain.model.linear import TensorParallel
from pretrain.model.mlp import MLP, GatedMLP
from pretrain.model.norm import make_norm


class Embedding(nn.Module):
    """Token ids [B, S] to vectors [S, B, D]; with tied weights, also the head."""

    def __init__(self, config: ModelConfig, tensor_parallel: TensorParallel) -> None:
        super().__init__()
        rows = config.padded_vocabulary_size(tensor_parallel.degree)
        self.embedding = tensor_parallel.embedding(rows, config.hidden_size)
        self.scale = config.hidden_size**0.5 if config.scaled_embedding else 1.0
        self.gradient_scale = config.embedding_gradient_scale
        self.logit_scale = config.logit_scale
        self.tensor_parallel = tensor_parallel

    def forward(
        self,
        tokens_BS: torch.Tensor,
        layout_BSC: torch.Tensor | None = None,
        keys_B: torch.Tensor | None = None,
    ) -> torch.Tensor:
        x_SBD = self.embedding(tokens_BS)
        if not self.tensor_parallel.sequence:  # with it, the layer has transposed and split the result
            x_SBD = x_SBD.transpose(0, 1).contiguous()
        x_SBD = _scaled(x_SBD, self.scale)
        if self.gradient_scale != 1.0 and x_SBD.requires_grad:
            x_SBD.register_hook(lambda grad_output: grad_output * self.gradient_scale)
        return x_SBD

    def head_factors(self, x_SBD: torch.Tensor) -> HeadFactors:
        return HeadFactors(self.tensor_parallel.whole(_scaled(x_SBD, self.logit_scale)), self.embedding.weight)


class EmbeddedPositions(nn.Module):
    """Learned positions, norm and dropout after the look-up, in the models that have them."""

    def __init__(self, config: ModelConfig, tensor_parallel: TensorParallel) -> None:
        super().__init__()
        rows, hidden, dtype = config.maximum_positions, config.hidden_size, tensor_parallel.dtype
        self.positions = nn.Embedding(rows, hidden, dtype=dtype) if config.positions.startswith("learned") else None
        self.block_positions = nn.Embedding(rows, hidden, dtype=dtype) if config.positions == "learned_2d" else None
        self.embedding_norm = make_norm(config, dtype) if config.embedding_norm else None
        self.dropout = config.hidden_dropout
        self.tensor_parallel = tensor_parallel

    def forward(
        self, x_SBD: torch.Tensor, layout_BSC: torch.Tensor | None = None, keys_B: torch.Tensor | None = None
    ) -> torch.Tensor:
        if self.positions is not None:
            own = self.tensor_parallel.places(x_SBD)[None]
            x_SBD = x_SBD + self._embedded(
                self.positions, own if layout_BSC is None else self._own(layout_BSC, POSITION)
            )
        if self.block_positions is not None and layout_BSC is not None:
            x_SBD = x_SBD + self._embedded(self.block_positions, self._own(layout_BSC, BLOCK_POSITION))
        elif self.block_positions is not None:
            x_SBD = x_SBD + self.block_positions(torch.zeros(1, 1, dtype=torch.int64, device=x_SBD.device))
        if self.embedding_norm is not None:
            x_SBD = self.embedding_norm(x_SBD)
        if keys_B is None or not self.dropout or not self.training:
            return x_SBD
        return drop_hidden(x_SBD, self.dropout, keys_B, EMBEDDING, self.tensor_parallel.places(x_SBD))

    def _own(self, layout_BSC: torch.Tensor, column: int) -> torch.Tensor:
        """A column at this rank's share of the positions, [B, S]."""
        return self.tensor_parallel.own_positions(layout_BSC[..., column], 1)

    def _embedded(self, table: nn.Embedding, rows_BS: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = table(rows_BS).transpose(0, 1)
        return result


class Block(nn.Module):
    """A transformer block: attention and MLP in sequence or in parallel, with the norms that `model.block` names.

    DeepNorm is LayerNorm(alpha · x + f(x)) (GLM-130B, arXiv:2210.02414, section 2.1). As in the released model, the
    norm after an MLP is the first norm of the next block, or the final norm, and the norm after the embedding is the
    first norm of the first block.
    """

    def __init__(
        self, config: ModelConfig, tensor_parallel: TensorParallel, layer_index: int, *, recompute_scores: bool = False
    ) -> None:
        super().__init__()
        mlp = GatedMLP if config.is_gated else MLP
        self.kind = config.block
        # Tensors, so that one compiled graph serves all layers.
        self.attention_site, self.mlp_site = (
            torch.tensor(site(layer_index, place)) for place in (ATTENTION_OUTPUT, MLP_OUTPUT)
        )
        self.dropout = config.hidden_dropout
        self.tensor_parallel = tensor_parallel
        self.residual_scale = deepnorm_alpha(config.layers)
        self.attention_norm = make_norm(config, tensor_parallel.dtype)
        self.attention = Attention(config, tensor_parallel, layer_index, recompute_scores=recompute_scores)
        if config.block == "sandwich":
            self.attention_post_norm = make_norm(config, tensor_parallel.dtype)
        if config.has_mlp_norm:
            self.mlp_norm = make_norm(config, tensor_parallel.dtype)
        self.mlp = mlp(config.hidden_size, config.feed_forward_size, config.activation, config.biases, tensor_parallel)
        if config.block == "sandwich":
            self.mlp_post_norm = make_norm(config, tensor_parallel.dtype)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Block:
        super()._apply(fn, recurse)
        device = next(self.parameters()).device
        self.attention_site, self.mlp_site = self.attention_site.to(device), self.mlp_site.to(device)
        return self

    def compile_graph(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile the block to one graph, which all layers share; a part that cannot be compiled is an error."""
        self._output = torch.compile(self._output, backend=backend, fullgraph=True, dynamic=False)  # type: ignore[method-assign]

    def forward(
        self, x_SBD: torch.Tensor, layout_BSC: torch.Tensor | None = None, keys_B: torch.Tensor | None = None
    ) -> torch.Tensor:
        layout_BSC = self.attention.seen(x_SBD, layout_BSC)
        return self._output(x_SBD, layout_BSC, keys_B, self.attention.tile_mask(x_SBD, layout_BSC, keys_B))

    def _output(
        self, x_SBD: torch.Tensor, layout_BSC: torch.Tensor | None, keys_B: torch.Tensor | None, tile_mask: Any
    ) -> torch.Tensor:
        def attention(x: torch.Tensor) -> torch.Tensor:
            return self._dropped(self.attention(x, layout_BSC, keys_B, tile_mask), keys_B, self.attention_site)

        def mlp(x: torch.Tensor) -> torch.Tensor:
            return self._dropped(self.mlp(x, keys_B), keys_B, self.mlp_site)

        if self.kind == "parallel":
            normed = self.attention_norm(x_SBD)
            return x_SBD + attention(normed) + mlp(normed)
        if self.kind == "parallel_two_norms":
            return x_SBD + attention(self.attention_norm(x_SBD)) + mlp(self.mlp_norm(x_SBD))
        if self.kind == "post_norm":
            x = x_SBD + self.attention_norm(attention(x_SBD))
            return x + self.mlp_norm(mlp(x))
        if self.kind == "sandwich":
            x = x_SBD + self.attention_post_norm(attention(self.attention_norm(x_SBD)))
            return x + self.mlp_post_norm(mlp(self.mlp_norm(x)))
        if self.kind == "deepnorm":
            x = self.attention_norm(x_SBD)
            x = self.mlp_norm(self.residual_scale * x + attention(x))
            return self.residual_scale * x + mlp(x)
        x = x_SBD + attention(self.attention_norm(x_SBD))
        return x + mlp(self.mlp_norm(x))

    def _dropped(self, x_SBD: torch.Tensor, keys_B: torch.Tensor | None, site: torch.Tensor) -> torch.Tensor:
        if keys_B is None or not self.dropout or not self.training:
            return x_SBD
        return drop_hidden(x_SBD, self.dropout, keys_B, site, self.tensor_parallel.places(x_SBD))


def deepnorm_alpha(layers: int) -> float:
    """Weight of the residual stream: sqrt(2 · layers). Source: GLM-130B, arXiv:2210.02414, section 2.1."""
    return float((2 * layers) ** 0.5)


class HeadFactors(NamedTuple):
    """Factors of the logits, x · weightᵀ. Training never has all logits in memory at once, see `head_loss.py`.

    Attributes:
        x_SBD: all positions, on every tensor rank.
        weight_VD: this rank's rows.
    """

    x_SBD: torch.Tensor
    weight_VD: torch.Tensor


class FinalNorm(nn.Module):
    """The norm before a tied head."""

    def __init__(self, config: ModelConfig, tensor_parallel: TensorParallel) -> None:
        super().__init__()
        self.final_norm = make_norm(config, tensor_parallel.dtype)

    def forward(
        self, x_SBD: torch.Tensor, layout_BSC: torch.Tensor | None = None, keys_B: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.final_norm(x_SBD)


class Head(nn.Module):
    """Final norm and projection to this rank's slice of the vocabulary."""

    def __init__(self, config: ModelConfig, tensor_parallel: TensorParallel) -> None:
        super().__init__()
        self.final_norm = make_norm(config, tensor_parallel.dtype)
        rows = config.padded_vocabulary_size(tensor_parallel.degree)
        self.head = tensor_parallel.column(config.hidden_size, (rows,))
        self.is_normalised = config.normalised_head
        self.logit_scale = config.logit_scale
        self.tensor_parallel = tensor_parallel

    def head_factors(self, x_SBD: torch.Tensor) -> HeadFactors:
        # NormHead: the length of a row has no effect, so that the rows of rare tokens cannot shrink.
        weight = F.normalize(self.head.weight) if self.is_normalised else self.head.weight
        x_SBD = _scaled(self.final_norm(x_SBD), self.logit_scale)  # scales the logits at a fraction of the cost
        return HeadFactors(self.tensor_parallel.whole(x_SBD), weight)


def _scaled(x: torch.Tensor, scale: float) -> torch.Tensor:
    return x if scale == 1.0 else x * scale
