"""Logits and gradients of each family against an independent implementation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from pretrain.config import ModelConfig
from pretrain.families import mapping
from pretrain.families.registry import format_of
from tests.unit.pretrain.families import twin
from tests.unit.pretrain.families.small import SMALL, build, random_tokens, small_model, without_padding

REFERENCES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "llama-tied": (LlamaConfig, LlamaForCausalLM),
    "llama-3.1": (LlamaConfig, LlamaForCausalLM),
    "llama-linear": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "gpt3": (GPT2Config, GPT2LMHeadModel),
    "bloom": (BloomConfig, BloomForCausalLM),
    "bloom-6": (BloomConfig, BloomForCausalLM),
    "palm": (CohereConfig, CohereForCausalLM),
}
TOLERANCE = 2e-5
"""Largest difference relative to the largest value, fp32: sums in another order through two layers."""


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    assert ours.shape == theirs.shape, what
    difference = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))
    assert difference < TOLERANCE, f"{what}: {difference:.1e}"


def ours(config: ModelConfig, tokens: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model = build(config)
    logits = model(tokens).transpose(0, 1)[..., : config.vocabulary_size]
    loss(logits, tokens).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_global_parameters()}
    return logits.detach(), {name: without_padding(config, name, gradient) for name, gradient in gradients.items()}


def loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_transformers(name: str) -> None:
    config = small_model(name)
    there = format_of(config)
    settings, architecture = REFERENCES[name]
    reference = architecture(settings(**there.hugging_face_config(config, dtype="float32", end_of_document=1))).eval()
    weights = there.places(config)
    state = {}
    for key, parameter in build(config).named_global_parameters():
        state.update(mapping.to_hugging_face(key, weights[key], without_padding(config, key, parameter.detach())))
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    reference.tie_weights()

    tokens = random_tokens(config)
    logits, gradients = ours(config, tokens)
    expected = reference(tokens, use_cache=False).logits
    loss(expected, tokens).backward()
    assert_close(logits, expected.detach(), "logits")
    theirs = {key: parameter.grad for key, parameter in reference.named_parameters()}
    for key, gradient in gradients.items():
        assert_close(gradient, mapping.from_hugging_face(key, weights[key], theirs.__getitem__), key)


@pytest.mark.parametrize("name", [name for name in SMALL if name.startswith(("baichuan", "glm"))])
def test_equals_the_twin(name: str) -> None:
    """Families that transformers lacks are compared with a plain model of ours, written from the paper."""
    config = small_model(name)
    tokens = random_tokens(config)
    logits, gradients = ours(config, tokens)
    parameters = {key: p.detach().clone().requires_grad_() for key, p in build(config).named_global_parameters()}
    forward: Callable[..., torch.Tensor] = twin.glm if config.family == "glm" else twin.baichuan
    expected = forward(parameters, config, tokens)
    loss(expected, tokens).backward()
    assert_close(logits, expected.detach(), "logits")
    for key, gradient in gradients.items():
        expected_gradient = parameters[key].grad
        assert expected_gradient is not None
        assert_close(gradient, without_padding(config, key, expected_gradient), key)
