"""Seconds of a training step, from the model's shapes, the layout, and the speeds of the hardware.

A kernel takes as long as its arithmetic or its memory traffic, whichever is more, and a fixed time. A collective takes
the bytes that a ring sends over the slowest link on its way, and a fixed time. A pipeline takes the slowest stage once
for each micro-batch, and all other stages once. Communication counts as far as nothing hides it.

Sources: Korthikanti et al. 2022, arXiv:2205.05198 (what a block computes and moves); Narayanan et al. 2021,
arXiv:2104.04473, section 3 (what is sent, and when); Isaev et al. 2023, DOI 10.1145/3581784.3607102 (calculon: such
terms for every layout).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Literal, NamedTuple

import torch

from pretrain.config import ModelConfig
from pretrain.device import group_alone
from pretrain.model.linear import TensorParallel
from pretrain.model.pipeline import pipeline_layers
from tools.plan.hardware import Hardware

Recomputation = Literal["none", "selective", "full"]


@dataclass(frozen=True)
class Layout:
    """How a step is divided.

    Attributes:
        tensor, pipeline, data: degrees of the axes.
        micro_batch_size: samples that a process computes at a time.
        micro_batches: micro-batches of a process in a step.
        sequence: whether norms and residuals are split over the tensor axis.
        interleaving: parts of the model that each stage has (Narayanan et al. 2021, section 2.2.2).
        context: ranks that share the tokens of a sample.
    """

    tensor: int
    pipeline: int
    data: int
    micro_batch_size: int
    micro_batches: int
    sequence: bool = False
    recomputation: Recomputation = "none"
    interleaving: int = 1
    context: int = 1

    @property
    def devices(self) -> int:
        return self.tensor * self.pipeline * self.replicas

    @property
    def replicas(self) -> int:
        """Ranks with the same weights."""
        return self.data * self.context

    @property
    def samples(self) -> int:
        """Samples of a step."""
        return self.micro_batches * self.micro_batch_size * self.data


@dataclass(frozen=True)
class Software:
    """What a program does that its shapes do not tell.

    Attributes:
        fused_attention: the scores are never in memory.
        dropout: there is dropout, which reads and writes the residuals once more.
        logit_bytes: bytes that the loss reads and writes for each logit of a rank, forward and backward.
        gradient_bytes: bytes of a gradient that the data axis sums.
        shards_optimizer: each rank of the data axis updates its share (ZeRO-1).
        overlaps_data: gradients are summed during the last backward pass, and weights gathered during the next forward.
        overlaps_pipeline: what is sent between stages is hidden.
        hidden_tensor: share of the tensor axis' traffic that pipelined products hide.
        even_stages: stages have the same number of blocks, or one less where embedding or head are (BLOOM); otherwise
            they are balanced by FLOPs, as ours.
    """

    fused_attention: bool = True
    dropout: bool = False
    logit_bytes: int = 20
    gradient_bytes: int = 4
    shards_optimizer: bool = True
    overlaps_data: bool = False
    overlaps_pipeline: bool = False
    hidden_tensor: float = 0.0
    even_stages: bool = False


ALTIPLANO = Software()
"""This program: flash attention; the loss computed in parts, in one pass over the logits and one for their gradient;
gradients summed in fp32 after the last backward pass (`pretrain/engine`)."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step by where they go, on the slowest stage.

    Attributes:
        products: matrix products of blocks and head.
        attention: attention itself.
        elementwise: norms, activations, residuals, the loss.
        recomputation: all that is computed twice, its traffic included.
        tensor: traffic of the tensor axis.
        context: keys and values gathered over the context axis, and their gradients.
        pipeline: traffic between stages.
        bubble: waiting while the pipeline fills and drains.
        data: gradients and weights of all replicas, over the data and context axes.
        optimizer: the update.
    """

    products: float = 0.0
    attention: float = 0.0
    elementwise: float = 0.0
    recomputation: float = 0.0
    tensor: float = 0.0
    context: float = 0.0
    pipeline: float = 0.0
    bubble: float = 0.0
    data: float = 0.0
    optimizer: float = 0.0

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))

    def __add__(self, other: StepTime) -> StepTime:
        return StepTime(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, factor: float) -> StepTime:
        return StepTime(*(getattr(self, field.name) * factor for field in fields(self)))

    def shares(self) -> list[tuple[str, float]]:
        """Share of the step by part, the largest first, without empty ones."""
        named = [(field.name, getattr(self, field.name) / self.total) for field in fields(self)]
        return sorted((item for item in named if item[1] > 0), key=lambda item: -item[1])


class _Kernels:
    """Seconds of kernels on one device."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware

    def product(self, m: float, k: float, n: float) -> float:
        """[m, k] × [k, n] in bf16."""
        arithmetic = 2 * m * k * n / self.hardware.product_rate
        return max(arithmetic, 2 * (m * k + k * n + m * n) / self.hardware.moving_rate) + self.hardware.launch

    def moved(self, size: float) -> float:
        """Read and write `size` bytes together."""
        return size / self.hardware.moving_rate + self.hardware.launch

    def attended(self, flops: float) -> float:
        """Fused attention of so many FLOPs."""
        return flops / self.hardware.attention_rate + self.hardware.launch


class BlockTime(NamedTuple):
    """Seconds of one block for one micro-batch.

    Attributes:
        attention_forward: what selective recomputation repeats.
    """

    forward: StepTime
    backward: StepTime
    attention_forward: float

    def both(self, recomputation: Recomputation) -> StepTime:
        """Forward and backward pass, and what is recomputed."""
        again = {"none": 0.0, "selective": self.attention_forward, "full": self.forward.total}[recomputation]
        return self.forward + self.backward + StepTime(recomputation=again)


def block_time(
    model: ModelConfig,
    sequence_length: int,
    layout: Layout,
    hardware: Hardware,
    software: Software = ALTIPLANO,
    trained_share: float = 1.0,
) -> BlockTime:
    """Seconds of one block on one rank.

    Args:
        trained_share: share of the weights whose gradients are computed.
    """
    kernels, t = _Kernels(hardware), layout.tensor
    samples, hidden, feed_forward = layout.micro_batch_size, model.hidden_size, model.feed_forward_size
    tokens = samples * sequence_length / layout.context
    queries = model.attention_heads * model.head_size
    keys_values = 2 * max(model.key_value_heads, t) * model.head_size  # a rank has at least one head
    gates = 2 if model.is_gated else 1
    into = [(hidden, (queries + keys_values) / t), (hidden, gates * feed_forward / t)]
    out = [(queries / t, hidden), (feed_forward / t, hidden)]
    forward = sum(kernels.product(tokens, k, n) for k, n in into + out)
    inputs = sum(kernels.product(tokens, n, k) for k, n in into + out)
    weights = sum(kernels.product(k, tokens, n) for k, n in into + out) * trained_share

    # Attention: two products forward and five backward fused (Dao 2023, section 3.1), else four and what moves.
    scores = tokens * model.attention_heads / t * model.attended_length(sequence_length)
    half = 2 * scores * model.head_size
    if software.fused_attention:
        attention = kernels.attended(half), kernels.attended(2.5 * half)
    else:
        product = half / hardware.product_rate
        attention = 2 * product + kernels.moved(11 * scores), 4 * product + kernels.moved(19 * scores)

    # Bytes that norms, residuals with or without dropout, and activations read and write; of the norms and residuals a
    # rank has all, or its share with sequence parallelism.
    residual = tokens * hidden / (t if layout.sequence else 1)
    inner = tokens * feed_forward / t
    moves = kernels.moved(8 * residual), kernels.moved(12 * residual)
    rests = (
        kernels.moved((14 if software.dropout else 8) * residual),
        kernels.moved((10 if software.dropout else 6) * residual),
    )
    activations = kernels.moved(2 * (gates + 1) * inner), kernels.moved(2 * (2 * gates + 1) * inner)
    elementwise = [sum(pair) for pair in zip(moves, rests, activations, strict=True)]

    # Two all-reduces of the residual each way, or as many gathers and scatters. Backward, the one of the inputs'
    # gradients runs beside the product of the weights' gradients; with sequence parallelism only its half.
    traffic = 2 * _sum_of_residual(model, tokens, t, hardware) * (1 - software.hidden_tensor)
    beside = sum(kernels.product(k, tokens, n) for k, n in into) * trained_share
    exposed = max(traffic - beside, traffic / 2 if layout.sequence else 0.0)
    gathered = _gathered_keys(samples * sequence_length * keys_values / t, layout, hardware)
    return BlockTime(
        StepTime(
            products=forward, attention=attention[0], elementwise=elementwise[0], tensor=traffic, context=gathered[0]
        ),
        StepTime(
            products=inputs + weights,
            attention=attention[1],
            elementwise=elementwise[1],
            tensor=exposed,
            context=gathered[1],
        ),
        attention[0] + gathered[0],
    )


def _gathered_keys(numbers: float, layout: Layout, hardware: Hardware) -> tuple[float, float]:
    """Seconds in which the context axis gathers keys and values of all tokens in bf16, and sums their gradients in fp32
    and scatters them (`pretrain/model/context.py`); nothing hides either."""
    if layout.context == 1:
        return 0.0, 0.0
    rate, hops = _ring(layout.tensor, layout.context, hardware)
    sent = (layout.context - 1) / layout.context * numbers / rate
    latency = hops * hardware.network_latency
    return 2 * sent + latency, 4 * sent + latency


def head_time(
    model: ModelConfig, sequence_length: int, layout: Layout, hardware: Hardware, software: Software = ALTIPLANO
) -> StepTime:
    """Seconds of the head and the loss for one micro-batch."""
    kernels, t = _Kernels(hardware), layout.tensor
    tokens, rows = layout.micro_batch_size * sequence_length / layout.context, model.padded_vocabulary_size(t) / t
    return StepTime(
        products=3 * kernels.product(tokens, model.hidden_size, rows),
        elementwise=kernels.moved(tokens * rows * software.logit_bytes),
        tensor=_sum_of_residual(model, tokens, t, hardware),
    )


def _sum_of_residual(model: ModelConfig, tokens: float, tensor: int, hardware: Hardware) -> float:
    """Seconds in which the tensor axis sums the residual of `tokens` tokens in bf16."""
    return all_reduce(2 * tokens * model.hidden_size, tensor, hardware.inside_rate, hardware.link_latency)


def all_reduce(size: float, ranks: int, rate: float, latency: float) -> float:
    """Seconds of a sum of `size` bytes over a ring: each rank sends 2 (n - 1) / n of them."""
    return 0.0 if ranks == 1 else 2 * (ranks - 1) / ranks * size / rate + latency


def stages_of(model: ModelConfig, sequence_length: int, layout: Layout, software: Software = ALTIPLANO) -> list[int]:
    """Number of blocks of each stage."""
    pipeline = layout.pipeline
    if software.even_stages:
        if model.layers % pipeline:  # embedding and head count as a block each
            base = (model.layers + 2) // pipeline
            return [base - (stage in (0, pipeline - 1)) for stage in range(pipeline)]
        return [model.layers // pipeline] * pipeline
    from pretrain.engine.pipeline_module import stage_bounds  # takes seconds to import

    alone = TensorParallel(group_alone(), torch.bfloat16)
    layers = pipeline_layers(model, sequence_length, alone)
    bounds = stage_bounds([layer.flops for layer in layers], pipeline)
    return [sum(bool(layer.prefix) for layer in layers[start:stop]) for start, stop in pairwise(bounds)]


def step_time(
    model: ModelConfig,
    sequence_length: int,
    layout: Layout,
    hardware: Hardware,
    software: Software = ALTIPLANO,
    *,
    trained_share: float = 1.0,
    stages: Sequence[int] | None = None,
) -> StepTime:
    """Seconds of a training step.

    Args:
        trained_share: share of the weights that are trained.
        stages: blocks of each stage; None: as the software divides them.
    """
    block = block_time(model, sequence_length, layout, hardware, software, trained_share)
    blocks = block.both(layout.recomputation)
    head = head_time(model, sequence_length, layout, hardware, software)
    stages = stages_of(model, sequence_length, layout, software) if stages is None else stages
    sent = StepTime(pipeline=_sent_between_stages(model, sequence_length, layout, hardware, software))
    times = [blocks * number + sent for number in stages]
    times[-1] += head
    slowest = max(times, key=lambda time: time.total)
    others = sum(time.total for time in times) - slowest.total
    whole = slowest * layout.micro_batches + StepTime(bubble=others / layout.interleaving)
    return whole + _update(model, layout, hardware, software, max(stages), block, trained_share)


def _sent_between_stages(
    model: ModelConfig, sequence_length: int, layout: Layout, hardware: Hardware, software: Software
) -> float:
    """Seconds in which a stage sends or receives, for one micro-batch: activations forward and gradients backward, each
    tensor rank its share, which are gathered where they arrive (Narayanan et al. 2021, section 4.1)."""
    if layout.pipeline == 1 or software.overlaps_pipeline:
        return 0.0
    size = 2 * layout.micro_batch_size * sequence_length / layout.context * model.hidden_size
    is_inside = layout.devices <= hardware.devices_per_node
    rate = hardware.inside_rate if is_inside else hardware.between_rate
    once = size / layout.tensor / rate + hardware.network_latency
    if layout.tensor > 1 and not layout.sequence:
        once += all_reduce(size, layout.tensor, hardware.inside_rate, hardware.link_latency) / 2
    return 2 * layout.interleaving * once


def _update(
    model: ModelConfig,
    layout: Layout,
    hardware: Hardware,
    software: Software,
    blocks: int,
    block: BlockTime,
    trained_share: float,
) -> StepTime:
    """Seconds after the last backward pass: gradients summed over the data axis, weights updated and gathered."""
    trained = trained_share * (blocks * block_weights(model) / layout.tensor)
    trained += trained_share * model.padded_vocabulary_size(layout.tensor) * model.hidden_size / layout.tensor
    data = 0.0
    replicas = layout.replicas
    if replicas > 1:
        rate, hops = _ring(layout.tensor, replicas, hardware)
        moved = software.gradient_bytes + (2 if software.shards_optimizer else software.gradient_bytes)
        data = (replicas - 1) / replicas * trained * moved / rate + 2 * hops * hardware.network_latency
        if software.overlaps_data:
            summed = max(0.0, data / 2 - blocks * block.backward.total)
            data = max(0.05 * data, summed + max(0.0, data / 2 - blocks * block.forward.total))
    # Master weight, moments and gradient are read, all but the gradient written; clipping reads the gradient once.
    owned = trained / (replicas if software.shards_optimizer else 1)
    return StepTime(data=data, optimizer=(30 * owned + 4 * trained) / hardware.moving_rate + 2e-3)


def _ring(tensor: int, ranks: int, hardware: Hardware) -> tuple[float, int]:
    """Bytes/s of a ring of `ranks` ranks of the context or data axis, and its hops. Ranks of one node that belong to
    the same group share the node's ports; as many groups as the tensor degree run through each node."""
    node = hardware.devices_per_node
    if tensor * ranks <= node:
        return hardware.inside_rate, ranks
    groups = min(tensor, node)
    return hardware.between_rate * node / groups, math.ceil(math.log2(ranks))


def block_weights(model: ModelConfig) -> int:
    """Number of weights of a block's matrices."""
    queries = model.attention_heads * model.head_size
    keys_values = 2 * model.key_value_heads * model.head_size
    mlp = (3 if model.is_gated else 2) * model.hidden_size * model.feed_forward_size
    return model.hidden_size * (2 * queries + keys_values) + mlp
