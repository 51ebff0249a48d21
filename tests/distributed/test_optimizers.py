"""Muon and Adafactor under every parallel axis: the updates of one process, bit-exact resumes, and other degrees."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.checkpoint.layout import CheckpointError
from pretrain.checkpoint.load import check_same_run
from pretrain.checkpoint.read import CheckpointReader
from pretrain.config import TrainConfig
from pretrain.optimizers.muon import orthogonalised
from pretrain.topology import Topology
from tests.distributed import cases
from tests.distributed.differences import worst_difference
from tests.distributed.processes import run_processes
from tests.distributed.test_schedules import steps_with_a_rollback
from tools.inspect_checkpoint import main as inspect_checkpoint
from tools.reshape import main as reshape

ALONE, EIGHT = Topology(1, 1, 1), Topology(2, 2, 2)
OTHERS = (Topology(1, 1, 2), Topology(2, 1, 1), Topology(1, 2, 1), Topology(1, 4, 1), Topology(1, 1, 1, context=2))
KINDS: dict[str, dict[str, Any]] = {
    "muon": {"kind": "muon", "learning_rate": 1e-2, "epsilon": 1e-5, "gradient_clipping": 0.5},
    "adafactor": {"kind": "adafactor", "learning_rate": 1e-2, "gradient_clipping": 0.5},
}
# Muon magnifies rounding where a singular value of the direction is small.
TOLERANCE = {"muon": {"update": 5e-5, "weights": 2e-5}, "adafactor": {"update": 2e-6, "weights": 1e-6}}
BLOCKS = {"query_key_value": (32, 16, 16), "gate_up": (64, 64)}


def config_of(kind: str, topology: Topology, precision: str = "fp32") -> TrainConfig:
    degrees = {"parallel__tensor": topology.tensor, "parallel__pipeline": topology.pipe}
    return cases.tiny_config(optimizer=KINDS[kind], precision=precision, **degrees)


@cache
def trained(kind: str, topology: Topology, precision: str = "fp32") -> dict[str, Any]:
    config = config_of(kind, topology, precision)
    (first, *_) = run_processes(topology.world_size, cases.train, config, topology, 2)
    return dict(first)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "topology", [EIGHT, *(pytest.param(other, marks=pytest.mark.slow) for other in OTHERS)], ids=str
)
def test_updates_are_those_of_one_process(kind: str, topology: Topology) -> None:
    ours, reference = trained(kind, topology), trained(kind, ALONE)
    for what, tolerance in TOLERANCE[kind].items():
        difference, name = worst_difference(ours[what], reference[what])
        assert difference < tolerance, f"{what} of {name}: {difference:.1e}"


def test_steps_in_bf16_are_those_of_whole_matrices() -> None:
    """Gradients of another topology differ too much there, so that the steps are compared with those of one process for
    the same gradients."""
    found, optimizer = trained("muon", EIGHT, "bf16"), config_of("muon", EIGHT).optimizer
    compared = 0
    for name, gradient in found["gradients"].items():
        if not optimizer.is_orthogonalised(name, gradient.shape):
            continue
        sizes = next((blocks for part, blocks in BLOCKS.items() if part in name), (len(gradient),))
        blocks = [orthogonalised(block, torch.bfloat16) for block in torch.from_numpy(gradient).split(sizes)]
        kept = 1 - optimizer.learning_rate * optimizer.weight_decay
        initial = found["initial"][name]
        expected = kept * initial - optimizer.learning_rate * torch.cat(blocks).numpy() - initial
        assert np.linalg.norm(found["update"][name] - expected) < 1e-2 * np.linalg.norm(expected), name
        compared += 1
    assert compared == 4 * 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_resumed_bit_for_bit_and_under_other_degrees(
    kind: str, precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(kind, EIGHT, precision)
    (whole, *_) = run_processes(8, cases.train_in_parts, config, EIGHT, str(tmp_path / "whole"), 0, 4)
    (first, *_) = run_processes(8, cases.train_in_parts, config, EIGHT, str(tmp_path / "parts"), 0, 2)
    shutil.copytree(tmp_path / "parts", tmp_path / "alone")
    (second, *_) = run_processes(8, cases.train_in_parts, config, EIGHT, str(tmp_path / "parts"), 2, 4)
    assert first["loss"] + second["loss"] == whole["loss"]
    ours, reference = (CheckpointReader(tmp_path / name / "step-00000004") for name in ("parts", "whole"))
    for name in reference.names():
        has_second = not (kind == "muon" and name.startswith("layers.") and len(reference.shape(name)) > 1)
        assert ours.states(name) == ("weight", "exp_avg", "exp_avg_sq")[: 3 if has_second else 2]
        for state in ours.states(name):
            assert torch.equal(ours.tensor(name, state), reference.tensor(name, state)), f"{state} of {name}"

    (alone, *_) = run_processes(
        1, cases.train_in_parts, config_of(kind, ALONE, precision), ALONE, str(tmp_path / "alone"), 2, 4
    )
    for name, weight in second["restored"].items():
        np.testing.assert_array_equal(alone["restored"][name], weight, err_msg=name)
    np.testing.assert_allclose(alone["loss"], second["loss"], rtol=1e-5 if precision == "fp32" else 1e-3)

    assert reshape([str(tmp_path / "parts"), str(tmp_path / "cut"), "--tensor", "4"]) == 0
    cut = CheckpointReader(tmp_path / "cut")
    for name in reference.names():
        assert cut.states(name) == ours.states(name)
        for state in ours.states(name):
            assert torch.equal(cut.tensor(name, state), ours.tensor(name, state)), f"{state} of {name}"
    assert inspect_checkpoint([str(tmp_path / "cut"), "--weights"]) == 0
    assert "gradient rms" in capsys.readouterr().out

    other = config_of(kind, EIGHT, precision).model_dump(mode="json")
    other["optimizer"] = {**cases.tiny_config().model_dump(mode="json")["optimizer"]}
    with pytest.raises(CheckpointError, match=f"written with optimizer.kind='{kind}', now 'adamw': restore it"):
        check_same_run(ours, other, "none")


@pytest.mark.parametrize(
    "kind", [kind if kind == "muon" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_stopped_resumed_and_rolled_back_while_the_batch_grew(kind: str, tmp_path: Path) -> None:
    rate = 1e-2 if kind == "muon" else 0.15  # relative to weights around 0.02
    assert len(steps_with_a_rollback(tmp_path, optimizer={"kind": kind, "learning_rate": rate})) == 50
