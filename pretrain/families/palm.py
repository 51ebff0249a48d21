"""PaLM as Hugging Face's Cohere, which has the same block: attention and SwiGLU beside each other behind one bias-free
LayerNorm, interleaved rotary positions, tied embedding, scaled logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretrain.config import ModelConfig
from pretrain.families import llama
from pretrain.families.mapping import Source, Weight, known, map_weights, require

MODEL_TYPE = "cohere"
PREFIX = "model."
IGNORED = (r".*rotary_emb\.inv_freq", r"lm_head\.weight")

SOURCES: dict[str, Source] = {
    name: source for name, source in llama.SOURCES.items() if "mlp_norm" not in name and name != "head.weight"
}


def weights(model: ModelConfig) -> dict[str, Weight]:
    """Every weight of the model by our name, in the model's order, with its place in Hugging Face's format.

    Raises:
        ValueError: transformers' Cohere does not compute what the model's settings say.
    """
    require(
        model,
        "transformers' Cohere",
        positions="rotary_interleaved",
        norm="layer_without_bias",
        embedding_norm=False,
        block="parallel",
        activation="swiglu",
        biases=False,
        tied_embedding=True,
    )
    return map_weights(model, SOURCES)


def hugging_face_config(model: ModelConfig, *, dtype: str, end_of_document: int) -> dict[str, Any]:
    """The content of `config.json`, which makes transformers build the same model."""
    same = llama.hugging_face_config(model, dtype=dtype, end_of_document=end_of_document)
    del same["rms_norm_eps"], same["mlp_bias"]
    return {
        **same,
        "architectures": ["CohereForCausalLM"],
        "model_type": "cohere",
        "layer_norm_eps": model.norm_epsilon,
        "logit_scale": model.logit_scale,
        "use_qk_norm": False,
        "pad_token_id": None,  # transformers' default, 0, would keep that token's embedding from learning
    }


def model_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `ModelConfig` from the content of `config.json`.

    Raises:
        ValueError: it asks for something that our block does not compute.
    """
    known(config, "use_qk_norm", False)
    known(config, "tie_word_embeddings", True)
    settings = llama.model_settings(config)
    del settings["initial_std"]  # its initialisation sets every spread itself
    return {
        **settings,
        "family": "palm",
        "norm_epsilon": config.get("layer_norm_eps", 1e-5),
        "logit_scale": config.get("logit_scale", 0.0625),
        "tied_embedding": True,
    }
