"""A growing batch: loss, gradients, norm and update of every step equal those of a plain twin."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from pretrain.config import TrainConfig
from pretrain.topology import Topology
from tests.distributed import cases, ramp_cases
from tests.distributed.differences import worst_difference
from tests.distributed.processes import run_processes
from tests.distributed.test_parity import LOGIT_TOLERANCE, SCALAR_TOLERANCE, SCALARS, TOLERANCE

# The twin computes in fp32. Measured: 2.3e-2 on the worst gradient (a norm's, tensor 2), 1e-3 and less on all scalars.
AGAINST_FP32 = {"fp32": TOLERANCE["fp32"]["weights"], "bf16": 3e-2}
STEPS = 4  # of 4, 4, 8 and 12 samples


def growing(precision: str, **changes: Any) -> TrainConfig:
    ramp = {"start": 4, "increment": 4, "samples": 16}
    return cases.tiny_config(precision=precision, batch__global_batch_size=12, batch__ramp_up=ramp, **changes)


@cache
def twin() -> dict[str, Any]:
    (result,) = run_processes(1, ramp_cases.train_twin, growing("fp32"), STEPS)
    return dict(result)


def trained(topology: Topology, precision: str, fault: str = "") -> dict[str, Any]:
    config = growing(precision, batch__micro_batch_size=4 // topology.data if topology.pipe == 1 else 2)
    first, *others = run_processes(topology.world_size, ramp_cases.train_growing, config, topology, STEPS, fault)
    for other in others:
        assert other["loss"] == first["loss"] and other["gradient_norm"] == first["gradient_norm"]
    return dict(first)


def assert_equals_twin(ours: dict[str, Any], precision: str) -> None:
    sizes = growing(precision).batch.sizes
    assert [sizes.at(sizes.after(step)) for step in range(STEPS)] == [4, 4, 8, 12]
    reference = twin()
    for key in (*SCALARS, "embedding_gradient_norm"):
        tolerance = (LOGIT_TOLERANCE if key == "largest_logit" else SCALAR_TOLERANCE)[precision]
        np.testing.assert_allclose(ours[key], reference[key], rtol=tolerance, err_msg=key)
    pairs = [("weights", ours["weights"], reference["weights"])]
    pairs += [
        (f"gradient of step {i}", *pair)
        for i, pair in enumerate(zip(ours["gradients"], reference["gradients"], strict=True))
    ]
    for what, one, other in pairs:
        difference, name = worst_difference(one, other)
        assert difference < AGAINST_FP32[precision], f"{what}, {name}: {difference:.1e}"


@pytest.mark.parametrize("topology", [Topology(1, 1, 1), Topology(2, 2, 1)], ids=str)
def test_every_step_equals_the_twin(topology: Topology) -> None:
    """Accumulation over 1, 2 and 3 micro-batches; over 1, 2 and 3 of two data ranks and two stages."""
    assert_equals_twin(trained(topology, "fp32"), "fp32")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "topology", [Topology(1, 1, 2), Topology(2, 1, 1), Topology(1, 2, 1), Topology(3, 2, 1), Topology(2, 2, 2)], ids=str
)
def test_every_step_equals_the_twin_everywhere(topology: Topology, precision: str) -> None:
    assert_equals_twin(trained(topology, precision), precision)


@pytest.mark.parametrize("fault", ["gradients keep the first divisor", "loss keeps the first divisor"])
def test_a_divisor_that_does_not_follow_is_seen(fault: str) -> None:
    """DeepSpeed divides by the number of micro-batches in two places, and both must use the current number."""
    with pytest.raises(AssertionError):
        assert_equals_twin(trained(Topology(1, 1, 1), "fp32", fault), "fp32")
