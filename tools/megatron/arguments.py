"""Megatron-LM's arguments, which its checkpoints contain, from and to the settings of a model.

Source: `arguments.py`, `checkpointing.py` (`load_args_from_checkpoint`) and `gpt_builders.py` of Megatron-LM, and
`TransformerConfig` of megatron-core 0.16.1. `docs/migrate.md` has the table for people.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from pretrain.config import VOCABULARY_MULTIPLE, ModelConfig
from pretrain.families.format import COMPUTED_BY_ALL
from pretrain.families.registry import FAMILIES
from tools.megatron.weights import check_computed

COMPUTES: dict[str, tuple[Any, ...]] = {
    **{setting: (value,) for setting, value in COMPUTED_BY_ALL.items() if setting != "rotary_share"},
    "positions": ("rotary", "rotary_interleaved", "learned"),
    "query_key_norm": ("none", "per_head"),
    "norm": ("rms", "layer"),
    "embedding_norm": (False,),
    "block": ("sequential",),
    "activation": ("swiglu", "gelu", "gelu_tanh"),
    "normalised_head": (False,),
    "logit_scale": (1.0,),
}
"""Settings that Megatron-LM's arguments can express. megatron-core itself computes more, such as a sliding window."""

LLAMA_3 = {"low_frequency_factor": 1.0, "high_frequency_factor": 4.0, "original_positions": 8192}
"""What megatron-core's scaling of rotary frequencies is fixed to. Source: `RotaryEmbedding._apply_scaling`."""

ABSENT: dict[str, tuple[Any, ...]] = {
    "apply_layernorm_1p": (False,),
    "apply_residual_connection_post_layernorm": (False,),
    "squared_relu": (False,),
    "quick_geglu": (False,),
    "openai_gelu": (False,),
    "use_te_activation_func": (False,),
    "glu_linear_offset": (0.0,),
    "activation_func_clamp_value": (None,),
    "num_experts": (None, 0),
    "mtp_num_layers": (None, 0),
    "multi_latent_attention": (False,),
    "qk_l2_norm": (False,),
    "attention_output_gate": (False,),
    "experimental_attention_variant": (None,),
    "linear_attention_freq": (None,),
    "softmax_type": ("vanilla",),
    "softmax_scale": (None,),
    "window_size": (None,),
    "no_rope_freq": (None,),
    "hybrid_layer_pattern": (None,),
    "hybrid_override_pattern": (None,),
    "is_hybrid_model": (False,),
    "heterogeneous_layers_config_path": (None,),
    "heterogeneous_layers_config_encoded_json": (None,),
    "spec": (None,),
    "use_legacy_models": (False,),
    "retro_add_retriever": (False,),
}
"""Arguments of what our block does not compute, with the values that leave it out; older versions lack some."""

POSITIONS = {"rope": "rotary", "learned_absolute": "learned"}
NORMS = {"RMSNorm": "rms", "LayerNorm": "layer"}


class _Arguments:
    """Arguments by name, with refusals that say where they are."""

    def __init__(self, given: Mapping[str, Any], where: str) -> None:
        self._given, self._where = given, where

    def fault(self, name: str, wanted: str) -> ValueError:
        return ValueError(f"{self._where}: {name}: {self._given.get(name)!r}: {wanted}")

    def get(self, name: str, default: Any) -> Any:
        found = self._given.get(name, default)
        return default if found is None else found

    def number(self, name: str) -> int:
        found = self._given.get(name)
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise self.fault(name, "must be a number above zero")
        return found

    def one_of(self, name: str, known: Mapping[str, str]) -> str:
        found = known.get(str(self._given.get(name)))
        if found is None:
            raise self.fault(name, f"only {' or '.join(known)} can be computed here")
        return found

    def check_absent(self) -> None:
        for name, allowed in ABSENT.items():
            if self._given.get(name, allowed[0]) not in allowed:
                raise self.fault(name, f"only {' or '.join(map(repr, allowed))} can be computed here")


def model_settings(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings of `ModelConfig` from the arguments of a run, each that a family may have a default of. The vocabulary's
    size is that of Megatron-LM's softmax, which includes the rows that fill it up.

    Args:
        where: where they are from, for messages.

    Raises:
        ValueError: an argument is missing, or our block does not compute it; names it.
    """
    arguments = _Arguments(given, where)
    arguments.check_absent()
    heads, hidden, size = (arguments.number(name) for name in ("num_attention_heads", "hidden_size", "kv_channels"))
    is_grouped, has_biases = arguments.get("group_query_attention", False), arguments.get("add_bias_linear", True)
    settings: dict[str, Any] = {
        **{setting: values[0] for setting, values in COMPUTES.items()},
        "vocabulary_size": arguments.number("padded_vocab_size"),
        "hidden_size": hidden,
        "layers": arguments.number("num_layers"),
        "attention_heads": heads,
        "key_value_heads": arguments.number("num_query_groups") if is_grouped else heads,
        "attention_head_size": None if size * heads == hidden else size,
        "feed_forward_size": arguments.number("ffn_hidden_size"),
        "maximum_positions": arguments.number("max_position_embeddings"),
        "norm": arguments.one_of("normalization", NORMS),
        "norm_epsilon": float(arguments.get("norm_epsilon", 1e-5)),
        "activation": _activation(arguments, has_biases),
        "query_key_norm": "per_head" if arguments.get("qk_layernorm", False) else "none",
        "biases": has_biases,
        "query_key_value_biases": has_biases or arguments.get("add_qkv_bias", False),
        "tied_embedding": not arguments.get("untie_embeddings_and_output_weights", False),
        **_positions(arguments),
    }
    if settings["query_key_norm"] == "per_head" and settings["norm"] != "rms":
        raise arguments.fault("qk_layernorm", "with LayerNorm it cannot be computed here, only with RMSNorm")
    return {"family": _family(settings), **settings}


def _activation(arguments: _Arguments, has_biases: bool) -> str:
    if arguments.get("swiglu", False):
        return "swiglu"
    # The fused form, which needs biases, computes the tanh form; PyTorch's does not.
    return "gelu_tanh" if has_biases and arguments.get("bias_gelu_fusion", True) else "gelu"


def _positions(arguments: _Arguments) -> dict[str, Any]:
    positions = arguments.one_of("position_embedding_type", POSITIONS)
    if positions == "learned":
        return {"positions": positions, "rope_theta": 10000.0, "rotary_share": 1.0, "rope_scaling": None}
    return {
        "positions": "rotary_interleaved" if arguments.get("rotary_interleaved", False) else positions,
        "rope_theta": float(arguments.get("rotary_base", 10000)),
        "rotary_share": float(arguments.get("rotary_percent", 1.0)),
        "rope_scaling": _scaling(arguments),
    }


def _scaling(arguments: _Arguments) -> dict[str, Any] | None:
    factor = arguments.get("rotary_seq_len_interpolation_factor", None)
    if not arguments.get("use_rope_scaling", False):
        return None if factor is None else {"kind": "linear", "factor": float(factor)}
    if factor is not None:
        raise arguments.fault("rotary_seq_len_interpolation_factor", "cannot be computed here beside use_rope_scaling")
    return {"kind": "llama3", "factor": float(arguments.get("rope_scaling_factor", 8.0)), **LLAMA_3}


def _family(settings: Mapping[str, Any]) -> str:
    """The family whose block this is, for the export to Hugging Face; `llama` where there is none."""
    defaults = {name: field.default for name, field in ModelConfig.model_fields.items()} | dict(settings)
    blocks = {name: {**family.block, "norm_epsilon": defaults["norm_epsilon"]} for name, family in FAMILIES.items()}
    fitting = [name for name, block in blocks.items() if all(defaults[key] == value for key, value in block.items())]
    return max(fitting, key=lambda name: len(blocks[name]), default="llama")


def check_expressible(model: ModelConfig) -> None:
    """Refuse a model that Megatron-LM's arguments cannot express.

    Raises:
        ValueError: names the setting, its value and what they can express.
    """
    check_computed(model, COMPUTES, "Megatron-LM")
    scaling = model.rope_scaling
    if scaling is not None:
        fixed = {name: getattr(scaling, name) for name in LLAMA_3}
        if scaling.kind not in ("linear", "llama3") or (scaling.kind == "llama3" and fixed != LLAMA_3):
            raise ValueError(
                f"model.rope_scaling: {scaling.kind} with {fixed} is not in Megatron-LM, only linear, and llama3 with "
                f"{LLAMA_3}"
            )
    for name, value, applies, wanted in (
        ("query_key_norm", "per_head", model.norm == "rms", "norm is rms; with LayerNorm theirs has a bias"),
        ("activation", "gelu_tanh", model.biases, "there are biases; without them it computes gelu"),
        ("biases", True, model.query_key_value_biases, "queries, keys and values have biases too"),
    ):
        if getattr(model, name) == value and not applies:
            raise ValueError(f"model.{name}: {value} is in Megatron-LM only where {wanted}")


def arguments_of(model: ModelConfig) -> Namespace:
    """The arguments that `--use-checkpoint-args` takes, and those that `model_settings` needs beside them."""
    is_grouped = model.key_value_heads < model.attention_heads
    scaling = model.rope_scaling
    kind = None if scaling is None else scaling.kind
    rotary = {
        "rotary_base": int(model.rope_theta) if model.rope_theta.is_integer() else model.rope_theta,
        "rotary_percent": model.rotary_share,
        "rotary_interleaved": model.positions == "rotary_interleaved",
        "rotary_seq_len_interpolation_factor": scaling.factor if scaling and kind == "linear" else None,
        "use_rope_scaling": kind == "llama3",
        "rope_scaling_factor": scaling.factor if scaling and kind == "llama3" else 8.0,
    }
    return Namespace(
        num_layers=model.layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.feed_forward_size,
        num_attention_heads=model.attention_heads,
        group_query_attention=is_grouped,
        num_query_groups=model.key_value_heads if is_grouped else 1,
        kv_channels=model.head_size,
        seq_length=model.maximum_positions,
        max_position_embeddings=model.maximum_positions,
        position_embedding_type="rope" if model.is_rotary else "learned_absolute",
        add_position_embedding=True,
        **rotary,
        normalization="RMSNorm" if model.norm == "rms" else "LayerNorm",
        norm_epsilon=model.norm_epsilon,
        apply_layernorm_1p=False,
        qk_layernorm=model.query_key_norm == "per_head",
        swiglu=model.activation == "swiglu",
        squared_relu=False,
        bias_gelu_fusion=model.activation == "gelu_tanh",
        add_bias_linear=model.biases,
        add_qkv_bias=model.query_key_value_biases,
        untie_embeddings_and_output_weights=not model.tied_embedding,
        attention_dropout=model.attention_dropout,
        hidden_dropout=model.hidden_dropout,
        apply_query_key_layer_scaling=False,
        num_experts=None,
        mtp_num_layers=None,
        spec=None,
        make_vocab_size_divisible_by=VOCABULARY_MULTIPLE,
        padded_vocab_size=model.padded_vocabulary_size(),
        tensor_model_parallel_size=1,
        pipeline_model_parallel_size=1,
        ckpt_format="torch_dist",
    )


def options_beside(model: ModelConfig) -> list[str]:
    """Options of Megatron-LM's command line that `--use-checkpoint-args` does not take from a checkpoint."""
    found = arguments_of(model)
    options = [f"--norm-epsilon {found.norm_epsilon}"]
    if found.qk_layernorm:
        options.append("--qk-layernorm")
    if model.activation == "gelu":
        options.append("--no-bias-gelu-fusion")
    if found.use_rope_scaling and model.is_rotary:
        options.append(f"--use-rope-scaling --rope-scaling-factor {found.rope_scaling_factor}")
    if found.rotary_seq_len_interpolation_factor is not None:
        options.append(f"--rotary-seq-len-interpolation-factor {found.rotary_seq_len_interpolation_factor}")
    return options
