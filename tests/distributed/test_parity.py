"""One model under every topology: loss, gradients, gradient norm, update and weights equal those of one process."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from pretrain.topology import Topology
from tests.distributed import cases
from tests.distributed.processes import run_processes

STEPS = 3
TOPOLOGIES = [
    Topology(pipe=1, data=1, tensor=2),
    Topology(pipe=2, data=1, tensor=1),
    Topology(pipe=1, data=2, tensor=1),
    Topology(pipe=2, data=2, tensor=2),
]
# Largest relative difference of any one parameter, in the Euclidean norm. fp32: rounding in another order of sums.
# bf16: activations have 8 bits, and the sums over the tensor axis round at another place; measured 1.0e-2 on the worst
# gradient and 4.0e-3 on the worst weight, and 1.3e-4 on loss and norm, where the rounding averages out.
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}
SCALAR_TOLERANCE = {"fp32": 1e-6, "bf16": 1e-3}


@cache
def trained(topology: Topology, precision: str, fault: str = "", **changes: Any) -> dict[str, Any]:
    config = cases.tiny_config(precision=precision, **changes)
    results: list[dict[str, Any]] = run_processes(topology.world_size, cases.train, config, topology, STEPS, fault)
    for other in results[1:]:
        assert other["loss"] == results[0]["loss"], "the ranks do not agree on the loss"
        assert other["gradient_norm"] == results[0]["gradient_norm"], "the ranks do not agree on the gradient norm"
    return results[0]


def worst_difference(ours: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> tuple[float, str]:
    assert ours.keys() == reference.keys()
    return max(
        (float(np.linalg.norm(ours[name] - reference[name]) / np.linalg.norm(reference[name])), name)
        for name in reference
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_equals_one_process(topology: Topology, precision: str) -> None:
    reference = trained(Topology(1, 1, 1), precision)
    ours = trained(topology, precision)
    tolerance, scalar = TOLERANCE[precision], SCALAR_TOLERANCE[precision]
    assert worst_difference(ours["initial"], reference["initial"])[0] == 0.0
    np.testing.assert_allclose(ours["loss"], reference["loss"], rtol=scalar)
    np.testing.assert_allclose(ours["gradient_norm"], reference["gradient_norm"], rtol=scalar)
    np.testing.assert_allclose(ours["evaluation"], reference["evaluation"], rtol=scalar)
    difference, name = worst_difference(ours["gradients"], reference["gradients"])
    assert difference < tolerance, f"gradient of {name}: {difference:.1e}"
    for key in ("weights_after_one", "weights"):
        difference, name = worst_difference(ours[key], reference[key])
        assert difference < tolerance, f"{key} {name}: {difference:.1e}"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("topology", [Topology(1, 1, 2), Topology(2, 2, 2)], ids=str)
def test_sequence_parallel_equals_one_process(topology: Topology, precision: str) -> None:
    """Norms split by positions: each rank's gradient of their weights is a part, and the parts must be summed."""
    reference = trained(Topology(1, 1, 1), precision)
    ours = trained(topology, precision, "", parallel__sequence=True, parallel__tensor=topology.tensor)
    np.testing.assert_allclose(ours["loss"], reference["loss"], rtol=SCALAR_TOLERANCE[precision])
    np.testing.assert_allclose(ours["gradient_norm"], reference["gradient_norm"], rtol=SCALAR_TOLERANCE[precision])
    for key in ("gradients", "weights_after_one", "weights"):
        difference, name = worst_difference(ours[key], reference[key])
        assert difference < TOLERANCE[precision], f"{key} {name}: {difference:.1e}"


@pytest.mark.parametrize("recomputation", ["selective", "full"])
@pytest.mark.parametrize("topology", [Topology(1, 1, 1), Topology(2, 2, 2)], ids=str)
def test_recomputation_changes_no_bit(topology: Topology, recomputation: str) -> None:
    reference = trained(topology, "bf16")
    ours = trained(topology, "bf16", "", recomputation=recomputation)
    assert ours["loss"] == reference["loss"]
    for key in ("gradients", "weights"):
        assert worst_difference(ours[key], reference[key])[0] == 0.0


def test_pipeline_is_bit_identical() -> None:
    """Stages only move tensors: nothing is summed in another order."""
    reference, ours = trained(Topology(1, 1, 1), "fp32"), trained(Topology(2, 1, 1), "fp32")
    for key in ("gradients", "weights"):
        assert worst_difference(ours[key], reference[key])[0] == 0.0


def test_clipping_bites() -> None:
    """Else the parity of the clipped update would prove nothing."""
    reference = trained(Topology(1, 1, 1), "fp32")
    assert min(reference["gradient_norm"]) > cases.tiny_config().optimizer.gradient_clipping


@pytest.mark.parametrize(
    ("fault", "topology", "broken"),
    [
        ("norm counts shards once", Topology(1, 1, 2), "gradient_norm"),
        ("no sum over the tensor axis", Topology(1, 1, 2), "gradients"),
        ("weights depend on the rank", Topology(1, 1, 2), "initial"),
        ("data ranks read the same samples", Topology(1, 2, 1), "gradients"),
        ("partial gradients are not summed", Topology(1, 1, 2), "gradients"),
    ],
)
def test_a_fault_is_seen(fault: str, topology: Topology, broken: str) -> None:
    """Each kind of number that the parity test holds, with a fault that only it can see."""
    reference = trained(Topology(1, 1, 1), "fp32")
    try:
        sequence = {"parallel__sequence": True, "parallel__tensor": 2} if "partial" in fault else {}
        ours = trained(topology, "fp32", fault, **sequence)
    except RuntimeError as error:  # replicas that drift apart are found while they are gathered
        assert "differs" in str(error)
        return
    if broken == "gradient_norm":
        assert abs(ours[broken][0] / reference[broken][0] - 1) > TOLERANCE["fp32"]
    else:
        assert worst_difference(ours[broken], reference[broken])[0] > TOLERANCE["fp32"]
