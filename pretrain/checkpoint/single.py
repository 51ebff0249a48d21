"""The whole model of a checkpoint in one process, for comparison and inspection, not for training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from pretrain.checkpoint.layout import CheckpointError
from pretrain.checkpoint.read import BY_TOKEN
from pretrain.checkpoint.whole import WholeWeights, verified_weights
from pretrain.config import ModelConfig
from pretrain.device import group_alone
from pretrain.model.linear import TensorParallel
from pretrain.model.pipeline import WholeModel


def load_single_process_model(path: Path, base: Path | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model of a checkpoint written under any topology, as a function, in fp32 on the CPU; adapters are merged.

    Args:
        base: place of the checkpoint with the frozen weights, where that has moved; None: as recorded.

    Returns:
        tokens [B, S], int64 -> logits [B, S, vocabulary_size], fp32, padding rows cut off.

    Raises:
        CheckpointError: the checkpoint is damaged, or a parameter is missing or its shape does not match the settings.
    """
    weights = verified_weights(path, base)
    return single_process_model(weights, weights.model)


def single_process_model(weights: WholeWeights, config: ModelConfig) -> Callable[[torch.Tensor], torch.Tensor]:
    """What `load_single_process_model` returns, for a checkpoint that is open.

    Args:
        config: the checkpoint's model, or one that computes something else with the same weights, such as another
            scaling of its rotary frequencies.

    Raises:
        CheckpointError: a parameter is missing, or its shape does not match `config`.
    """
    tensor_parallel = TensorParallel(group_alone(), torch.float32)
    model = WholeModel(config, tensor_parallel).requires_grad_(False)
    for name, parameter in model.named_global_parameters():
        whole = weights.tensor(name)
        real = parameter[: config.vocabulary_size] if name in BY_TOKEN else parameter
        if whole.shape != real.shape:
            raise CheckpointError(
                f"{weights.path}: {name} has shape {tuple(whole.shape)}, the model {tuple(real.shape)}"
            )
        parameter.zero_()
        real.copy_(whole)

    @torch.no_grad()
    def logits(tokens_BS: torch.Tensor) -> torch.Tensor:
        return model(tokens_BS).transpose(0, 1)[..., : config.vocabulary_size].contiguous()

    return logits
