"""Check of DeepSpeed's effective settings against the requested ones, which depend on keys that are easy to lose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from foundation.configuration import flat_settings
from pretrain.config import TrainConfig
from pretrain.engine.deepspeed_config import deepspeed_config
from pretrain.engine.library import BF16_Optimizer, DeepSpeedZeroOptimizer, deepspeed
from pretrain.topology import Topology

_PARSED_GROUPS = {
    "bf16": "bfloat16_config",
    "fp16": "float16_config",
    "zero_optimization": "zero_config",
    "pipeline": "pipeline",
    "timers.throughput": "timers_config",
    "data_types": None,  # kept with the settings without a group
}
"""Attributes of DeepSpeed's parsed configuration, by group of its dictionary."""


def _effective_value(engine: Any, key: str) -> Any:
    """Effective value of a dotted key of DeepSpeed's dictionary. Raises AttributeError for an unknown key."""
    group, _, name = key.rpartition(".")
    parsed = _PARSED_GROUPS[group] if group else None
    place = getattr(engine._config, parsed) if parsed else engine._config
    value = place[name] if isinstance(place, dict) else getattr(place, name)
    return "fp32" if value is torch.float32 else value


def check_settings(
    engine: Any, config: TrainConfig, topology: Topology, parameter_groups: Sequence[dict[str, Any]]
) -> None:
    """Raise RuntimeError when a setting of DeepSpeed's engine differs from the requested one."""
    expected = BF16_Optimizer if config.precision == "bf16" else DeepSpeedZeroOptimizer
    optimizer = engine.optimizer
    found = {
        "optimizer": type(optimizer).__name__,
        "inner optimizer": type(optimizer.optimizer).__name__,
        "gradient accumulation dtype": str(engine.get_data_types()[1]),
        "gradient clipping": optimizer.clip_grad,
        "weight decay": [group["weight_decay"] for group in optimizer.optimizer.param_groups],
    }
    expected_values = {
        "optimizer": expected.__name__,
        "inner optimizer": {"adamw": "AdamW", "muon": "Muon", "adafactor": "Adafactor"}[config.optimizer.kind],
        "gradient accumulation dtype": "torch.float32",
        "gradient clipping": config.optimizer.gradient_clipping,
        "weight decay": [group["weight_decay"] for group in parameter_groups],
    }
    requested = flat_settings(deepspeed_config(config, topology))
    for key, value in [*expected_values.items(), *requested.items()]:
        effective = found[key] if key in found else _effective_value(engine, key)
        if effective != value:
            raise RuntimeError(f"DeepSpeed {deepspeed.__version__} uses {key} {effective!r} instead of {value!r}")
