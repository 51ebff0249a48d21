"""Code run by the processes of the tests of a step: counts of collectives, and of numbers that the host reads."""

from __future__ import annotations

import traceback
from collections import Counter
from typing import Any

import torch
from pytest import MonkeyPatch
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.config import TrainConfig
from pretrain.engine.engine import Engine
from pretrain.engine.processes import join_processes
from pretrain.topology import Topology
from tests.distributed import cases

READERS = ("tolist", "item", "cpu", "numpy")
"""Methods of a tensor whose result is on the host."""


class Traffic(TorchDispatchMode):
    """Counts the collectives of a step, and where the host reads a number."""

    def __init__(self) -> None:
        super().__init__()
        self.collectives: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        namespace, name = function._schema.name.split("::")
        if "c10d" in namespace and "wait" not in name and name != "barrier":
            self.collectives[name.strip("_").replace("all_", "all")] += 1
        if name == "_local_scalar_dense":
            self.reads[_caller()] += 1
        return function(*arguments, **(settings or {}))


def _caller() -> str:
    """The innermost function that is not torch's or this file's."""
    for frame in reversed(traceback.extract_stack()):
        if "/torch/" not in frame.filename and frame.filename != __file__:
            return f"{frame.filename.rsplit('/', 1)[-1]} {frame.name}"
    return "torch"


def of_a_step(config: TrainConfig, topology: Topology) -> tuple[dict[str, int], dict[str, int]]:
    """(collectives by name, reads by function) of this rank in the third step, when shapes have been exchanged."""
    join_processes(timeout_seconds=300)
    engine = Engine(config, topology)
    batches = cases.random_batches(config, topology, engine.coordinate.data)
    for _ in range(2):
        engine.train_step(batches, 1e-3)
    ready = iter([next(batches) for _ in range(config.accumulation_steps(topology.data))])
    traffic = Traffic()

    def counted(name: str) -> Any:
        right = getattr(torch.Tensor, name)

        def read(tensor: torch.Tensor, *arguments: Any, **settings: Any) -> Any:
            if name == "tolist":  # which reads the memory of a CPU's tensor directly
                traffic.reads[_caller()] += 1
            elif name in ("cpu", "numpy"):
                traffic.reads[f"{_caller()} {name}"] += 1
            return right(tensor, *arguments, **settings)

        return read

    with MonkeyPatch.context() as patch, traffic:
        for name in READERS:
            patch.setattr(torch.Tensor, name, counted(name))
        engine.train_step(ready, 1e-3)
    return dict(traffic.collectives), dict(traffic.reads)
