"""megatron-core's own model, loader and writer, in gloo processes on the CPU: the judge of `convert from-megatron` and
`to-megatron`.

What of megatron-core asks for a GPU is replaced: the device of the rotary frequencies and of a tied head, a
synchronisation before a save, and the random states of dropout, of which there is none.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F


def _start(tensor: int, pipeline: int = 1) -> None:
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import initialize_rng_tracker

    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment,return-value]
    torch.cuda.synchronize = lambda *_: None  # type: ignore[assignment]
    torch.Tensor.cuda = lambda tensor, *_: tensor  # type: ignore[assignment,method-assign]
    parallel_state.initialize_model_parallel(tensor, pipeline)
    initialize_rng_tracker(inference_rng_tracker=True)


def _config(args: Namespace) -> Any:
    """As `core_transformer_config_from_args` of Megatron-LM's `arguments.py` makes it of the arguments."""
    from megatron.core import parallel_state
    from megatron.core.transformer.transformer_config import TransformerConfig

    return TransformerConfig(
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        ffn_hidden_size=args.ffn_hidden_size,
        num_attention_heads=args.num_attention_heads,
        num_query_groups=args.num_query_groups if args.group_query_attention else None,
        kv_channels=args.kv_channels,
        normalization=args.normalization,
        layernorm_epsilon=args.norm_epsilon,
        qk_layernorm=args.qk_layernorm,
        add_bias_linear=args.add_bias_linear,
        add_qkv_bias=args.add_qkv_bias,
        gated_linear_unit=args.swiglu,
        activation_func=F.silu if args.swiglu else F.gelu,
        bias_activation_fusion=not args.swiglu and args.bias_gelu_fusion and args.add_bias_linear,
        rotary_interleaved=args.rotary_interleaved,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cpu_initialization=True,
        tensor_model_parallel_size=parallel_state.get_tensor_model_parallel_world_size(),
        pipeline_model_parallel_size=parallel_state.get_pipeline_model_parallel_world_size(),
        pipeline_dtype=torch.float32,
    )


def build(args: Namespace) -> Any:
    """This rank's `GPTModel` with the local spec, as `gpt_builders.py` of Megatron-LM makes it of the arguments."""
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec

    spec = get_gpt_layer_local_spec(qk_layernorm=args.qk_layernorm, normalization=args.normalization)
    return GPTModel(
        config=_config(args),
        transformer_layer_spec=spec,
        vocab_size=args.padded_vocab_size,
        max_sequence_length=args.max_position_embeddings,
        position_embedding_type=args.position_embedding_type,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
        rotary_percent=args.rotary_percent,
        rotary_base=args.rotary_base,
        rope_scaling=args.use_rope_scaling,
        rope_scaling_factor=args.rope_scaling_factor,
        seq_len_interpolation_factor=args.rotary_seq_len_interpolation_factor,
    )


def _logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    """This rank's logits, [B, S, V]."""
    length = tokens.shape[1]
    mask = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)[None, None]
    positions = torch.arange(length)[None].expand(len(tokens), -1)
    with torch.no_grad():
        return model.eval()(torch.from_numpy(tokens), positions, mask).numpy()


def _sharded(model: Any, metadata: Mapping[str, Any]) -> Any:
    from megatron.core import parallel_state

    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    return model.sharded_state_dict(metadata={"dp_cp_group": group, **metadata})


def loaded_logits(tensor: int, folders: Sequence[str], tokens: np.ndarray) -> list[np.ndarray]:
    """Logits of the models that megatron-core's loader reads, built from the arguments in each checkpoint."""
    _start(tensor)
    found = []
    for folder in folders:
        model, _ = _loaded(folder)
        found.append(_logits(model, tokens))
    return found


def _loaded(folder: str) -> tuple[Any, Namespace]:
    from megatron.core import dist_checkpointing

    args = dist_checkpointing.load_common_state_dict(folder)["args"]
    model = build(args)
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    loaded = dist_checkpointing.load({"model": _sharded(model, {})}, folder)
    model.load_state_dict(loaded["model"])
    return model, args


def save_again(tensor: int, pipeline: int, folders: Mapping[str, str]) -> None:
    """Let megatron-core load checkpoints and save them under these parallel degrees: from each folder to another."""
    from megatron.core import dist_checkpointing

    _start(tensor, pipeline)
    for before, after in folders.items():
        model, args = _loaded(before)
        Path(after).mkdir(parents=True, exist_ok=True)
        dist_checkpointing.save({"args": args, "iteration": 10, "model": _sharded(model, {})}, after)


UPDATES = 10


@dataclass(frozen=True)
class Save:
    """What megatron-core's writer saves.

    Attributes:
        metadata: of the form of the checkpoint, see `GPTModel.sharded_state_dict`.
        main_weights: name of the optimizer's weights, which are those of the model before it is rounded to bfloat16;
            beside them are moments, twice the weights and their squares, of `UPDATES` updates. Empty: no optimizer.
    """

    folder: str
    args: Namespace
    metadata: Mapping[str, Any]
    main_weights: str = ""


def saved_logits(tensor: int, saves: Sequence[Save], tokens: np.ndarray) -> list[np.ndarray]:
    """Logits of models with random weights, each of which megatron-core's writer saves."""
    from megatron.core import dist_checkpointing
    from megatron.core.enums import ModelType
    from megatron.core.transformer.enums import AttnBackend

    _start(tensor)
    found = []
    for save in saves:
        model = build(save.args)
        _fill(model)
        found.append(_logits(model, tokens))
        others = {"model_type": ModelType.encoder_or_decoder, "attention_backend": AttnBackend.auto}
        paths = {"load": Path("somewhere"), "params_dtype": torch.bfloat16}
        args = Namespace(**vars(save.args), **others, **paths)
        content = {"args": args, "checkpoint_version": 3.0, "iteration": 10, "model": _sharded(model, save.metadata)}
        if save.main_weights:
            content["optimizer"] = _optimizer(content["model"], save.main_weights)
        Path(save.folder).mkdir(parents=True, exist_ok=True)
        dist_checkpointing.save(content, save.folder)
    return found


def _fill(model: Any) -> None:
    """Lively weights; those that the tensor ranks share are the same on all of them."""
    for name, parameter in model.named_parameters():
        rank = dist.get_rank() if getattr(parameter, "tensor_model_parallel", False) else 0
        generator = torch.Generator().manual_seed(sum(map(ord, name)) + 7919 * rank)
        kept = parameter.data if "layernorm.weight" in name else 0
        parameter.data = kept + 0.1 * torch.randn(parameter.shape, generator=generator)


def _optimizer(sharded_model: dict[str, Any], main_weights: str) -> dict[str, Any]:
    """As `Float16OptimizerWithFloat16Params` (fp32_param) and `DistributedOptimizer` (param) save it."""
    from megatron.core.dist_checkpointing.optimizer import make_sharded_optimizer_tensor

    is_distributed = main_weights == "param"
    found: dict[str, Any] = {
        "optimizer": {
            "param_groups": [{"lr": 1e-3, **({"step": UPDATES} if is_distributed else {})}],
            "state": {} if is_distributed else {"common_step": torch.tensor(float(UPDATES))},
        }
    }
    for name, sharded in sharded_model.items():
        if isinstance(getattr(sharded, "data", None), torch.Tensor):
            exact = sharded.data.detach().clone()
            for key, value in {main_weights: exact, "exp_avg": 2 * exact, "exp_avg_sq": exact.square()}.items():
                found[f"{key} {name}"] = make_sharded_optimizer_tensor(sharded, value, f"optimizer.state.{key}")
            sharded.data = exact.bfloat16()
            if hasattr(sharded, "dtype"):
                sharded.dtype = torch.bfloat16
    return found
