"""LLaMA 1 and 2: how many weights, and what each is called and how it lies in Hugging Face's format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pretrain.config import ModelConfig

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rows:
    """Rows [start, stop) of one of our weights are the whole of the weight `name` over there."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Weight:
    """One of our weights, whole and without padding: its shape, and where its rows stand in Hugging Face's format."""

    shape: tuple[int, ...]
    unpadded_rows: int
    parts: tuple[Rows, ...]


def weights(model: ModelConfig) -> dict[str, Weight]:
    """Every weight of the model by our name, in the model's order; the one place that knows both naming schemes.

    Rows are copied as they are: our rotary positions turn the two halves of a head, as transformers' do, so that
    queries and keys need no permutation (Meta's own files interleave the pairs). Embedding and head lose their
    padding rows.
    """
    hidden, head_size = model.hidden_size, model.head_size
    queries, keys = model.attention_heads * head_size, model.key_value_heads * head_size
    inner, vocabulary, padded = model.feed_forward_size, model.vocabulary_size, model.padded_vocabulary_size

    found: dict[str, Weight] = {}

    def declare(name: str, columns: int | None, *parts: tuple[str, int], padded_rows: int | None = None) -> None:
        start, rows = 0, []
        for other, size in parts:
            rows.append(Rows(other, start, start + size))
            start += size
        total = padded_rows or start
        found[name] = Weight((total,) if columns is None else (total, columns), start, tuple(rows))

    declare("embedding.weight", hidden, ("model.embed_tokens.weight", vocabulary), padded_rows=padded)
    for i in range(model.layers):
        ours, theirs = f"layers.{i}", f"model.layers.{i}"
        declare(f"{ours}.attention_norm.weight", None, (f"{theirs}.input_layernorm.weight", hidden))
        declare(
            f"{ours}.attention.query_key_value.weight",
            hidden,
            (f"{theirs}.self_attn.q_proj.weight", queries),
            (f"{theirs}.self_attn.k_proj.weight", keys),
            (f"{theirs}.self_attn.v_proj.weight", keys),
        )
        declare(f"{ours}.attention.output.weight", queries, (f"{theirs}.self_attn.o_proj.weight", hidden))
        declare(f"{ours}.mlp_norm.weight", None, (f"{theirs}.post_attention_layernorm.weight", hidden))
        declare(
            f"{ours}.mlp.gate_up.weight",
            hidden,
            (f"{theirs}.mlp.gate_proj.weight", inner),
            (f"{theirs}.mlp.up_proj.weight", inner),
        )
        declare(f"{ours}.mlp.down.weight", inner, (f"{theirs}.mlp.down_proj.weight", hidden))
    declare("final_norm.weight", None, ("model.norm.weight", hidden))
    declare("head.weight", hidden, ("lm_head.weight", vocabulary), padded_rows=padded)
    return found


def parameter_count(model: ModelConfig) -> int:
    """Weights of the model, padding rows of the vocabulary not counted."""
    return sum(
        weight.unpadded_rows * (weight.shape[1] if len(weight.shape) == 2 else 1) for weight in weights(model).values()
    )


def to_hugging_face(name: str, weight: Weight, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """One of our tensors as the tensors it is over there: views, in any dtype.

    Raises:
        ValueError: the tensor has another shape than the model's settings say.
    """
    if tuple(tensor.shape) != weight.shape:
        raise ValueError(f"{name}: shape {tuple(tensor.shape)}, but the model's settings make it {weight.shape}")
    return {rows.name: tensor[rows.start : rows.stop] for rows in weight.parts}


def from_hugging_face(name: str, weight: Weight, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
    """One of our tensors from the tensors it is over there; padding rows are zero.

    Args:
        read: gives a tensor by its name in Hugging Face's format.

    Raises:
        ValueError: a tensor has another shape than the model's settings say.
    """
    import torch

    parts = []
    for rows in weight.parts:
        part = read(rows.name)
        shape = (rows.stop - rows.start, *weight.shape[1:])
        if tuple(part.shape) != shape:
            raise ValueError(f"{rows.name}: shape {tuple(part.shape)}, but {name} needs {shape}")
        parts.append(part)
    padding = weight.shape[0] - weight.unpadded_rows
    if padding:
        parts.append(torch.zeros((padding, *weight.shape[1:]), dtype=parts[0].dtype))
    return torch.cat(parts)


def hugging_face_config(model: ModelConfig, *, dtype: str, end_of_document: int) -> dict[str, Any]:
    """The content of `config.json`, which makes transformers build the same model.

    `rope_theta` stands twice: transformers 5 reads `rope_parameters`, older ones the plain key.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocabulary_size,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.attention_heads,
        "num_key_value_heads": model.key_value_heads,
        "head_dim": model.head_size,
        "intermediate_size": model.feed_forward_size,
        "max_position_embeddings": model.maximum_positions,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_epsilon,
        "rope_theta": model.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "initializer_range": model.initial_std,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "bos_token_id": end_of_document,
        "eos_token_id": end_of_document,
        "pad_token_id": None,
        "use_cache": True,
        "dtype": dtype,
    }
