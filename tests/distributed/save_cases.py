"""Saving while training continues, in the processes of the distributed tests."""

from __future__ import annotations

import threading
from collections import namedtuple
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pretrain.checkpoint import save
from pretrain.checkpoint.layout import CheckpointError
from pretrain.config import TrainConfig
from pretrain.engine.engine import Engine
from pretrain.engine.processes import join_processes
from pretrain.topology import Topology
from tests.distributed.cases import FACTS, random_batches

RATE = 1e-2


def save_while_training(
    config: TrainConfig, topology: Topology, folder: str, background: bool, fault: str = ""
) -> list[tuple[int, bool, bool]]:
    """Two steps, a save whose files are held back until two more steps are done, and a save of those.

    Returns:
        Of each checkpoint its step, whether it was written in the background, and whether that took longer than the
        training stood still for.
    """
    join_processes(timeout_seconds=300)
    engine = Engine(config, topology)
    writer = save.CheckpointWriter(engine, Path(folder), background=background)
    batches = random_batches(config, topology, engine.coordinate.data)
    facts = {**FACTS, "config": config.model_dump(mode="json")}
    trained_on = threading.Event()
    write = save._write_rank_file

    def held_back(*arguments: Any) -> Any:
        if background and fault != "too little memory":
            trained_on.wait()
        if fault == "the disk of rank 1 is full" and dist.get_rank() == 1 and "00000002" in str(arguments[1]):
            raise OSError(28, "No space left on device")
        return write(*arguments)

    vars(save)["_write_rank_file"] = held_back
    if fault == "no copy":
        share_of = save._share_of
        vars(save)["_share_of"] = lambda engine, copy: share_of(engine, copy=False)
    elif fault == "too little memory" and dist.get_rank() == 0:  # of one machine of several
        free = namedtuple("free", "available")
        vars(save.psutil)["virtual_memory"] = lambda: free(1000)
    for step in (2, 4):
        for _ in range(2):
            engine.train_step(batches, RATE)
        if step == 4:
            trained_on.set()
        writer.save(step, step * config.batch.global_batch_size, facts)
    writer.wait()
    return [(saved.step, saved.in_background, saved.seconds > saved.blocked_seconds) for saved in writer.finished()]


def fail_to_save(config: TrainConfig, topology: Topology, folder: str, background: bool) -> list[str]:
    """What every rank reports when the disk of one is full: at the next save, and when waiting for the save."""
    try:
        save_while_training(config, topology, folder, background, "the disk of rank 1 is full")
    except CheckpointError as error:
        dist.barrier()
        return [str(error)]
    return []
