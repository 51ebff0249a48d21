"""ChatGLM 2 and 3 in the format of their releases, which transformers runs with the authors' own modelling code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pretrain.families.format import REQUIRED, Format, known
from pretrain.families.mapping import same, with_bias

if TYPE_CHECKING:
    from pretrain.config import ModelConfig

BLOCK: dict[str, Any] = {
    "positions": "rotary_interleaved",
    "rotary_share": 0.5,
    "norm": "rms",
    "activation": "swiglu",
    "query_key_value_biases": True,
}
"""GLM Team 2024, arXiv:2406.12793, section 2, and the released configurations and modelling code."""


def _to_config(model: ModelConfig) -> dict[str, Any]:
    grouped = model.key_value_heads < model.attention_heads
    return {
        "kv_channels": model.head_size,
        "multi_query_attention": grouped,
        "multi_query_group_num": model.key_value_heads if grouped else 1,
    }


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    known(config, "rope_ratio", 1, 1.0)  # scales positions in some releases of the code, and the base in others
    heads, size = config["num_attention_heads"], config.get("kv_channels", 128)
    return {
        "attention_head_size": None if size * heads == config["hidden_size"] else size,
        "key_value_heads": config.get("multi_query_group_num", 1) if config.get("multi_query_attention") else heads,
    }


FORMAT = Format(
    family="chatglm",
    name="ChatGLM 2 and 3",
    model_type="chatglm",
    architecture="ChatGLMModel",
    prefix="transformer.",
    head="transformer.output_layer.weight",
    weights={
        "embedding.weight": same("transformer.embedding.word_embeddings.weight"),
        "layers.{}.attention_norm.weight": same("transformer.encoder.layers.{}.input_layernorm.weight"),
        # All queries, all keys, all values, as ours; the MLP's first matrix is gate and up, as ours.
        **with_bias(
            "layers.{}.attention.query_key_value", "transformer.encoder.layers.{}.self_attention.query_key_value"
        ),
        "layers.{}.attention.output.weight": same("transformer.encoder.layers.{}.self_attention.dense.weight"),
        "layers.{}.mlp_norm.weight": same("transformer.encoder.layers.{}.post_attention_layernorm.weight"),
        "layers.{}.mlp.gate_up.weight": same("transformer.encoder.layers.{}.mlp.dense_h_to_4h.weight"),
        "layers.{}.mlp.down.weight": same("transformer.encoder.layers.{}.mlp.dense_4h_to_h.weight"),
        "final_norm.weight": same("transformer.encoder.final_layernorm.weight"),
        "head.weight": same("transformer.output_layer.weight"),
    },
    computes={
        "positions": "rotary_interleaved",
        "rotary_share": 0.5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "norm": "rms",
        "embedding_norm": False,
        "block": "sequential",
        "activation": "swiglu",
        "biases": False,
        "query_key_value_biases": True,
        "tied_embedding": False,
        "normalised_head": False,
        "logit_scale": 1.0,
    },
    entries={
        "padded_vocab_size": ("vocabulary_size", REQUIRED),
        "hidden_size": ("hidden_size", REQUIRED),
        "num_layers": ("layers", REQUIRED),
        "num_attention_heads": ("attention_heads", REQUIRED),
        "ffn_hidden_size": ("feed_forward_size", REQUIRED),
        "seq_length": ("maximum_positions", 2048),
        "layernorm_epsilon": ("norm_epsilon", 1e-5),
    },
    aliases={"vocab_size": "padded_vocab_size"},
    constants={
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_residual_connection_post_layernorm": False,
        "original_rope": True,
        "post_layer_norm": True,
        "rmsnorm": True,
        "tie_word_embeddings": False,
    },
    unread={"attention_dropout": 0.0, "hidden_dropout": 0.0},
    to_config=_to_config,
    from_config=_from_config,
    ignored=(r"transformer\.rotary_pos_emb\.inv_freq",),
)
