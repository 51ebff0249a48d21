"""The stages of the pipeline: embedding, block, head."""

from __future__ import annotations

import torch
from torch import nn

from pretrain.config import ModelConfig
from pretrain.model.attention import Attention
from pretrain.model.linear import TensorParallel
from pretrain.model.mlp import SwiGLU
from pretrain.model.norm import RMSNorm


class Embedding(nn.Module):
    """Token ids [B, S] to vectors [S, B, D]."""

    def __init__(self, config: ModelConfig, tensor_parallel: TensorParallel) -> None:
        super().__init__()
        self.embedding = tensor_parallel.embedding(config.padded_vocabulary_size, config.hidden_size)

    def forward(self, tokens_BS: torch.Tensor) -> torch.Tensor:
        return self.embedding(tokens_BS).transpose(0, 1).contiguous()


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: ModelConfig, tensor_parallel: TensorParallel) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_epsilon, tensor_parallel.dtype)
        self.attention = Attention(
            config.hidden_size,
            config.attention_heads,
            config.key_value_heads,
            config.maximum_positions,
            config.rope_theta,
            tensor_parallel,
        )
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_epsilon, tensor_parallel.dtype)
        self.mlp = SwiGLU(config.hidden_size, config.feed_forward_size, tensor_parallel)

    def forward(self, x_SBD: torch.Tensor) -> torch.Tensor:
        x = x_SBD + self.attention(self.attention_norm(x_SBD))
        return x + self.mlp(self.mlp_norm(x))


class Head(nn.Module):
    """Final norm and projection to this rank's slice of the vocabulary: [S, B, D] to logits [S, B, V]."""

    def __init__(self, config: ModelConfig, tensor_parallel: TensorParallel) -> None:
        super().__init__()
        self.final_norm = RMSNorm(config.hidden_size, config.norm_epsilon, tensor_parallel.dtype)
        self.head = tensor_parallel.column(config.hidden_size, (config.padded_vocabulary_size,))

    def forward(self, x_SBD: torch.Tensor) -> torch.Tensor:
        logits, _ = self.head(self.final_norm(x_SBD))
        return logits
