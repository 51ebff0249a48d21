"""Layers of the model against torch's own."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from pretrain.config import ModelConfig
from pretrain.device import start_alone
from pretrain.model import head_loss
from pretrain.model.attention import causal_attention
from pretrain.model.cpu.attention import QUERY_BLOCK
from pretrain.model.init import whole_weight
from pretrain.model.loss import LossSettings, mean_loss
from pretrain.model.norm import RMSNorm
from pretrain.model.positions import alibi_slopes, rotary_table, rotate
from tests.attention_cases import KINDS, plain_attention, random_heads, seen_by

CONFIG = ModelConfig(
    vocabulary_size=250,
    hidden_size=64,
    layers=8,
    attention_heads=4,
    key_value_heads=2,
    feed_forward_size=96,
    maximum_positions=64,
)


@pytest.fixture(scope="module")
def group() -> Iterator[dist.ProcessGroup]:
    if not dist.is_initialized():  # another test of this process may have
        start_alone()
    yield dist.group.WORLD


@pytest.mark.parametrize("length", [1, 7, QUERY_BLOCK, QUERY_BLOCK + 1, 3 * QUERY_BLOCK - 5])
@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_block_causal_attention_is_attention(length: int, key_value_heads: int) -> None:
    generator = torch.Generator().manual_seed(length)
    q, k, v = (
        torch.randn(2, heads, length, 16, generator=generator, requires_grad=True)
        for heads in (4, key_value_heads, key_value_heads)
    )
    ours = causal_attention(q, k, v)
    reference = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(ours, reference)
    upstream = torch.randn(ours.shape, generator=generator)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (q, k, v), upstream), torch.autograd.grad(reference, (q, k, v), upstream), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("soft_cap", [None, 0.7])
@pytest.mark.parametrize("slopes", [None, alibi_slopes(4)], ids=["plain", "alibi"])
@pytest.mark.parametrize("length", [5, QUERY_BLOCK + 70])
@pytest.mark.parametrize("kind", KINDS)
def test_ranges_slopes_and_caps_are_those_of_a_plain_mask(
    kind: str, length: int, slopes: torch.Tensor | None, soft_cap: float | None
) -> None:
    q, k, v = random_heads(length)
    layout, seen = seen_by(kind, length)
    reference = plain_attention(q, k, v, seen, slopes, soft_cap)
    ours = causal_attention(q, k, v, slopes, layout, soft_cap=soft_cap)
    torch.testing.assert_close(ours, reference)
    upstream = torch.randn(ours.shape)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (q, k, v), upstream), torch.autograd.grad(reference, (q, k, v), upstream), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_slopes_are_the_published_ones() -> None:
    """For 8 heads, from the paper; for 12, the 8 and then every second one of 16's; for BLOOM's 112 likewise."""
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(12).tolist() == pytest.approx(
        [2.0**-i for i in range(1, 9)] + [2 ** -(i + 0.5) for i in range(4)]
    )
    many = alibi_slopes(112)
    assert len(many) == 112 and many[64].item() == pytest.approx(2 ** (-8 / 128))


def test_no_position_sees_the_future() -> None:
    q, k, v = (torch.randn(1, 2, 2 * QUERY_BLOCK, 8) for _ in range(3))
    changed = v.clone()
    changed[:, :, 150:] += 1
    before, after = causal_attention(q, k, v), causal_attention(q, k, changed)
    assert torch.equal(before[:, :, :150], after[:, :, :150])
    assert not torch.equal(before[:, :, 150:], after[:, :, 150:])


def test_rms_norm_is_torchs() -> None:
    norm = RMSNorm(64, 1e-5, torch.float32)
    with torch.no_grad():
        norm.weight.normal_()
    x = torch.randn(5, 3, 64)
    torch.testing.assert_close(norm(x), F.rms_norm(x, (64,), norm.weight, 1e-5))


def test_rotation_depends_on_the_distance_only() -> None:
    cos, sin = rotary_table(64, 16, 10000.0)
    q, k = (torch.randn(16).expand(64, 1, 1, 16) for _ in range(2))
    scores = (rotate(q, cos, sin)[:, 0, 0] @ rotate(k, cos, sin)[:, 0, 0].T).double()
    for distance in (0, 1, 20):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[0].expand_as(diagonal), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("at_once", [1 << 26, 1000], ids=["whole", "few tokens at a time"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradients_are_torchs(
    group: dist.ProcessGroup, dtype: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(head_loss.LOGITS_BYTES, "cpu", at_once)
    monkeypatch.setattr(head_loss, "ROW_BYTES", 2048)
    x = torch.randn(6, 2, 32, dtype=dtype, requires_grad=True)
    weight = torch.randn(256, 32, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, 250, (6, 2))
    with torch.no_grad():
        weight[250:] *= 100  # padding rows take no part, however large
    largest = torch.tensor(-math.inf)
    ours = mean_loss(x, weight, targets, None, group, LossSettings(250, largest_logit=largest))
    logits = (x @ weight.T).float()[..., :250]
    reference = F.cross_entropy(logits.transpose(1, 2), targets)
    torch.testing.assert_close(largest, logits.max())
    torch.testing.assert_close(ours, reference)
    mine, theirs = (torch.autograd.grad(3 * of, (x, weight)) for of in (ours, reference))
    for gradient, expected in zip(mine, theirs, strict=True):
        difference = (gradient - expected).float().norm() / expected.float().norm()
        assert difference < (1e-6 if dtype == torch.float32 else 8e-3)
    assert mine[1][250:].abs().max() == 0, "a padding row got a gradient"


@pytest.mark.parametrize(
    ("label_smoothing", "z_loss", "maximum_z_loss", "logit_soft_cap"),
    [
        (0.1, 0.0, 0.0, None),
        (0.0, 1e-2, 0.0, None),
        (0.0, 0.0, 1e-2, None),
        (0.1, 1e-2, 1e-2, None),
        (0.0, 0.0, 0.0, 20.0),
        (0.1, 1e-2, 1e-2, 20.0),
    ],
)
def test_the_whole_loss_is_torchs(
    group: dist.ProcessGroup,
    label_smoothing: float,
    z_loss: float,
    maximum_z_loss: float,
    logit_soft_cap: float | None,
) -> None:
    """Label smoothing, PaLM's z-loss, Baichuan 2's max-z loss, Gemma 2's soft cap and weights of tokens; evaluation
    counts the negative log-likelihood alone."""
    x, weight = torch.randn(6, 2, 32, requires_grad=True), torch.randn(256, 32, requires_grad=True)
    targets = torch.randint(0, 250, (6, 2))
    weights = torch.rand(6, 2)
    weights /= weights.sum(0)
    weights[2, 1] = 0.0  # does not count, and so neither does its logit, the largest of all
    with torch.no_grad():
        x[2, 1] *= 10
    largest = torch.tensor(-math.inf)
    settings = LossSettings(250, label_smoothing, z_loss, maximum_z_loss, largest, logit_soft_cap=logit_soft_cap)
    ours = mean_loss(x, weight, targets, weights, group, settings)
    real = (x @ weight.T)[..., :250]
    if logit_soft_cap is not None:
        real = logit_soft_cap * torch.tanh(real / logit_soft_cap)
    smooth, plain = (
        F.cross_entropy(real.transpose(1, 2), targets, reduction="none", label_smoothing=share)
        for share in (label_smoothing, 0.0)
    )
    torch.testing.assert_close(largest, real[weights > 0].max())
    assert largest < real.max()
    terms = smooth + z_loss * real.logsumexp(-1) ** 2 + maximum_z_loss * real.amax(-1) ** 2
    reference = (terms * weights).sum(0).mean()
    torch.testing.assert_close(ours, reference)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (x, weight)), torch.autograd.grad(reference, (x, weight)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    largest.fill_(0.0)
    with torch.no_grad():
        evaluated = mean_loss(x, weight, targets, weights, group, settings)
    assert largest == 0.0  # what is evaluated says nothing about a step
    torch.testing.assert_close(evaluated, (plain * weights).sum(0).mean())


@pytest.mark.parametrize("target", [250, -1])
def test_a_target_outside_the_vocabulary_is_named(group: dist.ProcessGroup, target: int) -> None:
    targets = torch.tensor([[3], [target]])
    with pytest.raises(ValueError, match=f"a target token is {target}, outside the vocabulary of 250 entries"):
        mean_loss(torch.randn(2, 1, 32), torch.randn(256, 32), targets, None, group, LossSettings(250))


def test_initial_weights_depend_on_name_and_seed_alone() -> None:
    one = whole_weight("layers.3.mlp.down.weight", (64, 96), 7, CONFIG)
    torch.manual_seed(99)
    assert torch.equal(one, whole_weight("layers.3.mlp.down.weight", (64, 96), 7, CONFIG))
    assert not torch.equal(one, whole_weight("layers.4.mlp.down.weight", (64, 96), 7, CONFIG))
    assert not torch.equal(one, whole_weight("layers.3.mlp.down.weight", (64, 96), 8, CONFIG))


def test_initial_spread_as_published() -> None:
    """PaLM's fan-in; GLM-130B's Xavier with values, output and MLP scaled down, queries and keys not."""
    palm = ModelConfig.model_validate({**CONFIG.model_dump(), "initialisation": "fan_in"})
    assert whole_weight("embedding.weight", (256, 640), 7, palm).std().item() == pytest.approx(1.0, rel=0.02)
    assert whole_weight("layers.0.mlp.down.weight", (640, 400), 7, palm).std().item() == pytest.approx(0.05, rel=0.02)
    glm = ModelConfig.model_validate(
        {**CONFIG.model_dump(), "initialisation": "deepnorm", "hidden_size": 512, "key_value_heads": 4}
    )
    fused = whole_weight("layers.0.attention.query_key_value.weight", (1536, 512), 7, glm).view(3, 512, 512)
    xavier = (2 / 1024) ** 0.5
    for part, gain in zip(fused, (1, 1, 1 / 4), strict=True):  # sqrt(2 · 8 layers) = 4
        assert part.std().item() == pytest.approx(gain * xavier, rel=0.02)
    down = whole_weight("layers.0.mlp.down.weight", (512, 512), 7, glm)
    assert down.std().item() == pytest.approx(xavier / 4, rel=0.02)
    assert not whole_weight("layers.0.mlp.down.bias", (512,), 7, glm).any()


def test_initial_spread() -> None:
    assert whole_weight("embedding.weight", (256, 640), 7, CONFIG).std().item() == pytest.approx(0.02, rel=0.02)
    residual = whole_weight("layers.0.attention.output.weight", (640, 640), 7, CONFIG).std().item()
    assert residual == pytest.approx(0.02 / 4, rel=0.02)  # sqrt(2 · 8 layers) = 4
    assert torch.equal(whole_weight("final_norm.weight", (64,), 7, CONFIG), torch.ones(64))
