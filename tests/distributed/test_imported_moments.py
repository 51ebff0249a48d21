"""A run that starts from weights with AdamW's moments goes on with them: its first update is that of the formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pretrain.checkpoint.layout import STATES
from pretrain.checkpoint.read import CheckpointReader
from pretrain.config import ModelConfig
from pretrain.monitor.metrics import read_metrics
from pretrain.optimizers.settings import OptimizerConfig
from tests.distributed import cases
from tests.distributed.processes import run_processes
from tests.small_run import MODEL, write_small_run
from tests.unit.pretrain.families.small import InMemory
from tools.importing import import_weights
from tools.starting_checkpoint import Moments

UPDATES = 3
"""Few, so that Adam's bias correction is far from one."""


def prepare(folder: Path) -> Path:
    """A run of two steps from weights with moments; its `train.yaml`."""
    config = write_small_run(folder)
    model = ModelConfig.model_validate(MODEL)
    weights = InMemory(model)

    def moment(name: str, state: str) -> torch.Tensor:
        noise = torch.randn(weights.tensor(name).shape, generator=torch.Generator().manual_seed(len(name)))
        return 1e-3 * noise if state == "exp_avg" else 1e-5 * (1 + noise.square())

    imported = folder / "imported"
    import_weights(weights.tensor, model, folder, imported, None, "a test", Moments(moment, UPDATES))
    changes: dict[str, Any] = {
        "initial_weights": str(imported),
        "optimizer": {"learning_rate": 3e-3, "weight_decay": 0.0},
        "schedule": {"total_steps": 2, "warmup_steps": 0},
        "checkpoint": {"every_steps": 1},
        "spikes": {"enabled": False},
    }
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | changes))
    return config


def train(config: Path, processes: int, *overrides: str) -> None:
    run_processes(processes, cases.train_command, str(config), overrides)


@pytest.mark.parametrize(("processes", "overrides"), [(1, ()), (4, ("parallel.tensor=2",))])
def test_the_first_update_is_that_of_the_formula(processes: int, overrides: tuple[str, ...], tmp_path: Path) -> None:
    """AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2; the gradient follows from the first moment."""
    config = prepare(tmp_path)
    train(config, processes, *overrides)
    before = CheckpointReader(tmp_path / "imported")
    after = CheckpointReader(tmp_path / "train" / "checkpoints" / "step-00000001")
    assert (before.imported_updates, after.updates, after.imported_updates) == (UPDATES, UPDATES + 1, 0)
    (line,) = [line for line in read_metrics(tmp_path / "train" / "metrics.jsonl") if line.get("step") == 1][:1]
    settings = OptimizerConfig.model_validate({"learning_rate": 3e-3, "weight_decay": 0.0})
    first, second = settings.beta1, settings.beta2
    for name in before.names():
        weight, mean, square = (before.tensor(name, state).double() for state in STATES)
        new_weight, new_mean, new_square = (after.tensor(name, state).double() for state in STATES)
        gradient = (new_mean - first * mean) / (1 - first)
        torch.testing.assert_close(
            new_square, second * square + (1 - second) * gradient.square(), rtol=1e-4, atol=1e-12, msg=name
        )
        corrected = new_square / (1 - second ** (UPDATES + 1))
        step = new_mean / (1 - first ** (UPDATES + 1)) / (corrected.sqrt() + settings.epsilon)
        assert step.abs().max() > 0.01
        torch.testing.assert_close(new_weight, weight - line["learning_rate"] * step, rtol=0, atol=2e-7, msg=name)


def test_it_goes_on_after_a_stop(tmp_path: Path) -> None:
    """The number of updates is counted on, bit for bit."""
    whole, parts = prepare(tmp_path / "whole"), prepare(tmp_path / "parts")
    train(whole, 1)
    train(parts, 1, "stop_after_step=1")
    train(parts, 1)
    one, other = (CheckpointReader(config.parent / "train" / "checkpoints") for config in (whole, parts))
    assert one.step == other.step == 2 and one.updates == other.updates == UPDATES + 2
    for name in one.names():
        assert all(torch.equal(one.tensor(name, state), other.tensor(name, state)) for state in STATES), name


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("optimizer.kind=muon",), "has AdamW's moments of all weights, but optimizer.kind is muon: import it without"),
        (("trainable=[embedding]",), "has AdamW's moments of all weights, but weights are frozen: import it without"),
    ],
)
def test_moments_of_another_optimizer_are_refused(overrides: tuple[str, ...], told: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        train(prepare(tmp_path), 1, *overrides)
    assert told in str(caught.value)
