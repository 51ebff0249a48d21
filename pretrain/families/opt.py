"""OPT in Hugging Face's format: GPT-3's block with ReLU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pretrain.families.format import REQUIRED, Format, full_heads, known
from pretrain.families.mapping import Source, same, with_bias

if TYPE_CHECKING:
    from pretrain.config import ModelConfig

BLOCK: dict[str, Any] = {
    "positions": "learned",
    "norm": "layer",
    "activation": "relu",
    "biases": True,
    "tied_embedding": True,
}
"""Zhang et al. 2022, arXiv:2205.01068, section 2.1. The 350M model, which has norms after the sums and embeddings of
another size, is not this block and is refused."""

_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


def _to_config(model: ModelConfig) -> dict[str, Any]:
    theirs = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_new"}
    return {"activation_function": theirs[model.activation], "word_embed_proj_dim": model.hidden_size}


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    known(config, "activation_function", *_ACTIVATIONS)
    known(config, "word_embed_proj_dim", config["hidden_size"])
    return {
        "key_value_heads": config["num_attention_heads"],
        "activation": _ACTIVATIONS[config.get("activation_function", "relu")],
        "norm_epsilon": 1e-5,
    }


FORMAT = Format(
    family="opt",
    name="transformers' OPT",
    model_type="opt",
    architecture="OPTForCausalLM",
    prefix="model.",
    weights={
        "embedding.weight": same("model.decoder.embed_tokens.weight"),
        "positions.weight": Source(("model.decoder.embed_positions.weight",), "after_two"),
        **with_bias("layers.{}.attention_norm", "model.decoder.layers.{}.self_attn_layer_norm"),
        **{
            f"layers.{{}}.attention.query_key_value.{part}": same(
                *(f"model.decoder.layers.{{}}.self_attn.{name}_proj.{part}" for name in "qkv")
            )
            for part in ("weight", "bias")
        },
        **with_bias("layers.{}.attention.output", "model.decoder.layers.{}.self_attn.out_proj"),
        **with_bias("layers.{}.mlp_norm", "model.decoder.layers.{}.final_layer_norm"),
        **with_bias("layers.{}.mlp.up", "model.decoder.layers.{}.fc1"),
        **with_bias("layers.{}.mlp.down", "model.decoder.layers.{}.fc2"),
        **with_bias("final_norm", "model.decoder.final_layer_norm"),
        "head.weight": same("lm_head.weight"),
    },
    computes={
        "positions": "learned",
        "norm": "layer",
        "norm_epsilon": 1e-5,
        "embedding_norm": False,
        "block": "sequential",
        "activation": ("relu", "gelu", "gelu_tanh"),
        "biases": True,
        "query_key_value_biases": True,
        "normalised_head": False,
        "logit_scale": 1.0,
    },
    computes_by_size=full_heads,
    entries={
        "vocab_size": ("vocabulary_size", REQUIRED),
        "hidden_size": ("hidden_size", REQUIRED),
        "num_hidden_layers": ("layers", REQUIRED),
        "num_attention_heads": ("attention_heads", REQUIRED),
        "ffn_dim": ("feed_forward_size", REQUIRED),
        "max_position_embeddings": ("maximum_positions", 2048),
        "init_std": ("initial_std", 0.02),
        "tie_word_embeddings": ("tied_embedding", True),
    },
    constants={
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
    },
    unread={"attention_dropout": 0.0, "dropout": 0.0, "layerdrop": 0.0},
    to_config=_to_config,
    from_config=_from_config,
)
