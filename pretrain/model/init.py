"""Initial weights: a function of (seed, parameter name, index in the whole tensor) and nothing else.

Every tensor, pipeline and data degree therefore starts from the same model, and a padded or split tensor has the same
values as the whole one.
"""

from __future__ import annotations

import hashlib

import torch

from pretrain.config import ModelConfig


def whole_weight(name: str, shape: tuple[int, ...], seed: int, config: ModelConfig) -> torch.Tensor:
    """The whole initial tensor of a parameter, fp32: norms at one, biases at zero, matrices normal.

    Standard deviation of the matrices, by `config.initialisation`:

    - residual_scaled: initial_std; divided by sqrt(2 · layers) for those that write into the residual stream, so that
      its variance does not grow with depth (Radford et al. 2019, section 2.3). With `base_hidden_size`, in a model of m
      times that width, divided by sqrt(m) in the blocks and by m in the head.
    - fan_in: 1 for the embedding and 1 / sqrt(inputs) for the others (PaLM, arXiv:2204.02311, section 5).
    - deepnorm: Xavier initialisation, times 1 / sqrt(2 · layers) for MLP, values and attention output (GLM-130B,
      arXiv:2210.02414, section 2.1); initial_std for the embedding.

    An adapter's A is uniform within ±1 / sqrt(inputs), as that of PEFT; its B is zero, so that it adds nothing at first
    (Hu et al. 2021, arXiv:2106.09685, section 4.1).
    """
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    if name.endswith((".bias", ".lora.b")):
        return torch.zeros(shape)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    if name.endswith(".lora.a"):
        return (2 * torch.rand(shape, generator=generator) - 1) * shape[1] ** -0.5
    return torch.randn(shape, generator=generator) * _standard_deviation(name, shape, config)


def _standard_deviation(name: str, shape: tuple[int, ...], config: ModelConfig) -> float | torch.Tensor:
    """Standard deviation of a matrix; [rows, 1] where it differs between rows."""
    is_embedding = not name.startswith("layers.") and not name.startswith("head.")
    residual = (2 * config.layers) ** -0.5
    if config.initialisation == "fan_in":
        return 1.0 if is_embedding else shape[1] ** -0.5
    if config.initialisation == "residual_scaled" or is_embedding or name.startswith("head."):
        std = config.initial_std
        if name.endswith(("attention.output.weight", "mlp.down.weight")):
            std /= (2 * config.layers) ** 0.5
        if config.initialisation == "residual_scaled" and not is_embedding:
            std /= config.width_ratio if name.startswith("head.") else config.width_ratio**0.5
        return std
    if not name.endswith("query_key_value.weight"):
        outputs = shape[0] // 2 if name.endswith("gate_up.weight") else shape[0]
        return residual * (2 / (outputs + shape[1])) ** 0.5
    blocks = config.attention_heads, config.key_value_heads, config.key_value_heads
    return torch.cat(
        [
            torch.full((heads * config.head_size, 1), gain * (2 / (heads * config.head_size + shape[1])) ** 0.5)
            for heads, gain in zip(blocks, (1.0, 1.0, residual), strict=True)
        ]
    )
