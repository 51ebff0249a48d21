"""The pieces of the model against torch's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from pretrain.config import ModelConfig
from pretrain.device import start_alone
from pretrain.model.attention import QUERY_BLOCK, causal_attention
from pretrain.model.init import whole_weight
from pretrain.model.loss import vocabulary_parallel_cross_entropy
from pretrain.model.norm import RMSNorm
from pretrain.model.positions import rotary_table, rotate

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_is_torchs(group: dist.ProcessGroup, dtype: torch.dtype) -> None:
    logits = torch.randn(6, 2, 256, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, 250, (6, 2))
    kept = logits.detach().clone()
    ours = vocabulary_parallel_cross_entropy(logits, targets, group, 250)
    assert torch.equal(logits, kept), "the caller's logits were changed"
    reference = F.cross_entropy(logits.float()[..., :250].transpose(1, 2), targets, reduction="none")
    torch.testing.assert_close(ours, reference)
    (mine,) = torch.autograd.grad(ours.mean(), logits, retain_graph=False)
    (theirs,) = torch.autograd.grad(reference.mean(), logits)
    torch.testing.assert_close(mine, theirs)
    assert mine[..., 250:].abs().max() == 0, "a padding row got a gradient"


@pytest.mark.parametrize("target", [250, -1])
def test_a_target_outside_the_vocabulary_is_named(group: dist.ProcessGroup, target: int) -> None:
    targets = torch.tensor([[3], [target]])
    with pytest.raises(ValueError, match=f"a target token is {target}, outside the vocabulary of 250 entries"):
        vocabulary_parallel_cross_entropy(torch.randn(2, 1, 256), targets, group, 250)


def test_initial_weights_depend_on_name_and_seed_alone() -> None:
    one = whole_weight("layers.3.mlp.down.weight", (64, 96), 7, CONFIG)
    torch.manual_seed(99)
    assert torch.equal(one, whole_weight("layers.3.mlp.down.weight", (64, 96), 7, CONFIG))
    assert not torch.equal(one, whole_weight("layers.4.mlp.down.weight", (64, 96), 7, CONFIG))
    assert not torch.equal(one, whole_weight("layers.3.mlp.down.weight", (64, 96), 8, CONFIG))


def test_initial_spread() -> None:
    assert whole_weight("embedding.weight", (256, 640), 7, CONFIG).std().item() == pytest.approx(0.02, rel=0.02)
    residual = whole_weight("layers.0.attention.output.weight", (640, 640), 7, CONFIG).std().item()
    assert residual == pytest.approx(0.02 / 4, rel=0.02)  # sqrt(2 · 8 layers) = 4
    assert torch.equal(whole_weight("final_norm.weight", (64,), 7, CONFIG), torch.ones(64))
