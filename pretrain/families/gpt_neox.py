"""GPT-NeoX and Pythia in Hugging Face's format: partly rotated heads, attention and MLP in parallel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pretrain.families.format import ANY, REQUIRED, Format, full_heads, known
from pretrain.families.mapping import same, with_bias
from pretrain.families.rotary import rotary_settings

if TYPE_CHECKING:
    from pretrain.config import ModelConfig

BLOCK: dict[str, Any] = {
    "positions": "rotary",
    "rotary_share": 0.25,
    "norm": "layer",
    "block": "parallel_two_norms",
    "activation": "gelu",
    "biases": True,
}
"""Black et al. 2022, arXiv:2204.06745, section 2.1, and Biderman et al. 2023, arXiv:2304.01373, section 2.2."""

_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


def _to_config(model: ModelConfig) -> dict[str, Any]:
    # Written twice: transformers 5 reads `rope_parameters`, older versions `rotary_pct` and `rotary_emb_base`.
    share, theta = model.rotary_share, model.rope_theta
    return {
        "hidden_act": "gelu" if model.activation == "gelu" else "gelu_new",
        "use_parallel_residual": model.block == "parallel_two_norms",
        "rotary_pct": share,
        "rotary_emb_base": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": share},
    }


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    known(config, "hidden_act", *_ACTIVATIONS)
    # Under the names of other architectures, so that all of these are compared.
    names = {"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"}
    for theirs, common in names.items():
        if common in config and config.get(theirs) != config[common]:
            raise ValueError(
                f"config.json: {common} {config[common]}, {theirs} {config.get(theirs)}: these must be equal, because "
                "only some versions of transformers read the first"
            )
    settings = {**config, **{name: config[theirs] for theirs, name in names.items() if theirs in config}}
    return {
        "key_value_heads": config["num_attention_heads"],
        "activation": _ACTIVATIONS[config.get("hidden_act", "gelu")],
        "block": "parallel_two_norms" if config.get("use_parallel_residual", True) else "sequential",
        **rotary_settings(settings, 10000.0, share=0.25),
    }


FORMAT = Format(
    family="gpt_neox",
    name="transformers' GPT-NeoX",
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    prefix="gpt_neox.",
    head="embed_out.weight",
    weights={
        "embedding.weight": same("gpt_neox.embed_in.weight"),
        **with_bias("layers.{}.attention_norm", "gpt_neox.layers.{}.input_layernorm"),
        # Query, key and value of one head after the other.
        **with_bias("layers.{}.attention.query_key_value", "gpt_neox.layers.{}.attention.query_key_value", "by_head"),
        **with_bias("layers.{}.attention.output", "gpt_neox.layers.{}.attention.dense"),
        **with_bias("layers.{}.mlp_norm", "gpt_neox.layers.{}.post_attention_layernorm"),
        **with_bias("layers.{}.mlp.up", "gpt_neox.layers.{}.mlp.dense_h_to_4h"),
        **with_bias("layers.{}.mlp.down", "gpt_neox.layers.{}.mlp.dense_4h_to_h"),
        **with_bias("final_norm", "gpt_neox.final_layer_norm"),
        "head.weight": same("embed_out.weight"),
    },
    computes={
        "positions": "rotary",
        "rope_scaling": None,
        "rotary_share": ANY,
        "norm": "layer",
        "embedding_norm": False,
        "block": ("parallel_two_norms", "sequential"),
        "activation": ("gelu", "gelu_tanh"),
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
        "intermediate_size": ("feed_forward_size", REQUIRED),
        "max_position_embeddings": ("maximum_positions", 2048),
        "layer_norm_eps": ("norm_epsilon", 1e-5),
        "initializer_range": ("initial_std", 0.02),
        "tie_word_embeddings": ("tied_embedding", False),
    },
    constants={"attention_bias": True},
    unread={"attention_dropout": 0.0, "hidden_dropout": 0.0},
    to_config=_to_config,
    from_config=_from_config,
    ignored=(r".*\.attention\.((masked_)?bias|rotary_emb\.inv_freq)",),  # masks and tables, which old versions saved
)
