"""The only import of DeepSpeed: without its log messages, on the right accelerator, and not in faulty releases."""

from __future__ import annotations

import logging
import os

import torch

from pretrain.device import local_device
from pretrain.quick_import import quick_import

# Set before the import: DeepSpeed logs while it is imported. ALTIPLANO_DEEPSPEED_LOG=INFO shows all of it.
LOG_LEVEL = os.environ.get("ALTIPLANO_DEEPSPEED_LOG", "ERROR")
os.environ.setdefault("DS_LOG_LEVEL", LOG_LEVEL.lower())
logging.getLogger("DeepSpeed").setLevel(LOG_LEVEL)

if local_device().type == "cpu":
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else every process logs a warning that it found no accelerator

with quick_import():
    import deepspeed
    import deepspeed.runtime.zero.muon.muon_optimizer  # its engine would import it, whatever the optimizer
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
    from deepspeed.runtime.pipe import LayerSpec, PipelineModule, TiedLayerSpec
    from deepspeed.runtime.pipe.schedule import BackwardPass, ForwardPass, ReduceTiedGrads
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
    from deepspeed.runtime.utils import get_global_norm_of_tensors, partition_balanced
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
    from deepspeed.utils import logger as deepspeed_logger
    from deepspeed.utils import safe_get_full_grad
    from deepspeed.utils.timer import NoopTimer

__all__ = (
    "LOG_LEVEL",
    "BF16_Optimizer",
    "BackwardPass",
    "DeepSpeedZeroOptimizer",
    "ForwardPass",
    "LayerSpec",
    "NoopTimer",
    "PipeModelDataParallelTopology",
    "PipelineModule",
    "ReduceTiedGrads",
    "TiedLayerSpec",
    "deepspeed",
    "deepspeed_logger",
    "get_global_norm_of_tensors",
    "partition_balanced",
    "refuse_faulty_versions",
    "safe_get_full_grad",
    "versions",
)

FAULTY_DEEPSPEED = (
    ((0, 18, 3), (0, 19, 2), "scales gradients wrongly under pipeline and accumulation (its issue 8152)"),
)
"""(first, last, fault): releases that compute wrong gradients without an error."""


def refuse_faulty_versions(version: str) -> None:
    """Raise ValueError for a DeepSpeed release that is known to compute wrong gradients."""
    found = tuple(int(part) for part in version.split("+")[0].split(".")[:3])
    for first, last, fault in FAULTY_DEEPSPEED:
        if first <= found <= last:
            raise ValueError(
                f"DeepSpeed {version} {fault}; releases {'.'.join(map(str, first))} to {'.'.join(map(str, last))} have "
                "this fault: install the one that constraints.txt names"
            )


def versions() -> dict[str, str]:
    """Versions of the libraries that affect a run's results."""
    import megatron.core

    return {"torch": torch.__version__, "deepspeed": deepspeed.__version__, "megatron-core": megatron.core.__version__}
