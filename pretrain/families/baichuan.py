"""Baichuan 1 and 2 in Hugging Face's format: the names and files of its authors' own modelling code.

transformers itself has no Baichuan. With rotary positions (the 7B models) it is LLaMA, except that queries, keys and
values are in one `W_pack`: `AS_LLAMA` exports it as LLaMA, where NormHead becomes an ordinary head with rows of length
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pretrain.families import llama
from pretrain.families.format import full_heads
from pretrain.families.mapping import same
from pretrain.families.rotary import rope_theta

if TYPE_CHECKING:
    from pretrain.config import ModelConfig

BLOCK: dict[str, Any] = {
    "positions": "rotary",
    "norm": "rms",
    "norm_epsilon": 1e-6,
    "activation": "swiglu",
}
"""Yang et al. 2023, arXiv:2309.10305, section 2. The 13B models have ALiBi instead of rotary positions, Baichuan 2 has
NormHead and max-z loss."""

BAICHUAN_2_VOCABULARY = 125696
"""Vocabulary size of Baichuan 2, by which its configurations are recognised: its modelling code always has NormHead,
Baichuan 1's never."""


def _to_config(model: ModelConfig) -> dict[str, Any]:
    # `normalised_head` and `positions` are our own entries: the released configurations do not distinguish the variants
    # of the modelling code apart. 13B configurations have no max_position_embeddings, as in the released files.
    rotary = {"max_position_embeddings": model.maximum_positions, "rope_theta": model.rope_theta}
    return {
        **(rotary if model.is_rotary else {}),
        "positions": model.positions,
        "normalised_head": model.normalised_head,
    }


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    positions = config.get("positions", "rotary" if "max_position_embeddings" in config else "alibi")
    return {
        "key_value_heads": config["num_attention_heads"],
        "maximum_positions": config.get("model_max_length", config.get("max_position_embeddings", 4096)),
        "positions": positions,
        **({"rope_theta": rope_theta(config, 10000.0)} if positions == "rotary" else {}),
        "normalised_head": config.get("normalised_head", config["vocab_size"] == BAICHUAN_2_VOCABULARY),
    }


_TAKEN = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")

FORMAT = replace(
    llama.FORMAT,
    family="baichuan",
    name="Baichuan",
    model_type="baichuan",
    architecture="BaichuanForCausalLM",
    weights={
        **llama.FORMAT.weights,
        "layers.{}.attention.query_key_value.weight": same("model.layers.{}.self_attn.W_pack.weight"),
    },
    computes={
        **llama.FORMAT.computes,
        "positions": ("rotary", "alibi"),
        "normalised_head": (True, False),
        "rope_scaling": None,
        "tied_embedding": False,
    },
    computes_by_size=full_heads,
    entries={
        **{name: llama.FORMAT.entries[name] for name in (*_TAKEN, "rms_norm_eps", "initializer_range")},
        "model_max_length": ("maximum_positions", None),
        "z_loss_weight": ("maximum_z_loss", 0.0),
    },
    constants={"hidden_act": "silu", "tie_word_embeddings": False},
    unread={},
    to_config=_to_config,
    from_config=_from_config,
    ignored=(*llama.FORMAT.ignored, r"model\.future_mask"),
)

AS_LLAMA = replace(
    llama.FORMAT,
    family="baichuan",
    # NormHead can be folded into the head; max-z loss matters for training only.
    computes={**llama.FORMAT.computes, "normalised_head": (True, False)},
)
"""Format that exports a Baichuan with rotary positions as LLaMA."""
