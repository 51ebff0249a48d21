"""Code run by the processes of the tests of planned memory: what a rank really holds, by part."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from pretrain.config import TrainConfig
from pretrain.engine.engine import Engine
from pretrain.engine.processes import join_processes
from pretrain.topology import Topology
from tests.distributed import cases


def memory_of_a_step(config: TrainConfig, topology: Topology) -> dict[str, int]:
    """Bytes between two steps, and the most bytes beyond them while a step runs.

    torch's allocator reports each block that it hands out and takes back, so that nothing is sampled.
    """
    join_processes(timeout_seconds=300)
    before = storages()
    engine = Engine(config, topology)
    batches = cases.random_batches(config, topology, engine.coordinate.data)
    for _ in range(2):
        engine.train_step(batches, 1e-3)
    ready = [next(batches) for _ in range(config.accumulation_steps(topology.data))]
    held = storages()
    inputs = {tensor.untyped_storage().data_ptr() for batch in ready for tensor in _tensors(batch)}
    state = sum(size for place, size in held.items() if place not in before and place not in inputs)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        engine.train_step(iter(ready), 1e-3)
    now = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return {"state": state, "peak": peak, "stage": engine.coordinate.pipe}


def storages() -> dict[int, int]:
    """Bytes of every tensor's memory, by its address."""
    gc.collect()
    found: Counter[int] = Counter()
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return dict(found)


def _tensors(part: Any) -> list[torch.Tensor]:
    return [tensor for inner in part for tensor in _tensors(inner)] if isinstance(part, tuple) else [part]
