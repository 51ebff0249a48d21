"""A batch size that grows from step to step: by the engine, and by a plain twin without shards or accumulation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from pretrain.checkpoint.read import BY_TOKEN
from pretrain.config import TrainConfig
from pretrain.data.objective import Batch
from pretrain.engine.engine import Engine
from pretrain.engine.processes import join_processes
from pretrain.model.init import whole_weight
from pretrain.model.linear import TensorParallel
from pretrain.model.pipeline import WholeModel
from pretrain.topology import Topology
from tests.distributed.cases import whole

LEARNING_RATE = 1e-3


def samples_of_step(config: TrainConfig, step: int) -> torch.Tensor:
    """[samples of this step, sequence length + 1], random tokens."""
    sizes = config.batch.sizes
    generator = torch.Generator().manual_seed(1000 + step)
    shape = (sizes.at(sizes.after(step)), config.data.sequence_length + 1)
    return torch.randint(0, config.model.vocabulary_size, shape, generator=generator)


def growing_batches(config: TrainConfig, topology: Topology, data_rank: int) -> Iterator[Batch]:
    step = 0
    while True:
        samples = samples_of_step(config, step)
        rows = samples.view(-1, topology.data, config.batch.micro_batch_size, samples.shape[1])[:, data_rank]
        yield from ((micro[:, :-1].contiguous(), micro[:, 1:].contiguous()) for micro in rows)
        step += 1


def train_growing(config: TrainConfig, topology: Topology, steps: int, fault: str = "") -> dict[str, Any]:
    """Losses, norms and gradients of every step, an evaluation after each, and the weights at the end."""
    join_processes(timeout_seconds=300)
    engine = Engine(config, topology)
    if fault == "gradients keep the first divisor":
        import deepspeed.runtime.engine as base

        accumulation = engine._engine.gradient_accumulation_steps()
        base.DeepSpeedEngine._backward_prologue_per_tensor = lambda self, gradient: (  # type: ignore[method-assign]
            None if gradient is None else gradient / accumulation
        )
    elif fault == "loss keeps the first divisor":
        accumulation = engine._engine.gradient_accumulation_steps()
        engine._engine._scale_loss_by_gas = lambda loss, eval_micro_batches=None: loss / accumulation
    gradients: list[Any] = []
    engine.before_update(lambda: gradients.append(whole(engine, engine.gradients())))
    batches, results, evaluations = growing_batches(config, topology, engine.coordinate.data), [], []
    sizes = config.batch.sizes
    for step in range(steps):
        size = sizes.at(sizes.after(step))
        results.append(engine.train_step(batches, LEARNING_RATE, batch_size=size))
        held_out = growing_batches(config, topology, engine.coordinate.data)
        first = config.accumulation_steps(topology.data, sizes.all[0])
        evaluations.append(engine.evaluate(held_out, first))
    return {
        "loss": [result.loss for result in results],
        "gradient_norm": [result.gradient_norm for result in results],
        "embedding_gradient_norm": [result.embedding_gradient_norm for result in results],
        "largest_logit": [result.largest_logit for result in results],
        "gradients": gradients,
        "evaluation": evaluations,
        "weights": whole(engine, dict(engine.parameters())),
    }


def train_twin(config: TrainConfig, steps: int) -> dict[str, Any]:
    """The same in plain torch, each batch in one piece."""
    join_processes(timeout_seconds=300)
    group = dist.group.WORLD
    assert group is not None
    model = WholeModel(config.model, TensorParallel(group, torch.float32))
    named = dict(model.named_global_parameters())
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(whole_weight(name, tuple(parameter.shape), config.seed, config.model))
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in named.values() if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in named.values() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
    )

    largest = []

    def loss_of(samples: torch.Tensor) -> torch.Tensor:
        logits_SBV = model(samples[:, :-1].contiguous())[..., : config.model.vocabulary_size]
        if torch.is_grad_enabled():
            largest.append(float(logits_SBV.detach().max()))
        return nn.functional.cross_entropy(logits_SBV.flatten(0, 1), samples[:, 1:].transpose(0, 1).flatten())

    losses, norms, gradients, evaluations = [], [], [], []
    for step in range(steps):
        loss = loss_of(samples_of_step(config, step))
        optimizer.zero_grad()
        loss.backward()
        gradients.append({name: _array(config, name, parameter.grad) for name, parameter in named.items()})
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clipping)))
        losses.append(float(loss))
        optimizer.step()
        with torch.no_grad():
            evaluations.append(float(loss_of(samples_of_step(config, 0))))
    return {
        "loss": losses,
        "gradient_norm": norms,
        "embedding_gradient_norm": [np.linalg.norm(gradient["embedding.weight"]) for gradient in gradients],
        "largest_logit": largest,
        "gradients": gradients,
        "evaluation": evaluations,
        "weights": {name: _array(config, name, parameter) for name, parameter in named.items()},
    }


def _array(config: TrainConfig, name: str, tensor: torch.Tensor | None) -> np.ndarray:
    assert tensor is not None
    rows = tensor[: config.model.vocabulary_size] if name in BY_TOKEN else tensor
    return rows.detach().float().numpy().copy()
