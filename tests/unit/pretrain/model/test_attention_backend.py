"""The attention kernel is chosen, described and, where the choice has no effect, refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pretrain.model.attention_backend import choose_attention, describe_attention
from tests.distributed.cases import tiny_config

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SWITCHES = ("flash_sdp", "cudnn_sdp", "mem_efficient_sdp", "math_sdp")


@pytest.fixture
def switches() -> Iterator[Any]:
    """Which of torch's kernels are allowed; as before after the test."""
    backends = torch.backends.cuda

    def allowed() -> list[str]:
        return [name for name in SWITCHES if getattr(backends, f"{name}_enabled")()]

    before = allowed()
    yield allowed
    for name in SWITCHES:
        getattr(backends, f"enable_{name}")(name in before)


@pytest.mark.parametrize("choice", ["flash", "cudnn"])
def test_a_choice_leaves_one_kernel(choice: str, switches: Any) -> None:
    choose_attention(tiny_config(precision="bf16", attention_backend=choice), GPU)
    assert switches() == [f"{choice}_sdp"]


def test_auto_leaves_the_choice_to_torch(switches: Any) -> None:
    before = switches()
    choose_attention(tiny_config(), GPU)
    assert switches() == before


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model__positions": "alibi"}, "has no effect: model.positions is alibi"),
        ({"objective": {"kind": "prefix"}}, "has no effect: the objective has layouts"),
        ({"objective": {"separate_documents": True}}, "has no effect: the objective has layouts"),
        ({"model__attention_soft_cap": 30.0}, "has no effect: model.attention_soft_cap needs FlexAttention"),
        ({"model__attention_dropout": 0.1}, "has no effect: model.attention_dropout needs all scores"),
        ({"precision": "fp32"}, "has no kernel for precision fp32"),
        ({"attention_backend": "cudnn", "deterministic": True}, "cudnn adds in no fixed order"),
    ],
)
def test_a_choice_that_cannot_take_effect_is_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=f"attention_backend: .*{reason}"):
        tiny_config(**{"precision": "bf16", "attention_backend": "flash", **settings})


def test_on_a_cpu_it_is_refused() -> None:
    with pytest.raises(ValueError, match="attention_backend: flash has no effect on a CPU"):
        choose_attention(tiny_config(precision="bf16", attention_backend="flash"), CPU)


def test_the_description_is_what_torch_chooses(switches: Any) -> None:
    """Of torch's kernels for CPUs, which follow the same switches."""
    config = tiny_config(compile="on", precision="bf16", model__key_value_heads=4)
    assert describe_attention(config, CPU) == "torch's fused attention, flash"
    torch.backends.cuda.enable_flash_sdp(False)
    assert describe_attention(config, CPU) == "torch's fused attention, unfused: all scores are in memory"


def test_the_description_of_what_torch_does_not_choose() -> None:
    assert describe_attention(tiny_config(), CPU) == "by blocks of queries"
    assert describe_attention(tiny_config(model__positions="alibi"), GPU) == "FlexAttention"
    assert describe_attention(tiny_config(objective={"kind": "prefix"}), GPU) == "FlexAttention"
    assert describe_attention(tiny_config(model__attention_soft_cap=30.0), GPU) == "FlexAttention"
    assert "attention_dropout" in describe_attention(tiny_config(model__attention_dropout=0.1), GPU)


def test_fp32_keys_are_repeated_for_a_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from pretrain.model import plain

    seen = []
    attention = F.scaled_dot_product_attention

    def recorded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **settings: Any) -> torch.Tensor:
        seen.append((k.shape[1], settings["enable_gqa"]))
        return attention(q, k, v, **settings)

    monkeypatch.setattr(plain.F, "scaled_dot_product_attention", recorded)
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (torch.randn(1, heads, 8, 16, dtype=dtype) for heads in (4, 2, 2))
        plain.causal_attention(q, k, v)
    assert seen == [(4, False), (2, True)]
