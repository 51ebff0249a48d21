"""Training runs with tasks, in the processes of the distributed tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist

from foundation.configuration import load_config
from pretrain.config import TrainConfig
from pretrain.evaluation import rows, tasks
from pretrain.train import train
from tests.distributed.hang_cases import HUNG_RANK, wait_for_storage


def run(config: str, overrides: tuple[str, ...]) -> None:
    """Train to the end."""
    train(load_config(TrainConfig, Path(config), overrides))


def hang(config: str, overrides: tuple[str, ...], fifo: str) -> None:
    """Train, with one rank hanging in its first evaluation of the tasks."""
    if dist.get_rank() == HUNG_RANK:
        make = rows.micro_batches

        def blocks(*arguments: Any) -> Iterator[Any]:
            wait_for_storage(fifo)
            yield from make(*arguments)

        tasks.micro_batches = blocks
    run(config, overrides)
