"""Parts of the model and a step of the engine on a GPU against the CPU, at sizes that kernels are made for.

Every case runs on the CPU too, so that it cannot fail for a reason of its own on the first GPU.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.device import group_alone, local_device
from pretrain.model.attention import causal_attention
from pretrain.model.head_loss import LossSettings
from pretrain.model.linear import TensorParallel
from pretrain.model.loss import mean_loss
from pretrain.model.mlp import GatedMLP
from pretrain.model.norm import RMSNorm
from pretrain.model.positions import rotary_table, rotate
from tests.attention_cases import plain_attention
from tests.small_run import write_small_run

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Of the largest value: rounding in another order of sums, and 8 bits of a mantissa."""
LENGTH, BATCH, HIDDEN = 256, 2, 256

pytestmark = [
    pytest.mark.parametrize("device", DEVICES),
    pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str),
]


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor], dtype: torch.dtype) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        scale = float(theirs.detach().abs().max())
        torch.testing.assert_close(mine.detach().float().cpu(), theirs.float(), rtol=0, atol=TOLERANCE[dtype] * scale)


def outputs_and_gradients(function: Any, inputs: list[torch.Tensor], device: str) -> list[torch.Tensor]:
    """Result, and gradients of the inputs, on a device. The gradient of the result is one that bf16 can represent."""
    own = [tensor.detach().to(device).requires_grad_() for tensor in inputs]
    result = function(*own)
    upstream = random(*result.shape, seed=9).bfloat16().to(device, result.dtype)
    return [result, *torch.autograd.grad(result, own, upstream)]


@pytest.mark.parametrize("head_size", [64, 128])
@pytest.mark.parametrize("key_value_heads", [2, 8])
@pytest.mark.parametrize("length", [128, 1024])
def test_fused_attention(device: str, dtype: torch.dtype, length: int, key_value_heads: int, head_size: int) -> None:
    numbers = (8, key_value_heads, key_value_heads)
    # Half as large, so that the softmax is not next to a choice, whose gradients cancel.
    heads = [0.5 * random(1, number, length, head_size, seed=seed) for seed, number in enumerate(numbers)]
    heads = [part.to(dtype) for part in heads]
    seen = torch.ones(1, length, length, dtype=torch.bool).tril()
    expected = outputs_and_gradients(
        lambda q, k, v: plain_attention(q, k, v, seen, None), [part.float() for part in heads], "cpu"
    )
    assert_close(outputs_and_gradients(causal_attention, heads, device), expected, dtype)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_embedding(device: str, dtype: torch.dtype, interleaved: bool) -> None:
    cos, sin = rotary_table(LENGTH, 64, 10000.0)
    x_SBHE = random(LENGTH, BATCH, 4, 64).to(dtype)

    def rotated(x: torch.Tensor) -> torch.Tensor:
        return rotate(x, cos.to(x.device), sin.to(x.device), interleaved=interleaved)

    first, second = x_SBHE.float().unflatten(-1, (-1, 2)).unbind(-1) if interleaved else x_SBHE.float().chunk(2, -1)
    c, s = (table[:LENGTH, None, None] for table in (cos, sin))
    halves = [first * c - second * s, second * c + first * s]
    expected = torch.stack(halves, -1).flatten(-2) if interleaved else torch.cat(halves, -1)
    found = outputs_and_gradients(rotated, [x_SBHE], device)
    assert_close(found[:1], [expected], dtype)
    back = rotate(random(*x_SBHE.shape, seed=9).bfloat16().to(dtype), cos, -sin, interleaved=interleaved)
    assert_close(found[1:], [back], dtype)


def test_mlp(device: str, dtype: torch.dtype) -> None:
    tensor_parallel = TensorParallel(group_alone(), dtype)
    mlp = GatedMLP(HIDDEN, 3 * HIDDEN, "swiglu", False, tensor_parallel)
    with torch.no_grad():
        for seed, parameter in enumerate(mlp.parameters()):
            parameter.copy_(0.05 * random(*parameter.shape, seed=seed))
    x_SBD = random(LENGTH, BATCH, HIDDEN).to(dtype)
    gate, up = (part.detach().float() for part in mlp.gate_up.weight.chunk(2))
    down = mlp.down.weight.detach().float()

    def plain(x: torch.Tensor) -> torch.Tensor:
        return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T

    expected = outputs_and_gradients(plain, [x_SBD.float()], "cpu")
    assert_close(outputs_and_gradients(mlp.to(device), [x_SBD], device), expected, dtype)


def test_norm(device: str, dtype: torch.dtype) -> None:
    norm = RMSNorm(HIDDEN, 1e-5, dtype)
    torch.nn.init.normal_(norm.weight, 1.0, 0.1)
    x_SBD, weight = random(LENGTH, BATCH, HIDDEN).to(dtype), norm.weight.detach().float()
    expected = outputs_and_gradients(
        lambda x: x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight, [x_SBD.float()], "cpu"
    )
    assert_close(outputs_and_gradients(norm.to(device), [x_SBD], device), expected, dtype)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"label_smoothing": 0.1, "z_loss": 1e-2, "maximum_z_loss": 1e-2},
        {"z_loss": 1e-2, "logit_soft_cap": 3.0},
    ],
    ids=str,
)
def test_loss(device: str, dtype: torch.dtype, settings: dict[str, float]) -> None:
    """Over a vocabulary with padding rows, against torch's formulas in fp32."""
    if dtype == torch.bfloat16:  # rounding decides which of two logits is the largest
        settings = {name: value for name, value in settings.items() if name != "maximum_z_loss"}
    vocabulary, rows = 1000, 1024
    x_SBD, weight_VD = random(LENGTH, BATCH, HIDDEN).to(dtype), (0.1 * random(rows, HIDDEN, seed=2)).to(dtype)
    targets_SB = torch.randint(0, vocabulary, (LENGTH, BATCH), generator=torch.Generator().manual_seed(3))

    def ours(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        loss = LossSettings(vocabulary, **settings)
        return mean_loss(x, weight, targets_SB.to(x.device), None, group_alone(), loss)[None]

    def plain(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        logits = (x @ weight.T)[..., :vocabulary]
        cap = settings.get("logit_soft_cap")
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        cross = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets_SB.flatten(), label_smoothing=settings.get("label_smoothing", 0.0)
        )
        z_loss = settings.get("z_loss", 0.0) * logits.logsumexp(-1).square().mean()
        return (cross + z_loss + settings.get("maximum_z_loss", 0.0) * logits.amax(-1).square().mean())[None]

    expected = outputs_and_gradients(plain, [x_SBD.float(), weight_VD.float()], "cpu")
    assert_close(outputs_and_gradients(ours, [x_SBD, weight_VD], device), expected, dtype)


def test_a_step_of_the_engine(device: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """`altiplano check` on one device: kernels and compiled blocks against plain code, every gradient, an update and a
    checkpoint."""
    if device != local_device().type:
        pytest.skip("the engine uses the machine's device")
    config = write_small_run(tmp_path)
    sizes = {"hidden_size": 512, "attention_heads": 8, "key_value_heads": 4, "maximum_positions": LENGTH}
    overrides = [f"model.{name}={size}" for name, size in sizes.items()]
    overrides += [f"data.sequence_length={LENGTH}", f"precision={'bf16' if dtype == torch.bfloat16 else 'fp32'}"]
    command = [sys.executable, "-m", "pretrain", "--config", str(config), "--check", *overrides]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
