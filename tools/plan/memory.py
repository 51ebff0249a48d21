"""Memory of a training process.

Weights, gradients and optimizer state are counted exactly. Activations are counted on the real modules, built without
storage: what the backward pass of one block keeps. NCCL's buffers are the largest that its documentation allows. Not
counted are what the allocator cannot reuse, and the CUDA context: leave a tenth of the memory free.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

import pretrain.model.attention
from pretrain.config import TrainConfig
from pretrain.device import group_alone
from pretrain.model.context import ContextParallel
from pretrain.model.head_loss import LOGITS_BYTES
from pretrain.model.linear import TensorParallel
from pretrain.model.partition import partition_of
from pretrain.model.pipeline import PipelineLayer, pipeline_layers


@dataclass(frozen=True)
class Memory:
    """Memory of the fullest rank of a layout, in bytes.

    Attributes:
        state: weights, gradients, master weights and moments.
        activations: of all micro-batches that a stage holds at once.
        transient: what the largest layer makes on the way, once.
        update: what the update makes on the way, when there are no activations.
        communication: NCCL's buffers.
    """

    state: int
    activations: int
    transient: int
    update: int
    communication: int

    @property
    def working(self) -> int:
        """Bytes beside the state, at the fullest moment of a step."""
        return max(self.activations + self.transient, self.update) + self.communication

    @property
    def total(self) -> int:
        return self.state + self.working


def memory_of(config: TrainConfig, data: int, layers: Sequence[LayerCost] | None = None) -> Memory:
    """The memory of the fullest rank under the configuration's degrees and `data` processes on the data axis.

    Args:
        layers: what `layer_costs` says; None: count it.
    """
    from pretrain.engine.pipeline_module import stage_bounds  # takes seconds to import

    pipeline, context = config.parallel.pipeline, config.parallel.context
    replicas = data * context
    layers = layer_costs(config) if layers is None else layers
    micro_batches = config.accumulation_steps(data)
    ranks = []
    for stage, (start, stop) in enumerate(pairwise(stage_bounds([layer.flops for layer in layers], pipeline))):
        own = layers[start:stop]
        held = min(micro_batches, pipeline - stage)  # one forward, one backward: what has not come back yet
        trained, frozen = _weights_of(own, is_whole=(start, stop) == (0, len(layers)))
        orthogonalised = sum(layer.orthogonalised for layer in own)
        ranks.append(
            Memory(
                state=state_bytes(trained, config.precision, replicas, frozen, orthogonalised),
                activations=held * sum(layer.kept for layer in own),
                transient=max(layer.transient for layer in own),
                update=_update_bytes(config, trained, orthogonalised, replicas),
                communication=communicators(config.parallel.tensor, pipeline, data, context) * COMMUNICATOR_BYTES,
            )
        )
    return max(ranks, key=lambda rank: rank.total)


COMMUNICATOR_BYTES = 32 * (4 << 20)
"""Buffers of one NCCL communicator: 4 MiB (NCCL_BUFFSIZE) for each of up to 32 channels (NCCL_MAX_NCHANNELS); both are
defaults of NCCL's documentation, "Environment Variables". An upper estimate, which needs a GPU to be measured."""


def communicators(tensor: int, pipeline: int, data: int, context: int = 1) -> int:
    """NCCL communicators that a rank uses: of all ranks, of each axis (of data and context together), of a copy of the
    model, and with its neighbours in the pipeline. Those of a single rank have no buffers."""
    replicas = data * context
    groups = (tensor * pipeline * replicas, tensor, pipeline, replicas, tensor * pipeline, context)
    return sum(size > 1 for size in groups) + min(pipeline - 1, 2)


def _weights_of(own: Sequence[LayerCost], *, is_whole: bool) -> tuple[int, int]:
    """Trained and frozen weights of a stage with the layers `own`.

    Args:
        is_whole: the stage is the only one, so that a tied head is one with the embedding.
    """
    once = [layer for layer in own if not (is_whole and layer.is_tied)]
    frozen = sum(layer.frozen for layer in once)
    return sum(layer.weights for layer in once) - frozen, frozen


UPDATE_COPIES = 6
"""Copies of its range of the weights, in fp32, that Muon or Adafactor makes in an update (`pretrain/optimizers`): an
estimate, from what single processes hold at most."""


def _update_bytes(config: TrainConfig, trained: int, orthogonalised: int, replicas: int) -> int:
    """Bytes that the update makes on the way. AdamW's kernel makes none; in fp32, DeepSpeed copies the gradients. Muon
    gathers whole matrices from the tensor axis besides."""
    copied = 0 if config.precision == "bf16" else -(-trained * 4 // replicas)
    if config.optimizer.kind == "muon":
        copied += -(-orthogonalised * 4 // replicas) * (UPDATE_COPIES + config.parallel.tensor)
    elif config.optimizer.kind == "adafactor":
        copied += -(-trained * 4 // replicas) * UPDATE_COPIES
    return copied


def state_bytes(weights: int, precision: str, replicas: int, frozen: int = 0, orthogonalised: int = 0) -> int:
    """Bytes of a rank with `weights` trained weights, and `frozen` ones, which are a weight alone. Of the trained ones,
    `orthogonalised` are Muon's, which have one moment.

    bf16: weight 2, accumulated gradient 4; master weight 4 and moments 4 + 4, which ZeRO-1 divides over the replicas.
    A gradient in bf16 is freed as soon as it is added. fp32: weight 4, which is its own master weight, gradient 4;
    moments 4 + 4, which are divided.
    """
    whole, divided, alone = (6, 12, 2) if precision == "bf16" else (8, 8, 4)
    return weights * whole + -(-(weights * divided - orthogonalised * 4) // replicas) + frozen * alone


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer of the pipeline for a rank.

    Attributes:
        flops: by which layers are dealt to stages.
        weights: on this tensor rank, in numbers, those of adapters included.
        frozen: those of them that are not trained.
        orthogonalised: those of them that are Muon's.
        kept: bytes that the backward pass of one micro-batch needs.
        transient: bytes besides, while the layer itself runs.
    """

    flops: int
    weights: int
    frozen: int
    kept: int
    transient: int
    is_tied: bool = False
    orthogonalised: int = 0


def layer_costs(config: TrainConfig) -> list[LayerCost]:
    """Cost of each layer of the pipeline, on the tensor rank with the highest."""
    degree, model = config.parallel.tensor, config.model
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    alone = TensorParallel(group_alone(), dtype)
    trained = config.trained_shapes.keys()
    whole = pipeline_layers(model, config.data.sequence_length, alone, config.recomputation, config.adapter)
    # One rank's share computes like a smaller model of the same width; with sequence parallelism it is a share of all.
    split = 1 if config.parallel.sequence else degree
    share = model.model_copy(
        update={
            "attention_head_size": model.head_size,
            "attention_heads": model.attention_heads // split,
            "key_value_heads": max(1, model.key_value_heads // split),
            "feed_forward_size": model.feed_forward_size // split,
        }
    )
    context = config.parallel.context
    # Selective recomputation keeps a rank's own keys and values, and gathers again.
    gathers = context > 1 and config.recomputation != "selective"
    keeping = TensorParallel(group_alone(), dtype, context=_Repeated(context) if gathers else None)
    parts = pipeline_layers(share, config.data.sequence_length, keeping, adapter=config.adapter)
    tokens = config.batch.micro_batch_size * config.data.sequence_length // context
    between = tokens * model.hidden_size * dtype.itemsize * split // degree
    rows = model.padded_vocabulary_size(degree) // degree
    logits = tokens * rows * dtype.itemsize
    costs: list[LayerCost] = []
    previous: tuple[str, ...] | None = None
    for layer, part in zip(whole, parts, strict=True):
        with torch.device("meta"):
            parameters = {layer.prefix + name: parameter for name, parameter in layer.build().named_parameters()}
            sizes = {
                name: parameter.numel() // (degree if partition_of(parameter) else 1)
                for name, parameter in parameters.items()
            }
            orthogonalised = sum(
                sizes[name]
                for name, parameter in parameters.items()
                if name in trained and config.optimizer.is_orthogonalised(name, parameter.shape)
            )
        if layer.prefix:
            block = tuple(name.removeprefix(layer.prefix) for name in sizes if name in trained)
            if block == previous:
                costs.append(costs[-1])  # a block of which the same is trained as of the one before
                continue
            previous = block
        weights, frozen = sum(sizes.values()), sum(size for name, size in sizes.items() if name not in trained)
        if layer.is_head:
            # The loss keeps the gradients of what the head multiplies; of the logits, a part comes and goes, in the
            # precision of the weights and in fp32.
            is_trained = ("embedding.weight" if layer.tied else "head.weight") in trained
            head = (tokens + rows * is_trained) * model.hidden_size
            kept = (between if not layer.tied else 0) + head * dtype.itemsize
            at_once = min(logits, LOGITS_BYTES["cuda"])
            transient = at_once if dtype == torch.float32 else at_once + at_once // dtype.itemsize * 4
            costs.append(LayerCost(layer.flops, weights, frozen, kept, transient, is_tied=layer.tied is not None))
            continue
        kept = _kept_bytes(part, config, dtype) * split // degree
        transient = _gradient_bytes(config, tokens, dtype, sizes, trained) if layer.prefix else 0
        transient = max(transient, _gathered_bytes(config, dtype)) if layer.prefix and context > 1 else transient
        if layer.recompute:
            transient += kept
        kept = between if layer.recompute else kept
        costs.append(LayerCost(layer.flops, weights, frozen, kept, transient, orthogonalised=orthogonalised))
    return costs


def _gathered_bytes(config: TrainConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values of all positions and their gradients, which are fp32 while they are summed over the
    context axis."""
    model, tensor = config.model, config.parallel.tensor
    heads = 2 * max(1, model.key_value_heads // tensor)
    numbers = config.batch.micro_batch_size * config.data.sequence_length * heads * model.head_size
    return numbers * (2 * dtype.itemsize + 2 * 4)


def _gradient_bytes(
    config: TrainConfig, tokens: int, dtype: torch.dtype, sizes: Mapping[str, int], trained: Collection[str]
) -> int:
    """Bytes of the gradients that are there at once in a block's backward pass, which are most in its MLP: of the inner
    activations, and in bf16 of the largest weight, before it is added to its sum.

    Args:
        sizes: numbers of weights of a rank by name.
    """
    inner = (3 if config.model.is_gated else 2) * config.model.feed_forward_size // config.parallel.tensor
    largest = max((size for name, size in sizes.items() if name in trained), default=0)
    return (tokens * inner + (largest if dtype == torch.bfloat16 else 0)) * dtype.itemsize


def _kept_bytes(layer: PipelineLayer, config: TrainConfig, dtype: torch.dtype) -> int:
    """Bytes that autograd keeps of one micro-batch between this layer's forward and backward pass."""
    batch, hidden = config.batch.micro_batch_size, config.model.hidden_size
    length = config.data.sequence_length // config.parallel.context
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"), _attention_of_a_gpu(keeps_result=config.recomputation != "selective"):
        module = layer.build()
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(layer.prefix + name in config.trained_shapes)
        x: Any = torch.zeros(length, batch, hidden, dtype=dtype, requires_grad=True)
        if hasattr(module, "embedding"):
            x = torch.zeros(batch, length, dtype=torch.int64)
        own = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            result = module(x)
    del result
    return sum(size for key, size in kept.items() if key not in own)


class _Repeated(ContextParallel):
    """Keys and values of this rank in place of those that it would gather."""

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree

    def whole(self, *parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(part.repeat(self.degree, 1, 1, 1) for part in parts)


class _FlashAttention(torch.autograd.Function):
    """Keeps what torch's flash attention keeps: queries, keys, values, its result, and a number for each row."""

    @staticmethod
    def forward(
        ctx: Any, q_BHSE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor, keeps_result: bool
    ) -> torch.Tensor:
        batch, heads, length, size = q_BHSE.shape
        result = torch.empty(batch, length, heads, size, dtype=q_BHSE.dtype, device=q_BHSE.device).transpose(1, 2)
        log_sums = torch.empty(batch, heads, length, dtype=torch.float32, device=q_BHSE.device)
        ctx.save_for_backward(q_BHSE, k_BKSE, v_BKSE, *((result, log_sums) if keeps_result else ()))
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> None:
        raise AssertionError("only what is kept is asked for")


@contextmanager
def _attention_of_a_gpu(keeps_result: bool) -> Iterator[None]:
    """The model's CPU attention keeps its scores; a cluster's does not."""
    module: Any = pretrain.model.attention
    ours = module.causal_attention
    module.causal_attention = lambda q, k, v, *_: _FlashAttention.apply(q, k, v, keeps_result)
    try:
        yield
    finally:
        module.causal_attention = ours
