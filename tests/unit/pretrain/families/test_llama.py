"""The mapping of LLaMA's weights, tensor by tensor."""

from __future__ import annotations

import pytest
import torch

from pretrain.config import ModelConfig
from pretrain.families import llama, mapping


def small_model(**changes: int) -> ModelConfig:
    settings = {
        "vocabulary_size": 130,
        "hidden_size": 32,
        "layers": 2,
        "attention_heads": 4,
        "key_value_heads": 2,
        "feed_forward_size": 48,
        "maximum_positions": 16,
    }
    return ModelConfig(**(settings | changes))  # type: ignore[arg-type]


def test_weights_go_there_and_back() -> None:
    torch.manual_seed(1)
    model = small_model()
    for name, weight in llama.FORMAT.places(model).items():
        tensor = torch.randn(weight.shape)
        theirs = mapping.to_hugging_face(name, weight, tensor)
        back = mapping.from_hugging_face(name, weight, theirs.__getitem__)
        assert back.shape == tensor.shape
        assert torch.equal(back, tensor)


def test_names_and_shapes_are_those_of_transformers() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = small_model()
    reference = LlamaForCausalLM(
        LlamaConfig(**llama.FORMAT.hugging_face_config(model, dtype="float32", end_of_document=3))
    )
    expected = {name: tuple(tensor.shape) for name, tensor in reference.state_dict().items()}
    found = {
        rows.name: (rows.stop - rows.start, *weight.shape[1:])
        for weight in llama.FORMAT.places(model).values()
        for rows in weight.parts
    }
    assert found == expected
    assert mapping.parameter_count(model) == sum(tensor.numel() for tensor in reference.parameters())


def test_the_settings_arrive_in_transformers() -> None:
    from transformers import LlamaConfig

    model = ModelConfig(**(small_model().model_dump() | {"rope_theta": 5e5, "norm_epsilon": 3e-6}))
    config = LlamaConfig(**llama.FORMAT.hugging_face_config(model, dtype="float32", end_of_document=3))
    assert config.rope_parameters["rope_theta"] == 5e5
    assert config.rms_norm_eps == 3e-6
    assert (config.vocab_size, config.eos_token_id, config.tie_word_embeddings) == (130, 3, False)


def test_a_misshapen_tensor_is_named() -> None:
    weight = llama.FORMAT.places(small_model())["layers.1.mlp.down.weight"]
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.down\.weight: shape \(48, 32\).*\(32, 48\)"):
        mapping.to_hugging_face("layers.1.mlp.down.weight", weight, torch.zeros(48, 32))
    with pytest.raises(ValueError, match=r"down_proj\.weight: shape \(48, 32\), but layers\.1\.mlp\.down"):
        mapping.from_hugging_face("layers.1.mlp.down.weight", weight, lambda name: torch.zeros(48, 32))
