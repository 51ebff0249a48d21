"""The DeepSpeed dictionary, generated in full from our settings.

Every key that decides a number is written out: several defaults of DeepSpeed have changed between releases, and a key
left out because it equals today's default is a number that changes with an upgrade.
"""

from __future__ import annotations

from typing import Any

from pretrain.config import TrainConfig


def deepspeed_config(config: TrainConfig, data_degree: int) -> dict[str, Any]:
    """What `deepspeed.initialize` is given. The optimizer and the learning rate are ours and not in it."""
    batch = config.batch
    return {
        "train_batch_size": batch.global_batch_size,
        "train_micro_batch_size_per_gpu": batch.micro_batch_size,
        "gradient_accumulation_steps": config.accumulation_steps(data_degree),
        "gradient_clipping": config.optimizer.gradient_clipping,
        "prescale_gradients": False,
        "bf16": {"enabled": config.precision == "bf16", "immediate_grad_update": False},
        "fp16": {"enabled": False},
        # Stage 1 by name and fp32 accumulation by name: without both, DeepSpeed accumulates in bf16 and says nothing.
        "zero_optimization": {
            "stage": 1,
            "round_robin_gradients": False,
            "overlap_comm": False,
            # Larger gradients are reduced where they are, without a copy. Read in fp32 alone.
            "reduce_bucket_size": 1 << 18,
            "contiguous_gradients": True,
        },
        "zero_allow_untested_optimizer": False,
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "pipeline": {"activation_checkpoint_interval": 0, "pipe_partitioned": False, "grad_partitioned": False},
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "dump_state": False,
    }


def flat_settings(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every setting by its dotted name."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found.update(flat_settings(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return found
