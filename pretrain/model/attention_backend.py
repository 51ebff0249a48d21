"""Which kernel computes the attention of a run, and its choice."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend

from pretrain.config import TrainConfig
from pretrain.model.compilation import is_compiled
from pretrain.model.plain import grouped_for_kernel

NAMES = {
    SDPBackend.FLASH_ATTENTION: "flash",
    SDPBackend.CUDNN_ATTENTION: "cuDNN",
    SDPBackend.EFFICIENT_ATTENTION: "memory-efficient",
    SDPBackend.MATH: "unfused: all scores are in memory",
}


def choose_attention(config: TrainConfig, device: torch.device) -> None:
    """Allow torch's fused attention only the kernel that `attention_backend` names; torch raises RuntimeError where
    that one cannot be used.

    Raises:
        ValueError: the setting has no effect on this device.
    """
    choice = config.attention_backend
    if choice == "auto":
        return
    if device.type == "cpu":
        raise ValueError(f"attention_backend: {choice} has no effect on a CPU; leave it out")
    backends = torch.backends.cuda
    backends.enable_flash_sdp(choice == "flash")
    backends.enable_cudnn_sdp(choice == "cudnn")
    backends.enable_mem_efficient_sdp(False)
    backends.enable_math_sdp(False)


def describe_attention(config: TrainConfig, device: torch.device) -> str:
    """The kernel that computes the attention in training, as text. Asks torch, with tensors of the run's shapes."""
    model, compiles = config.model, is_compiled(config.compile, device)
    if device.type == "cpu" and not compiles:
        return "by blocks of queries"
    if model.attention_dropout:
        return "plain, all scores in memory, because of model.attention_dropout"
    needs_layout = config.has_layout or config.parallel.context > 1
    if needs_layout or model.positions == "alibi" or model.attention_soft_cap is not None:
        return "FlexAttention" if device.type == "cuda" else "plain, all scores in memory"
    heads, degree = model.attention_heads, config.parallel.tensor
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    shapes = [max(number // degree, 1) for number in (heads, model.key_value_heads, model.key_value_heads)]
    batch, length = config.batch.micro_batch_size, config.data.sequence_length
    q, k, v = (
        torch.empty(batch, number, length, model.head_size, dtype=dtype, device=device, requires_grad=True)
        for number in shapes
    )
    k, v, shares = grouped_for_kernel(q, k, v)
    chosen = torch._fused_sdp_choice(q, k, v, is_causal=True, enable_gqa=shares)
    return f"torch's fused attention, {NAMES[SDPBackend(chosen)]}"
