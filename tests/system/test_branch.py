"""A run branches off another run's checkpoint, with the bits of one run that has both schedules in a row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.checkpoint.layout import STATES
from pretrain.checkpoint.read import CheckpointReader
from pretrain.monitor.metrics import read_metrics
from tests.system.test_pretrain import pretrain, refused, run  # noqa: F401

COMMON = ("schedule.warmup_steps=2", "schedule.total_steps=12", "checkpoint.every_steps=4", "evaluation.every_steps=12")
WSD = ("schedule.kind=wsd", "schedule.decay_steps=4")


@pytest.mark.slow
def test_a_decay_branches_off_a_constant_rate(run: Path) -> None:  # noqa: F811
    stable, branch, whole = run / "train", run / "branch", run / "whole"
    for output, settings in (
        (stable, ("schedule.kind=constant",)),
        (whole, WSD),
        (branch, (*WSD, f"branch_from={stable / 'checkpoints' / 'step-00000008'}")),
    ):
        done = pretrain(run, *COMMON, *settings, f"output={output}")
        assert done.returncode == 0, done.stdout + done.stderr
    assert "the run branches off" in done.stdout
    readers = [CheckpointReader(output / "checkpoints" / "step-00000012") for output in (branch, whole, stable)]
    for name in readers[0].names():
        for state in STATES:
            assert torch.equal(readers[0].tensor(name, state), readers[1].tensor(name, state)), f"{state} of {name}"
    name = "final_norm.weight"
    assert not torch.equal(readers[1].tensor(name), readers[2].tensor(name)), "the rate decayed"
    steps = [line["step"] for line in read_metrics(branch / "metrics.jsonl") if line["kind"] == "train"]
    assert steps == [9, 10, 11, 12]
    assert (branch / "checkpoints" / "step-00000008").is_dir(), "a spike before the first checkpoint needs one"
    message = refused(run, *COMMON, f"branch_from={stable}/none", f"output={run / 'other'}")
    assert "none" in message
    other = f"output={run / 'other'}"
    message = refused(run, *COMMON, "model.rope_theta=5", f"branch_from={stable}/checkpoints", other)
    assert "written with model.rope_theta" in message
