"""One small model of each family, for the tests."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from pretrain.checkpoint.read import BY_TOKEN
from pretrain.config import ModelConfig
from pretrain.device import group_alone
from pretrain.model.init import whole_weight
from pretrain.model.linear import TensorParallel
from pretrain.model.pipeline import WholeModel

SMALL: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama", "key_value_heads": 2, "rope_theta": 500.0},
    "llama-tied": {"family": "llama", "tied_embedding": True, "attention_head_size": 16},
    "gpt3": {"family": "gpt3", "feed_forward_size": 128},
    "bloom": {"family": "bloom", "feed_forward_size": 128},
    # Six heads, no power of two; and a vocabulary without padding rows.
    "bloom-6": {
        "family": "bloom",
        "hidden_size": 48,
        "attention_heads": 6,
        "key_value_heads": 6,
        "feed_forward_size": 192,
        "vocabulary_size": 256,
    },
    "llama-3.1": {
        "family": "llama",
        "key_value_heads": 2,
        "rope_theta": 50.0,
        "rope_scaling": {
            "kind": "llama3",
            "factor": 8.0,
            "low_frequency_factor": 1.0,
            "high_frequency_factor": 4.0,
            "original_positions": 20,
        },
    },
    "llama-linear": {"family": "llama", "rope_scaling": {"kind": "linear", "factor": 4.0}},
    "llama-yarn": {
        "family": "llama",
        "attention_head_size": 16,
        "rope_scaling": {"kind": "yarn", "factor": 4.0, "original_positions": 50, "beta_fast": 8.0},
    },
    "llama-longrope": {
        "family": "llama",
        "rope_scaling": {
            "kind": "longrope",
            "original_positions": 50,
            "short_factors": [1.0, 1.1, 1.2, 1.3],
            "long_factors": [1.0, 2.0, 3.5, 4.5],
            "attention_factor": 1.2,
        },
    },
    "llama-ntk": {"family": "llama", "rope_scaling": {"kind": "ntk", "factor": 3.0}},
    "qwen2": {"family": "qwen2", "key_value_heads": 2, "tied_embedding": True, "rope_theta": 1e6},
    "qwen2-windows": {"family": "qwen2", "key_value_heads": 2, "sliding_window": 20, "full_attention_first": 1},
    "qwen3": {"family": "qwen3", "key_value_heads": 2, "attention_head_size": 16},
    "mistral": {"family": "mistral", "key_value_heads": 2, "sliding_window": 20},
    "gemma2": {
        "family": "gemma2",
        "key_value_heads": 2,
        "attention_head_size": 16,
        "sliding_window": 20,
        "attention_scale": 24**-0.5,
        "attention_soft_cap": 0.5,
        "logit_soft_cap": 1.0,
    },
    "gemma2-three": {
        "family": "gemma2",
        "layers": 3,
        "sliding_window": 7,
        "full_attention_every": 3,
        "attention_soft_cap": 0.2,
        "logit_soft_cap": None,
        "tied_embedding": False,
    },
    "gemma3": {
        "family": "gemma3",
        "key_value_heads": 2,
        "attention_head_size": 16,
        "sliding_window": 20,
        "full_attention_every": 2,
        "attention_scale": 24**-0.5,
        "rope_scaling": {"kind": "linear", "factor": 8.0},
    },
    "olmo2": {"family": "olmo2", "key_value_heads": 2},
    "gpt_neox": {"family": "gpt_neox"},
    "gpt_neox-sequential": {"family": "gpt_neox", "block": "sequential", "rotary_share": 0.5, "tied_embedding": True},
    "opt": {"family": "opt"},
    "chatglm": {"family": "chatglm", "key_value_heads": 2},
    "palm": {"family": "palm", "key_value_heads": 1, "attention_head_size": 16, "logit_scale": 0.3},
    "baichuan": {"family": "baichuan"},
    "baichuan-alibi": {
        "family": "baichuan",
        "positions": "alibi",
        "hidden_size": 60,
        "attention_heads": 5,
        "key_value_heads": 5,
    },
    "baichuan2": {"family": "baichuan", "normalised_head": True, "maximum_z_loss": 2e-4},
    "glm": {"family": "glm"},
    "glm-gelu": {"family": "glm", "activation": "gelu", "feed_forward_size": 128},
    "glm-deepnorm": {
        "family": "glm",
        "block": "deepnorm",
        "positions": "rotary",
        "activation": "geglu",
        "initialisation": "deepnorm",
    },
}


def small_model(name: str) -> ModelConfig:
    sizes = {
        "vocabulary_size": 130,
        "hidden_size": 32,
        "layers": 2,
        "attention_heads": 4,
        "key_value_heads": 4,
        "feed_forward_size": 48,
        "maximum_positions": 200,
    }
    return ModelConfig.model_validate(sizes | SMALL[name])


def build(config: ModelConfig, seed: int = 3) -> WholeModel:
    """The model in this process with lively weights: norms away from one and biases away from zero."""
    model = WholeModel(config, TensorParallel(group_alone(), torch.float32))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_global_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            lively = whole_weight(name, tuple(parameter.shape), seed, config) + 0.1 * noise
            parameter.copy_(lively)
    return model


def without_padding(model: ModelConfig, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A parameter, or its gradient, without the rows that only fill the vocabulary up."""
    return tensor[: model.vocabulary_size] if name in BY_TOKEN else tensor


def random_tokens(config: ModelConfig, length: int = 150, batch: int = 2) -> torch.Tensor:
    """[B, S]; longer than a query block of the attention."""
    return torch.randint(0, config.vocabulary_size, (batch, length), generator=torch.Generator().manual_seed(11))


class InMemory:
    """A checkpoint of a model with lively weights, without a file."""

    step = 0

    def __init__(self, model: ModelConfig) -> None:
        self.config = {"model": model.model_dump(mode="json")}
        self.tensors = {
            key: without_padding(model, key, parameter.detach())
            for key, parameter in build(model).named_global_parameters()
        }

    def names(self) -> list[str]:
        return list(self.tensors)

    def tensor(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def is_stored(self, name: str) -> bool:
        return False

    def verified_meanwhile(self) -> AbstractContextManager[None]:
        return nullcontext()
