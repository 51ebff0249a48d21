"""GPT-3 as Hugging Face's GPT-2, which has the same block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pretrain.families.format import REQUIRED, Format, full_heads, known
from pretrain.families.mapping import same, with_bias

if TYPE_CHECKING:
    from pretrain.config import ModelConfig

BLOCK: dict[str, Any] = {
    "positions": "learned",
    "norm": "layer",
    "activation": "gelu_tanh",
    "biases": True,
    "tied_embedding": True,
}
"""Brown et al. 2020, arXiv:2005.14165, section 2.1, and GPT-2's released code, whose GELU is the tanh form. GPT-3's
alternating banded attention is not implemented: each layer attends to all earlier tokens, as in GPT-2."""


def _to_config(model: ModelConfig) -> dict[str, Any]:
    return {
        "n_ctx": model.maximum_positions,  # the same again, in every released file; llama.cpp's converter reads it
        "activation_function": "gelu_new" if model.activation == "gelu_tanh" else "gelu",
    }


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    known(config, "activation_function", "gelu_new", "gelu_pytorch_tanh", "gelu")
    return {
        "key_value_heads": config["n_head"],
        "feed_forward_size": config.get("n_inner", 4 * config["n_embd"]),
        "activation": "gelu" if config.get("activation_function") == "gelu" else "gelu_tanh",
    }


FORMAT = Format(
    family="gpt3",
    name="transformers' GPT-2",
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    prefix="transformer.",
    weights={
        "embedding.weight": same("transformer.wte.weight"),
        "positions.weight": same("transformer.wpe.weight"),
        # GPT-2's Conv1D stores the inputs first.
        **with_bias("layers.{}.attention_norm", "transformer.h.{}.ln_1"),
        **with_bias("layers.{}.attention.query_key_value", "transformer.h.{}.attn.c_attn", "transposed"),
        **with_bias("layers.{}.attention.output", "transformer.h.{}.attn.c_proj", "transposed"),
        **with_bias("layers.{}.mlp_norm", "transformer.h.{}.ln_2"),
        **with_bias("layers.{}.mlp.up", "transformer.h.{}.mlp.c_fc", "transposed"),
        **with_bias("layers.{}.mlp.down", "transformer.h.{}.mlp.c_proj", "transposed"),
        **with_bias("final_norm", "transformer.ln_f"),
    },
    computes={
        "positions": "learned",
        "norm": "layer",
        "embedding_norm": False,
        "block": "sequential",
        "activation": ("gelu_tanh", "gelu"),
        "biases": True,
        "query_key_value_biases": True,
        "tied_embedding": True,
        "logit_scale": 1.0,
    },
    computes_by_size=full_heads,
    entries={
        "vocab_size": ("vocabulary_size", REQUIRED),
        "n_embd": ("hidden_size", REQUIRED),
        "n_layer": ("layers", REQUIRED),
        "n_head": ("attention_heads", REQUIRED),
        "n_inner": ("feed_forward_size", None),
        "n_positions": ("maximum_positions", 1024),
        "layer_norm_epsilon": ("norm_epsilon", 1e-5),
        "initializer_range": ("initial_std", 0.02),
    },
    constants={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    unread={"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    to_config=_to_config,
    from_config=_from_config,
    ignored=(r".*\.attn\.(masked_)?bias",),  # masks, which old versions saved
)
