"""Code run by the processes of the tests of the parity check."""

from __future__ import annotations

import gc
import hashlib
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import pretrain.check.certificate as certificate
from pretrain.config import TrainConfig
from pretrain.engine.engine import Engine
from pretrain.engine.faults import Fault
from pretrain.engine.processes import join_processes
from pretrain.topology import Topology
from tests.distributed import cases
from tests.distributed.memory_cases import storages


def checked(configs: Sequence[TrainConfig], topology: Topology, folder: str, fault: str = "") -> list[dict[str, Any]]:
    """Certificates of some configurations, and what each check leaves behind in this process."""
    join_processes(timeout_seconds=300)
    cases.put_in(fault)
    found = []
    for number, config in enumerate(configs):
        config = config.model_copy(update={"output": Path(folder) / str(number)})
        before = _state()
        result = certificate.check(config, topology)
        left = {name for name, value in _state().items() if value != before[name]}
        found.append({**asdict(result), "passed": result.passed, "verdict": result.verdict, "left": left})
    return found


def _state() -> dict[str, object]:
    """What a check must leave as it is: random states, process groups, memory of tensors."""
    gc.collect()
    return {
        "torch": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
        "numpy": np.random.get_state()[1].tobytes(),
        "random": hash(random.getstate()),
        "groups": len(dist.distributed_c10d._world.pg_map),
        "tensors": sum(storages().values()) >> 16,  # in units of 64 KiB, a tenth of the smallest twin
    }


def check_with_a_harmless_fault(config: TrainConfig, topology: Topology) -> list[str]:
    """Verdict of a planted fault that changes nothing."""
    join_processes(timeout_seconds=300)
    harmless = Fault("nothing is wrong", lambda engine: "", certificate.FAULTS[-1].plant)
    vars(certificate)["FAULTS"] = (harmless,)
    result = certificate.check(config, topology)
    return [row.verdict for row in result.rows if row.what.startswith("fault")] + [str(result.passed)]


def checkpoint_of_other_bits(config: TrainConfig, topology: Topology) -> list[str]:
    """Rows that differ when a load changes the last bit of one moment on one rank."""
    join_processes(timeout_seconds=300)
    load = certificate.load_checkpoint

    def careless(engine: Engine, reader: Any) -> None:
        load(engine, reader)
        if engine.rank == topology.world_size - 1:
            values = next(engine.fragments()).states["exp_avg_sq"]
            values.view(torch.int32)[0] ^= 1

    vars(certificate)["load_checkpoint"] = careless
    return [row.what for row in certificate.check(config, topology).rows if not row.is_fine]
