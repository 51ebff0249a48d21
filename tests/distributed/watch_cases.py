"""Training runs that are told to stop on one rank, or have a slow or a faulty node."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from foundation.configuration import load_config
from pretrain import train as training
from pretrain.config import TrainConfig
from pretrain.engine.engine import Engine
from pretrain.launch.node_check import NodeError
from pretrain.monitor.stragglers import PassClock

ODD_RANK = 1


def signalled(config: str, overrides: tuple[str, ...], number: int) -> int:
    """Train; rank 1 alone gets a signal while it is in its third step. Returns the exit code."""
    if dist.get_rank() == ODD_RANK and number:
        step = Engine.train_step

        def interrupted(engine: Engine, *arguments: Any, **settings: Any) -> Any:
            if engine.updates == 2:
                os.kill(os.getpid(), number)
            return step(engine, *arguments, **settings)

        Engine.train_step = interrupted  # type: ignore[method-assign]
    return int(training.train(load_config(TrainConfig, Path(config), overrides)))


def slow_node(config: str, overrides: tuple[str, ...]) -> int:
    """Train; forward and backward passes on rank 1's node are slowed down."""
    os.environ["SLURMD_NODENAME"] = f"n{dist.get_rank()}"
    if dist.get_rank() == ODD_RANK:
        around = PassClock.around

        def slowed(clock: PassClock, function: Callable[..., Any]) -> Callable[..., Any]:
            def slow(*arguments: Any, **settings: Any) -> Any:
                time.sleep(0.5)
                return function(*arguments, **settings)

            return around(clock, slow)

        PassClock.around = slowed  # type: ignore[method-assign]
    return int(training.train(load_config(TrainConfig, Path(config), overrides)))


def blind_node(config: str, blind: tuple[int, ...]) -> tuple[str, tuple[str, ...]]:
    """The nodes of these ranks do not see the token files. Returns the kind of error and the nodes that it names."""
    os.environ["SLURMD_NODENAME"] = f"n{dist.get_rank()}"
    if dist.get_rank() in blind:

        def missing(config: TrainConfig, *_: Any) -> Any:
            raise FileNotFoundError(2, "No such file or directory", str(config.data.mixture))

        training.open_data = missing
    try:
        training.train(load_config(TrainConfig, Path(config)))
    except NodeError as error:
        return "node", error.nodes
    except ValueError:
        return "settings", ()
    return "none", ()


NO_SIGNAL = 0
REQUEUE_SIGNAL = int(signal.SIGUSR1)
