"""BLOOM in Hugging Face's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pretrain.families.format import REQUIRED, Format, full_heads
from pretrain.families.mapping import same, with_bias

if TYPE_CHECKING:
    from pretrain.config import ModelConfig

BLOCK: dict[str, Any] = {
    "positions": "alibi",
    "norm": "layer",
    "embedding_norm": True,
    "activation": "gelu_tanh",
    "biases": True,
    "tied_embedding": True,
}
"""Le Scao et al. 2022, arXiv:2211.05100, section 3.2."""


def _computes_by_size(model: ModelConfig) -> dict[str, Any]:
    return {**full_heads(model), "feed_forward_size": 4 * model.hidden_size}


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("slow_but_exact") and config.get("pretraining_tp", 1) > 1:
        # transformers' slow path sums the slices and omits the biases (BloomAttention.forward, BloomMLP.forward)
        raise ValueError(
            f"config.json: slow_but_exact: True with pretraining_tp {config['pretraining_tp']} is not supported, only "
            "False, because transformers then omits biases"
        )
    return {"key_value_heads": config["n_head"], "feed_forward_size": 4 * config["hidden_size"]}


FORMAT = Format(
    family="bloom",
    name="transformers' BLOOM",
    model_type="bloom",
    architecture="BloomForCausalLM",
    prefix="transformer.",
    weights={
        "embedding.weight": same("transformer.word_embeddings.weight"),
        **with_bias("embedding_norm", "transformer.word_embeddings_layernorm"),
        **with_bias("layers.{}.attention_norm", "transformer.h.{}.input_layernorm"),
        # Query, key and value of one head after the other.
        **with_bias(
            "layers.{}.attention.query_key_value", "transformer.h.{}.self_attention.query_key_value", "by_head"
        ),
        **with_bias("layers.{}.attention.output", "transformer.h.{}.self_attention.dense"),
        **with_bias("layers.{}.mlp_norm", "transformer.h.{}.post_attention_layernorm"),
        **with_bias("layers.{}.mlp.up", "transformer.h.{}.mlp.dense_h_to_4h"),
        **with_bias("layers.{}.mlp.down", "transformer.h.{}.mlp.dense_4h_to_h"),
        **with_bias("final_norm", "transformer.ln_f"),
    },
    computes={
        "positions": "alibi",
        "norm": "layer",
        "embedding_norm": True,
        "block": "sequential",
        "activation": "gelu_tanh",
        "biases": True,
        "query_key_value_biases": True,
        "tied_embedding": True,
        "logit_scale": 1.0,
    },
    computes_by_size=_computes_by_size,
    entries={
        "vocab_size": ("vocabulary_size", REQUIRED),
        "hidden_size": ("hidden_size", REQUIRED),
        "n_layer": ("layers", REQUIRED),
        "n_head": ("attention_heads", REQUIRED),
        "seq_length": ("maximum_positions", 2048),
        "layer_norm_epsilon": ("norm_epsilon", 1e-5),
        "initializer_range": ("initial_std", 0.02),
    },
    aliases={"n_embed": "hidden_size", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"},
    constants={"apply_residual_connection_post_layernorm": False, "tie_word_embeddings": True},
    unread={"attention_dropout": 0.0, "hidden_dropout": 0.0},
    from_config=_from_config,
)
