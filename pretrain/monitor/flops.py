"""Floating-point operations of a model, and the peak speed of the hardware that they are compared with."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from pretrain.config import ModelConfig, TrainConfig
from pretrain.device import local_device
from pretrain.families.mapping import weight_shapes
from pretrain.tuning import is_adapter_weight

PEAK_BF16_FLOPS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
}
"""Peak FLOP/s of one GPU in bf16 without sparsity, by a part of its name, of which the longest match counts. Source:
NVIDIA's data sheets, whose figures with sparsity are twice as large."""

_ROUNDS, _PRODUCTS = 3, 5
"""Rounds of a measurement, and matrix products of a round."""


@dataclass(frozen=True)
class Peak:
    """Peak speed, to which MFU and HFU are relative.

    Attributes:
        flops_per_second: largest FLOP/s of one process's device.
        source: origin of the number, as text to follow it.
    """

    flops_per_second: float
    source: str

    def __str__(self) -> str:
        return f"{flops_text(self.flops_per_second)} a process, {self.source}"


def model_flops_per_token(model: ModelConfig, sequence_length: int) -> int:
    """Floating-point operations of forward and backward pass for one token of training.

    6 N + 12 L H Q T, with N the weights that take part in products, L layers, H attention heads of size Q and T the
    sequence length. N excludes the embedding, because a look-up is no product, unless it is tied to the head, as in
    PaLM; and it excludes learned positions. Recomputed activations are not counted, and attention counts in full
    although half of it is masked, so that MFU, the share of peak speed, is comparable with published figures. With a
    sliding window, T is the length of a text whose attention costs as much.

    Source: Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B.
    """
    return 3 * (_forward_of_blocks(model) + _forward_of_attention(model, sequence_length) + _forward_of_head(model))


def training_flops_per_token(config: TrainConfig, sequence_length: int) -> int:
    """Those of `model_flops_per_token` that a run needs which trains a part of the weights: a frozen weight has no
    gradient of its own, a third of its operations; an adapter has operations of all three kinds. The backward pass
    counts down to the first layer, wherever the trained weights are."""
    flops = model_flops_per_token(config.model, sequence_length)
    if not config.is_partial:
        return flops
    trained = config.trained_shapes
    frozen = sum(size for name, size in _weights_in_products(config.model).items() if name not in trained)
    adapters = sum(math.prod(shape) for name, shape in trained.items() if is_adapter_weight(name))
    return flops - 2 * frozen + 6 * adapters


def recomputed_flops_per_token(model: ModelConfig, sequence_length: int, recomputation: str) -> int:
    """Floating-point operations of recomputation for one token of training: of blocks under full recomputation; of the
    products of queries with keys, and of weights with values, under selective. Added to those of the model for HFU, the
    share of peak speed that the hardware computes at.

    Source: Korthikanti et al. 2022, arXiv:2205.05198, appendix A.
    """
    if recomputation == "none":
        return 0
    blocks = _forward_of_blocks(model) if recomputation == "full" else 0
    return blocks + _forward_of_attention(model, sequence_length)


SLOW_BF16 = 4.0
"""Factor between the speeds of fp32 and bf16 from which on fp32 is advised; below it, bf16's smaller memory can pay."""


def peak_flops(config: TrainConfig) -> Peak:
    """Peak speed of this process's device: from the settings; from the data sheet, by the GPU's name, in bf16; else
    measured, as always on a CPU. All processes of a node must measure at the same time, as they train."""
    if config.monitor.peak_flops_per_device is not None:
        return Peak(config.monitor.peak_flops_per_device, "monitor.peak_flops_per_device")
    if config.precision == "bf16" and torch.cuda.is_available():
        device = torch.cuda.get_device_name()
        fitting = [name for name in PEAK_BF16_FLOPS if name in device]
        if fitting:
            return Peak(PEAK_BF16_FLOPS[max(fitting, key=len)], f"{device} in bf16 by its data sheet")
    return _measured_peak(torch.bfloat16 if config.precision == "bf16" else torch.float32)


def precision_notes(config: TrainConfig) -> list[str]:
    """Advise fp32 where a processor multiplies bf16 much more slowly, as most without AVX-512 or AMX do.

    Measured only for a run in bf16 on a CPU; all processes of a node must call this at the same time, as they train.
    """
    if config.precision != "bf16" or torch.cuda.is_available() or config.monitor.peak_flops_per_device is not None:
        return []
    factor = bf16_slowdown()
    if factor < SLOW_BF16:
        return []
    return [
        f"this processor multiplies bf16 {factor:,.0f} times as slowly as fp32; precision=fp32 is faster "
        "here (a run keeps the precision that it started with)"
    ]


def bf16_slowdown() -> float:
    """How many times as long this process's device takes for a product in bf16 as in fp32."""
    rates = [_measured_peak(dtype).flops_per_second for dtype in (torch.float32, torch.bfloat16)]
    return rates[0] / rates[1]


def _measured_peak(dtype: torch.dtype) -> Peak:
    """Measure the speed of products of square matrices, in the fastest of a few rounds. Rounds are short enough that
    other work does not disturb all of them, and long enough that processes which share a core share it here too. Takes
    a tenth of a second on a CPU."""
    device = local_device()
    size = 4096 if device.type == "cuda" else 512
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    product = left @ right  # the first product includes initialisation
    rate = 0.0
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        for _ in range(_PRODUCTS):
            torch.matmul(left, right, out=product)
        float(product[0, 0])  # wait for the GPU
        rate = max(rate, _PRODUCTS * 2 * size**3 / (time.perf_counter() - started))
    name = "bf16" if dtype == torch.bfloat16 else "fp32"
    return Peak(rate, f"measured at the start with products of {size} × {size} matrices in {name}")


def flops_text(per_second: float) -> str:
    """FLOP/s as text, in a suitable unit."""
    for unit, size in (("PFLOP/s", 1e15), ("TFLOP/s", 1e12)):
        if per_second >= size:
            return f"{per_second / size:,.1f} {unit}"
    return f"{per_second / 1e9:,.1f} GFLOP/s"


def _forward_of_blocks(model: ModelConfig) -> int:
    """Two operations for each weight of the blocks, norms and biases included, and of the final norm."""
    head = "embedding.weight" if model.tied_embedding else "head.weight"
    return 2 * sum(size for name, size in _weights_in_products(model).items() if name != head)


def _weights_in_products(model: ModelConfig) -> dict[str, int]:
    """Number of elements of each weight that `model_flops_per_token` counts, by name."""
    looked_up = {"positions.weight", "block_positions.weight"}
    if not model.tied_embedding:
        looked_up.add("embedding.weight")
    return {name: math.prod(shape) for name, (shape, _) in weight_shapes(model).items() if name not in looked_up}


def _forward_of_attention(model: ModelConfig, sequence_length: int) -> int:
    attended = model.attended_length(sequence_length)
    return 4 * model.layers * model.attention_heads * model.head_size * attended


def _forward_of_head(model: ModelConfig) -> int:
    return 2 * model.vocabulary_size * model.hidden_size
