"""Initial weights: a function of (seed, parameter name, index in the whole tensor) and nothing else.

Every tensor, pipeline and data degree therefore starts from the same model, and a padded or split tensor holds the
same numbers as the whole one.
"""

from __future__ import annotations

import hashlib

import torch

from pretrain.config import ModelConfig


def whole_weight(name: str, shape: tuple[int, ...], seed: int, config: ModelConfig) -> torch.Tensor:
    """The whole initial tensor of a parameter, fp32.

    Norms start at one; matrices at N(0, initial_std²), those that write into the residual stream divided by
    sqrt(2 · layers), so that the stream's variance does not grow with depth (Radford et al. 2019, section 2.3).
    """
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    std = config.initial_std
    if name.endswith(("attention.output.weight", "mlp.down.weight")):
        std /= (2 * config.layers) ** 0.5
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.randn(shape, generator=generator) * std
