"""GLM in the formats of its releases, which transformers lacks: its own GLM is another model, GLM-4.

`FORMAT` is that of the authors' Hugging Face repositories, which their own modelling code loads. `PARTS` are those of
checkpoints in files by tensor rank, `mp_rank_NN_model_states.pt`: THUDM/GLM's, and SwissArmyTransformer's, in which
GLM-130B was released.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pretrain.families.format import REQUIRED, Format, full_heads
from pretrain.families.mapping import Source, same, with_bias

if TYPE_CHECKING:
    from pretrain.config import ModelConfig

BLOCK: dict[str, Any] = {
    "positions": "learned_2d",
    "norm": "layer",
    "activation": "gelu_tanh",
    "biases": True,
    "tied_embedding": True,
}
"""Du et al. 2021, arXiv:2103.10360, section 2.3. GLM-130B has rotary positions, DeepNorm and GeGLU instead (Zeng et al.
2022, arXiv:2210.02414, section 2.1)."""


def _weights(embedding: str, stack: str, block_positions: str) -> dict[str, Source]:
    """Names of all weights, by the prefixes of three parts; queries, keys and values one after the other, as ours."""
    layer = f"{stack}layers.{{}}."
    return {
        "embedding.weight": same(f"{embedding}word_embeddings.weight"),
        "positions.weight": same(f"{stack}position_embeddings.weight"),
        "block_positions.weight": same(f"{block_positions}block_position_embeddings.weight"),
        **with_bias("layers.{}.attention_norm", f"{layer}input_layernorm"),
        **with_bias("layers.{}.attention.query_key_value", f"{layer}attention.query_key_value"),
        **with_bias("layers.{}.attention.output", f"{layer}attention.dense"),
        **with_bias("layers.{}.mlp_norm", f"{layer}post_attention_layernorm"),
        **with_bias("layers.{}.mlp.up", f"{layer}mlp.dense_h_to_4h"),
        **with_bias("layers.{}.mlp.down", f"{layer}mlp.dense_4h_to_h"),
        **with_bias("final_norm", f"{stack}final_layernorm"),
    }


def _four_times(model: ModelConfig) -> dict[str, Any]:
    return {**full_heads(model), "feed_forward_size": 4 * model.hidden_size}


def _to_config(model: ModelConfig) -> dict[str, Any]:
    # The tables of positions have a row more than the length says.
    return {"max_sequence_length": model.maximum_positions - 1}


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    if "num_layers" not in config:
        raise ValueError(
            "config.json: num_layers: missing; a GLM-4, whose model_type is 'glm' too and which has num_hidden_layers, "
            "is not supported"
        )
    return {
        "key_value_heads": config["num_attention_heads"],
        "feed_forward_size": 4 * config["hidden_size"],
        "maximum_positions": config.get("max_sequence_length", 512) + 1,
        "activation": "gelu",
    }


FORMAT = Format(
    family="glm",
    name="GLM in Hugging Face's format",
    model_type="glm",
    architecture="GLMModel",
    prefix="glm.",
    weights=_weights("glm.", "glm.transformer.", "glm.transformer."),
    computes={
        "positions": "learned_2d",
        "norm": "layer",
        "norm_epsilon": 1e-5,
        "embedding_norm": False,
        "block": "sequential",
        "activation": "gelu",  # of the modelling code; the models were trained with the tanh form
        "biases": True,
        "query_key_value_biases": True,
        "tied_embedding": True,
        "logit_scale": 1.0,
    },
    computes_by_size=_four_times,
    entries={
        "vocab_size": ("vocabulary_size", REQUIRED),
        "hidden_size": ("hidden_size", REQUIRED),
        "num_attention_heads": ("attention_heads", REQUIRED),
        "num_layers": ("layers", None),
        "initializer_range": ("initial_std", 0.02),
    },
    constants={"block_position_encoding": True, "relative_encoding": False, "output_predict": True},
    unread={
        "attention_dropout_prob": 0.0,
        "embedding_dropout_prob": 0.0,
        "output_dropout_prob": 0.0,
        "attention_scale": 1.0,  # whatever it is, it cancels out: it keeps half-precision scores small
        "auto_map": {
            "AutoConfig": "configuration_glm.GLMConfig",
            "AutoModel": "modeling_glm.GLMModel",
            "AutoModelForSeq2SeqLM": "modeling_glm.GLMForConditionalGeneration",
        },
    },
    to_config=_to_config,
    from_config=_from_config,
)

_TABLES = r".*\.inv_freq"
"""Buffers in part files that are computed anew."""

_GLM = replace(
    FORMAT,
    name="a checkpoint of THUDM/GLM",
    prefix="",
    weights=_weights("", "transformer.", "transformer."),
    computes={**FORMAT.computes, "activation": "gelu_tanh"},
)
_SAT = replace(
    _GLM,
    name="a checkpoint of SwissArmyTransformer's GLM",
    weights=_weights("transformer.", "transformer.", "mixins.block_position_embedding."),
    computes_by_size=full_heads,
    ignored=(_TABLES,),
)
_SAT_130B = replace(
    _SAT,
    name="a checkpoint of SwissArmyTransformer's GLM-130B",
    weights={
        **_SAT.weights,
        # Query, key and value of one head after the other; and the MLP multiplies its first half by the GELU of the
        # second one.
        **with_bias(
            "layers.{}.attention.query_key_value", "transformer.layers.{}.attention.query_key_value", "by_head"
        ),
        **with_bias("layers.{}.mlp.gate_up", "transformer.layers.{}.mlp.dense_h_to_4h", "gate_last"),
    },
    computes={
        **_SAT.computes,
        "positions": "rotary",
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "block": "deepnorm",
        "activation": "geglu",
    },
)

PARTS = {"glm": _GLM, "sat": _SAT, "sat-130b": _SAT_130B}
"""Formats of files by tensor rank, by program and model. Sources: `mpu/transformer.py` and `change_mp.py` of THUDM/GLM,
`sat/model/official/` of THUDM/SwissArmyTransformer, `tools/convert_tp.py` of THUDM/GLM-130B."""
