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
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GlmConfig,
    GlmForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
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
    "llama-yarn": (LlamaConfig, LlamaForCausalLM),
    "llama-longrope": (LlamaConfig, LlamaForCausalLM),
    "llama-ntk": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen2-windows": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
    "gemma2-three": (Gemma2Config, Gemma2ForCausalLM),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
    "olmo2": (Olmo2Config, Olmo2ForCausalLM),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM),
    "gpt_neox-sequential": (GPTNeoXConfig, GPTNeoXForCausalLM),
    "opt": (OPTConfig, OPTForCausalLM),
    "gpt3": (GPT2Config, GPT2LMHeadModel),
    "bloom": (BloomConfig, BloomForCausalLM),
    "bloom-6": (BloomConfig, BloomForCausalLM),
    "palm": (CohereConfig, CohereForCausalLM),
}
RENAMED = {"embed_out.weight": "lm_head.weight"}
"""Names in files that transformers 5 changes when it loads them."""
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
    state = {RENAMED.get(key, key): tensor for key, tensor in state.items()}
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    reference.tie_weights()

    tokens = random_tokens(config)
    logits, gradients = ours(config, tokens)
    expected = reference(tokens, use_cache=False).logits
    loss(expected, tokens).backward()
    assert_close(logits, expected.detach(), "logits")
    here = {theirs: ours for ours, theirs in RENAMED.items()} if name.startswith("gpt_neox") else {}
    theirs = {here.get(key, key): parameter.grad for key, parameter in reference.named_parameters()}
    for key, gradient in gradients.items():
        (first, *_) = weights[key].parts
        is_shifted = first.layout == "less_one"  # which changes the weight, and not its gradient
        expected_gradient = (
            theirs[first.name] if is_shifted else mapping.from_hugging_face(key, weights[key], theirs.__getitem__)
        )
        assert_close(gradient, expected_gradient, key)


@pytest.mark.parametrize("setting", ["attention_soft_cap", "logit_soft_cap", "sliding_window", "attention_scale"])
def test_a_setting_of_gemma_2_takes_effect(setting: str) -> None:
    """Without it the logits are others, so that the comparison above would show it."""
    config = small_model("gemma2")
    tokens = random_tokens(config)
    with torch.no_grad():
        found, without = (build(model)(tokens) for model in (config, config.model_copy(update={setting: None})))
    assert float((found - without).abs().max() / found.abs().max()) > 100 * TOLERANCE


@pytest.mark.parametrize(("name", "there"), [("gemma2", Gemma2Config), ("gemma3", Gemma3TextConfig)])
def test_windows_are_in_the_layers_that_transformers_gives_them(name: str, there: type) -> None:
    """By default; the comparison above is of models whose layers the export lists."""
    sizes = small_model("llama").model_dump(include={"vocabulary_size", "hidden_size", "attention_heads"})
    sizes |= {"key_value_heads": 4, "feed_forward_size": 48, "maximum_positions": 64, "layers": 13}
    model = ModelConfig.model_validate({"family": name, **sizes})
    written = format_of(model).hugging_face_config(model, dtype="float32", end_of_document=1)
    assert written["layer_types"] == there(num_hidden_layers=13).layer_types


def test_ntk_scaling_is_that_of_transformers_at_one_length() -> None:
    """transformers' dynamic scaling has another base for each length: for three times the original one, with factor 1,
    the base of our factor 3."""
    config = small_model("llama-ntk")
    tokens = random_tokens(config)
    there = format_of(config)
    entries = there.hugging_face_config(config, dtype="float32", end_of_document=1)
    scaling = {"rope_type": "dynamic", "factor": 1.0, "rope_theta": config.rope_theta}
    dynamic = {**entries, "rope_parameters": scaling, "max_position_embeddings": tokens.shape[1] // 3}
    dynamic.pop("rope_theta")
    models = [LlamaForCausalLM(LlamaConfig(**settings)).eval() for settings in (entries, dynamic)]
    models[1].load_state_dict(models[0].state_dict())
    exported, expected = (model(tokens, use_cache=False).logits.detach() for model in models)
    assert_close(exported, expected, "logits")


GLM_NAMES = {
    "transformer.embedding.word_embeddings": "model.embed_tokens",
    "transformer.encoder.layers.": "model.layers.",
    "transformer.encoder.final_layernorm": "model.norm",
    "transformer.output_layer": "lm_head",
    ".self_attention.dense.": ".self_attn.o_proj.",
    ".mlp.dense_h_to_4h.": ".mlp.gate_up_proj.",
    ".mlp.dense_4h_to_h.": ".mlp.down_proj.",
}
"""Parts of ChatGLM's names, and what transformers' GLM-4, which has the same block, calls them."""


def test_chatglm_equals_glm_4_of_transformers() -> None:
    config = small_model("chatglm")
    reference = GlmForCausalLM(
        GlmConfig(
            vocab_size=config.vocabulary_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.feed_forward_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.attention_heads,
            num_key_value_heads=config.key_value_heads,
            head_dim=config.head_size,
            rms_norm_eps=config.norm_epsilon,
            pad_token_id=None,
        )
    ).eval()
    sizes = [heads * config.head_size for heads in (config.attention_heads, *[config.key_value_heads] * 2)]

    def split(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        for theirs, glm in GLM_NAMES.items():
            name = name.replace(theirs, glm)
        if ".self_attention.query_key_value." not in name:
            return {name: tensor}
        names = [name.replace(".self_attention.query_key_value.", f".self_attn.{part}_proj.") for part in "qkv"]
        return dict(zip(names, tensor.split(sizes), strict=True))

    weights, state = format_of(config).places(config), {}
    for key, parameter in build(config).named_global_parameters():
        whole = without_padding(config, key, parameter.detach())
        for name, tensor in mapping.to_hugging_face(key, weights[key], whole).items():
            state.update(split(name, tensor))
    reference.load_state_dict(state)
    tokens = random_tokens(config)
    logits, gradients = ours(config, tokens)
    expected = reference(tokens, use_cache=False).logits
    loss(expected, tokens).backward()
    assert_close(logits, expected.detach(), "logits")
    theirs = {key: parameter.grad for key, parameter in reference.named_parameters()}
    for key, gradient in gradients.items():
        for name, part in split(weights[key].parts[0].name, gradient).items():
            expected_gradient = theirs[name]
            assert expected_gradient is not None
            assert_close(part, expected_gradient, name)


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
