"""The twin in a single process: a plain training loop without DeepSpeed, sharding, pipeline, recomputation or compiler.

Every rank computes all of it, so that each compares its own part and nothing whole crosses the network.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from pretrain.check.samples import RandomSamples
from pretrain.checkpoint.read import BY_TOKEN
from pretrain.config import TrainConfig
from pretrain.data.device_batches import mapped
from pretrain.device import group_alone
from pretrain.model.init import whole_weight
from pretrain.model.linear import TensorParallel, is_row_parallel
from pretrain.model.loss import LossSettings, mean_loss
from pretrain.model.pipeline import WholeModel

ROWS_AT_ONCE = 8
"""Samples of a pass, so that a large global batch needs no more memory than a small one."""
NOISE = 0.1
"""Standard deviation of what is added to weights that begin at one or zero, and which could hide a fault there."""


class _RoundAgain(torch.autograd.Function):
    """Each value, and each gradient on the way back, goes up or down by at most one place of its type at random."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        ctx.generator = generator
        return _rounded_again(x, generator)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _rounded_again(grad_outputs[0], ctx.generator), None


def _rounded_again(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    shares = 2 * torch.rand(x.shape, generator=generator, device=x.device) - 1
    return (x.float() * (1 + torch.finfo(x.dtype).eps * shares)).to(x.dtype)


def twin_weight(name: str, shape: tuple[int, ...], config: TrainConfig) -> torch.Tensor:
    """A whole weight of the twin, fp32: its initial value, noisy where that is a constant; padding rows are zero."""
    weight = whole_weight(name, shape, config.seed, config.model)
    if name.endswith(("norm.weight", ".bias", ".lora.b")):
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        weight = weight + NOISE * torch.randn(shape, generator=generator)
    if name in BY_TOKEN:
        weight[config.model.vocabulary_size :] = 0
    return weight


class Reference:
    """The twin on this rank's device, whole.

    Attributes:
        weights: fp32 weights by name, which AdamW updates; those that are not trained included.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self._config, self._device = config, device
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self._group = group_alone()
        tensor_parallel = TensorParallel(self._group, dtype, deterministic=config.deterministic)
        self._model = WholeModel(config.model, tensor_parallel, config.adapter).to(device).train()
        self._parameters = dict(self._model.named_global_parameters())
        self.weights = {
            name: twin_weight(name, tuple(parameter.shape), config).to(device)
            for name, parameter in self._parameters.items()
        }
        trained = config.trained_shapes
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in trained)
        self._copy_to_model()
        model = config.model
        self._loss = LossSettings(
            model.vocabulary_size,
            model.label_smoothing,
            model.z_loss,
            model.maximum_z_loss,
            logit_soft_cap=model.logit_soft_cap,
        )

    def gradients(self, samples: RandomSamples) -> tuple[float, dict[str, torch.Tensor]]:
        """Loss and gradients over a global batch, by name, fp32."""
        total = torch.zeros((), device=self._device)
        sums = {
            name: torch.zeros_like(self.weights[name])
            for name, parameter in self._parameters.items()
            if parameter.requires_grad
        }
        for start in range(0, samples.size, ROWS_AT_ONCE):
            rows = np.arange(start, min(start + ROWS_AT_ONCE, samples.size))
            loss = self._loss_of(samples, rows) * (len(rows) / samples.size)
            loss.backward()
            total += loss.detach()
            for name, gradient in sums.items():
                own = self._parameters[name].grad
                if own is not None:
                    gradient += own
                self._parameters[name].grad = None
        return float(total), sums

    @contextmanager
    def rounded_again(self, seed: int) -> Iterator[None]:
        """Round each output of a row-parallel layer once more, as a tensor group does, which rounds the parts of the
        sum before it adds them.

        Args:
            seed: of the directions; another one gives other gradients of the same accuracy.
        """
        generator = torch.Generator(self._device).manual_seed(seed)

        def round_output(module: object, inputs: object, outputs: tuple[torch.Tensor, object]) -> tuple[object, object]:
            return _RoundAgain.apply(outputs[0], generator), outputs[1]

        with ExitStack() as stack:
            for layer in self._model.modules():
                if is_row_parallel(layer):
                    stack.callback(layer.register_forward_hook(round_output).remove)
            yield

    def update(self, gradients: dict[str, torch.Tensor], learning_rate: float) -> dict[str, torch.Tensor]:
        """Clip the gradients and apply AdamW's first update; returns what it added to each weight."""
        settings = self._config.optimizer
        updated, groups = {}, []
        for name, gradient in gradients.items():
            weight = torch.nn.Parameter(self.weights[name].clone())
            weight.grad = gradient.clone()
            scale = self._config.model.learning_rate_ratio(name, is_matrix=weight.ndim > 1)
            decay = settings.weight_decay / scale if weight.ndim > 1 else 0.0
            groups.append({"params": [weight], "lr": learning_rate * scale, "weight_decay": decay})
            updated[name] = weight
        torch.nn.utils.clip_grad_norm_(updated.values(), settings.gradient_clipping)
        torch.optim.AdamW(groups, betas=(settings.beta1, settings.beta2), eps=settings.epsilon).step()
        return {name: weight.detach() - self.weights[name] for name, weight in updated.items()}

    def _loss_of(self, samples: RandomSamples, rows: np.ndarray) -> torch.Tensor:
        inputs, (targets_BS, weights_BS) = mapped(lambda tensor: tensor.to(self._device), samples.batch(rows))
        factors = self._model.head_factors(inputs)
        return mean_loss(
            factors.x_SBD,
            factors.weight_VD,
            targets_BS.T.contiguous(),
            weights_BS.T,
            self._group,
            self._loss,
        )

    def _copy_to_model(self) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(self.weights[name])
