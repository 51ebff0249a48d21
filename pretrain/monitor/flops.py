"""Arithmetic that a model needs, to hold a speed against what the hardware could do."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from pretrain.config import ModelConfig, TrainConfig
from pretrain.device import local_device
from pretrain.families.mapping import weight_shapes

PEAK_BF16_FLOPS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
}
"""Of one GPU, dense, by a part of its name; the longest that fits counts. Source: NVIDIA's data sheets, whose figures
with sparsity are twice as large."""

_ROUNDS, _PRODUCTS = 3, 5


@dataclass(frozen=True)
class Peak:
    """What the shares of peak speed are of.

    Attributes:
        flops_per_second: that one process's device can do at most.
        source: where the number is from, to be read after it.
    """

    flops_per_second: float
    source: str

    def __str__(self) -> str:
        return f"{flops_text(self.flops_per_second)} a process, {self.source}"


def model_flops_per_token(model: ModelConfig, sequence_length: int) -> int:
    """Floating-point operations of forward and backward pass for one token of training.

    6 N + 12 L H Q T, with N the weights that multiply, L layers, H attention heads of size Q, T the sequence length.
    The embedding is left out of N, because a look-up multiplies nothing; tied to the head, as in PaLM, it counts as
    such. Learned positions are left out. Recomputed activations are not counted, and attention counts in full although
    half of it is masked, so that the share of peak speed (MFU) compares with published ones.

    Source: Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B.
    """
    return 3 * (_forward_of_blocks(model) + _forward_of_attention(model, sequence_length) + _forward_of_head(model))


def hardware_flops_per_token(model: ModelConfig, sequence_length: int, recomputation: str) -> int:
    """The same with what is computed twice: blocks under full recomputation, the products of queries with keys and of
    weights with values under selective. For the share of peak speed that the hardware works at (HFU).

    Source: Korthikanti et al. 2022, arXiv:2205.05198, appendix A.
    """
    flops = model_flops_per_token(model, sequence_length)
    if recomputation == "none":
        return flops
    attention = _forward_of_attention(model, sequence_length)
    return flops + attention + (_forward_of_blocks(model) if recomputation == "full" else 0)


def peak_flops(config: TrainConfig) -> Peak:
    """What this process's device can do at most: as set; by the GPU's name in bf16; else measured, which for a CPU is
    the only way to know. All processes of a node are to measure at the same time, as they train."""
    if config.monitor.peak_flops_per_device is not None:
        return Peak(config.monitor.peak_flops_per_device, "monitor.peak_flops_per_device")
    if config.precision == "bf16" and torch.cuda.is_available():
        device = torch.cuda.get_device_name()
        fitting = [name for name in PEAK_BF16_FLOPS if name in device]
        if fitting:
            return Peak(PEAK_BF16_FLOPS[max(fitting, key=len)], f"{device} in bf16 by its data sheet")
    return _measured_peak(torch.bfloat16 if config.precision == "bf16" else torch.float32)


def _measured_peak(dtype: torch.dtype) -> Peak:
    """By products of square matrices, in the fastest of a few rounds: short enough that other work does not disturb
    them all, long enough that processes which share a core share it here too. A tenth of a second on a CPU."""
    device = local_device()
    size = 4096 if device.type == "cuda" else 512
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    product = left @ right  # the first one sets things up
    rate = 0.0
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        for _ in range(_PRODUCTS):
            torch.matmul(left, right, out=product)
        float(product[0, 0])  # a GPU has finished
        rate = max(rate, _PRODUCTS * 2 * size**3 / (time.perf_counter() - started))
    name = "bf16" if dtype == torch.bfloat16 else "fp32"
    return Peak(rate, f"measured at the start with products of {size} × {size} matrices in {name}")


def flops_text(per_second: float) -> str:
    """FLOP/s in the unit that fits."""
    for unit, size in (("PFLOP/s", 1e15), ("TFLOP/s", 1e12)):
        if per_second >= size:
            return f"{per_second / size:,.1f} {unit}"
    return f"{per_second / 1e9:,.1f} GFLOP/s"


def _forward_of_blocks(model: ModelConfig) -> int:
    """Two operations for each weight of the blocks, norms and biases too; and for that of the last norm."""
    return 2 * sum(
        sum(blocks) * (shape[1] if len(shape) == 2 else 1)
        for name, (shape, blocks) in weight_shapes(model).items()
        if name not in ("embedding.weight", "head.weight", "positions.weight", "block_positions.weight")
    )


def _forward_of_attention(model: ModelConfig, sequence_length: int) -> int:
    return 4 * model.layers * model.attention_heads * model.head_size * sequence_length


def _forward_of_head(model: ModelConfig) -> int:
    return 2 * model.vocabulary_size * model.hidden_size
