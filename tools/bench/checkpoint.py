"""How long a checkpoint stops training: in the background, in the foreground, and with a plain torch.save."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from foundation.progress import Progress
from pretrain.checkpoint.save import CheckpointWriter
from pretrain.config import TrainConfig
from pretrain.engine.engine import Engine
from pretrain.engine.processes import join_processes
from pretrain.topology import Topology
from tools.bench.page import show

SEQUENCE_LENGTH = 128
Times = tuple[float, float, float]
"""Seconds for which training stopped, seconds until the checkpoint was complete, and seconds of a step meanwhile."""


def main(arguments: list[str]) -> int:
    """Save in each way in turn and print the medians."""
    parser = argparse.ArgumentParser(prog="altiplano bench checkpoint", description=__doc__)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    given = parser.parse_args(arguments)
    config = TrainConfig.model_validate(
        {
            "output": "unused",
            "model": {
                "vocabulary_size": given.vocabulary,
                "hidden_size": given.hidden,
                "layers": given.layers,
                "attention_heads": 8,
                "key_value_heads": 8,
                "feed_forward_size": 1376 * given.hidden // 512,
                "maximum_positions": SEQUENCE_LENGTH,
            },
            "data": {"mixture": "unused", "sequence_length": SEQUENCE_LENGTH},
            "batch": {"global_batch_size": 1, "micro_batch_size": 1},
            "optimizer": {"learning_rate": 3e-4},
            "schedule": {"total_steps": 100, "warmup_steps": 1},
        }
    )
    join_processes(600)
    engine = Engine(config, Topology(1, 1, 1))
    tokens = torch.randint(0, given.vocabulary, (1, SEQUENCE_LENGTH + 1))
    batch = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield batch

    data = batches()

    def step() -> float:
        started = time.perf_counter()
        engine.train_step(data, 3e-4)
        return time.perf_counter() - started

    folder = Path(tempfile.mkdtemp(dir=given.folder))
    facts = {"config": config.model_dump(mode="json"), "data_digest": "none", "versions": {}}
    writers = {name: CheckpointWriter(engine, folder / name, 1, background=name == "background") for name in WAYS[:2]}

    def with_writer(name: str) -> Times:
        writer = writers[name]
        started = time.perf_counter()
        writer.save(engine.updates, 0, facts)
        blocked, steps, saved = time.perf_counter() - started, [], writer.finished()
        while not saved:
            steps.append(step())
            saved = writer.finished()
        writer.wait()
        return blocked, saved[0].seconds, statistics.median(steps or [step()])

    def plain() -> Times:
        started = time.perf_counter()
        states = {
            f"{fragment.name}/{state}": values
            for fragment in engine.fragments()
            for state, values in fragment.states.items()
        }
        path = folder / "plain.pt"
        with open(path, "wb") as file:
            torch.save(states, file)
            file.flush()
            os.fsync(file.fileno())
        seconds = time.perf_counter() - started
        return seconds, seconds, step()

    ways: dict[str, Callable[[], Times]] = {
        WAYS[0]: lambda: with_writer(WAYS[0]),
        WAYS[1]: lambda: with_writer(WAYS[1]),
        WAYS[2]: plain,
    }
    quiet = statistics.median(step() for _ in range(5))
    results: dict[str, list[Times]] = {name: [] for name in WAYS}
    try:
        with Progress("bench", (given.rounds + 1) * len(WAYS), "saves") as progress:
            for round_number in range(given.rounds + 1):
                for name, save in ways.items():
                    times = save()
                    if round_number:  # the first one fills caches
                        results[name].append(times)
                    progress.advance()
        size = sum(path.stat().st_size for path in (folder / WAYS[1]).rglob("*.safetensors"))
    finally:
        shutil.rmtree(folder)
    medians = {
        name: [statistics.median(column) for column in zip(*found, strict=True)] for name, found in results.items()
    }
    reference = medians[WAYS[2]][0]
    rows = [
        (name, f"{blocked:.2f}", f"{blocked / reference:.2f}", f"{whole:.2f}", f"{while_writing / quiet:.2f}")
        for name, (blocked, whole, while_writing) in medians.items()
    ]
    title = (
        f"{size / 1e6:,.0f} MB, one process, {torch.get_num_threads()} threads, {given.rounds} rounds in turns, medians"
    )
    columns = ("written", "training stands still, s", "÷ torch.save", "whole after, s", "a step meanwhile ÷ quiet")
    show(title, rows, columns)
    return 0


WAYS = ("background", "waited for", "torch.save and fsync")
