"""Training runs in which one rank hangs, in the processes of the distributed tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch.distributed as dist

from foundation.configuration import load_config
from pretrain.checkpoint import save
from pretrain.config import TrainConfig
from pretrain.data.loader import SampleReader
from pretrain.engine.engine import Engine
from pretrain.train import train

HUNG_RANK = 2


def hang(config: str, overrides: tuple[str, ...], kind: str, fifo: str) -> None:
    """Train, with rank 2 hanging in its third step, its first evaluation or its first save."""
    if dist.get_rank() == HUNG_RANK:
        _put_in(kind, fifo)
    train(load_config(TrainConfig, Path(config), overrides))


def _put_in(kind: str, fifo: str) -> None:
    if kind == "dead loop":
        step = Engine.train_step

        def spins_in_step_3(engine: Engine, *arguments: Any, **settings: Any) -> Any:
            if engine.updates == 2:
                spin_for_ever()
            return step(engine, *arguments, **settings)

        Engine.train_step = spins_in_step_3  # type: ignore[method-assign]
    elif kind in ("blocked loader", "blocked evaluation"):
        read = SampleReader.read
        split = "train" if kind == "blocked loader" else "heldout"

        def blocks(reader: SampleReader, *arguments: Any) -> Any:
            if reader.split == split:
                wait_for_storage(fifo)
            return read(reader, *arguments)

        SampleReader.read = blocks  # type: ignore[method-assign]
    elif kind == "blocked save":
        write = save._write_rank_file

        def blocked(*arguments: Any) -> Any:
            wait_for_storage(fifo)
            return write(*arguments)

        save._write_rank_file = blocked
    elif kind == "stopped":
        step = Engine.train_step

        def stops_in_step_3(engine: Engine, *arguments: Any, **settings: Any) -> Any:
            if engine.updates == 2:
                os.kill(
                    os.getpid(), signal.SIGSTOP
                )  # like a node that has lost power: connections stay open, nothing answers
            return step(engine, *arguments, **settings)

        Engine.train_step = stops_in_step_3  # type: ignore[method-assign]
    else:
        raise ValueError(kind)


def spin_for_ever() -> None:
    while True:
        pass


def wait_for_storage(fifo: str) -> None:
    with open(fifo):  # opening a pipe without a writer blocks, as does a file on a server that is gone
        pass
