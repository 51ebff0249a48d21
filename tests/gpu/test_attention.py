"""On a GPU: attention and whole models against the CPU."""

from __future__ import annotations

import pytest
import torch

from pretrain.model.attention import causal_attention
from pretrain.model.positions import alibi_slopes
from tests.attention_cases import KINDS, plain_attention, random_heads, seen_by
from tests.unit.pretrain.families.small import SMALL, build, random_tokens, small_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("soft_cap", [None, 0.7])
@pytest.mark.parametrize("slopes", [None, alibi_slopes(4)], ids=["plain", "alibi"])
@pytest.mark.parametrize("key_value_heads", [1, 4])
@pytest.mark.parametrize("length", [70, 384, 1000])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)], ids=str)
def test_is_attention_with_a_plain_mask(
    kind: str,
    length: int,
    key_value_heads: int,
    slopes: torch.Tensor | None,
    soft_cap: float | None,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    """Gradients too, which FlexAttention has on a GPU only."""
    heads = random_heads(length, key_value_heads)
    layout, seen = seen_by(kind, length)
    rounded = [part.detach().to(dtype).float().requires_grad_() for part in heads]
    reference = plain_attention(*rounded, seen, slopes, soft_cap)
    on_gpu = [part.detach().to("cuda", dtype).requires_grad_() for part in heads]
    ours = causal_attention(
        *on_gpu,
        None if slopes is None else slopes.cuda(),
        None if layout is None else layout.cuda(),
        soft_cap=soft_cap,
    )
    assert ours.dtype == dtype
    upstream = torch.randn(ours.shape)
    found = [ours, *torch.autograd.grad(ours, on_gpu, upstream.to("cuda", dtype))]
    expected = [reference, *torch.autograd.grad(reference, rounded, upstream.to(dtype).float())]
    for mine, theirs in zip(found, expected, strict=True):
        scale = float(theirs.detach().abs().max())
        torch.testing.assert_close(mine.float().cpu(), theirs, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", SMALL)
def test_models_are_those_of_the_cpu(name: str) -> None:
    config = small_model(name)
    tokens = random_tokens(config)
    results = []
    for device in ("cpu", "cuda"):
        model = build(config).to(device)
        logits = model(tokens.to(device))
        logits.square().mean().backward()
        gradients = {key: parameter.grad.cpu() for key, parameter in model.named_global_parameters()}
        results.append((logits.detach().cpu(), gradients))
    (expected, expected_gradients), (found, found_gradients) = results
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    for key, gradient in expected_gradients.items():
        torch.testing.assert_close(
            found_gradients[key], gradient, rtol=0, atol=1e-3 * float(gradient.abs().max()), msg=key
        )
