"""DeepSpeed's configuration, generated in full from our settings.

Every key that affects a result is written out: several defaults of DeepSpeed have changed between releases, so that an
omitted key could change results with an upgrade.
"""

from __future__ import annotations

from typing import Any

from pretrain.config import TrainConfig
from pretrain.topology import Topology


def deepspeed_config(config: TrainConfig, topology: Topology) -> dict[str, Any]:
    """Configuration for `deepspeed.initialize`, without the optimizer and the learning rate, which are ours."""
    batch = config.batch
    return {
        # To DeepSpeed all replicas are data ranks, so that it counts a sample once for each rank that has a part of it.
        "train_batch_size": batch.global_batch_size * topology.context,
        "train_micro_batch_size_per_gpu": batch.micro_batch_size,
        "gradient_accumulation_steps": config.accumulation_steps(topology.data),
        "gradient_clipping": config.optimizer.gradient_clipping,
        "prescale_gradients": False,
        # A gradient is added to the fp32 sum as soon as it is complete, and freed: no stage has all of them in bf16.
        "bf16": {"enabled": config.precision == "bf16", "immediate_grad_update": config.precision == "bf16"},
        "fp16": {"enabled": False},
        # Stage 1 and fp32 accumulation are both explicit: without one of them, DeepSpeed silently accumulates in bf16.
        "zero_optimization": {
            "stage": 1,
            "round_robin_gradients": False,
            "overlap_comm": False,
            # Larger gradients are reduced in place, without a copy. Used in fp32 only.
            "reduce_bucket_size": 1 << 18,
            "contiguous_gradients": True,
        },
        "zero_allow_untested_optimizer": config.optimizer.kind != "adamw",  # the others are ours, and tested here
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "pipeline": {"activation_checkpoint_interval": 0, "pipe_partitioned": False, "grad_partitioned": False},
        "timers": {"throughput": {"enabled": False}},
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "dump_state": False,
    }
