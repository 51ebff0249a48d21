"""One model under every topology: loss, gradients, gradient norm, update and weights equal those of one process."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from pretrain.config import TrainConfig
from pretrain.topology import Topology
from tests.distributed import cases
from tests.distributed.differences import worst_difference
from tests.distributed.processes import run_processes

STEPS = 3
ONE = Topology(pipe=1, data=1, tensor=1)


@dataclass(frozen=True)
class Case:
    """A model and the way to train it. The global batch has 12 samples under any topology and accumulation."""

    precision: str = "fp32"
    accumulation: int = 1
    tied: bool = False
    sequence: bool = False
    recomputation: str = "none"
    regularised: bool = False
    """Dropout of both kinds and label smoothing."""

    def config(self, topology: Topology) -> TrainConfig:
        share = 0.1 if self.regularised else 0.0
        return cases.tiny_config(
            precision=self.precision,
            model__tied_embedding=self.tied,
            model__hidden_dropout=share,
            model__attention_dropout=share,
            model__label_smoothing=share,
            parallel__sequence=self.sequence,
            parallel__tensor=topology.tensor,
            parallel__pipeline=topology.pipe,
            recomputation=self.recomputation,
            batch={"global_batch_size": 12, "micro_batch_size": 12 // (self.accumulation * topology.data)},
            # An epsilon of the gradients' size: else AdamW's first updates are next to their signs alone, which hides
            # a wrong scale and magnifies rounding.
            optimizer={"learning_rate": 1e-2, "epsilon": 1e-2, "gradient_clipping": 0.3},
        )

    @property
    def reference(self) -> Case:
        """The same model in one process and one micro-batch, without any sharding or recomputation."""
        return replace(self, accumulation=1, sequence=False, recomputation="none")


# Largest relative difference of any one parameter, in the Euclidean norm. fp32: rounding in another order of sums.
# bf16: activations have 8 bits, and sums over the tensor axis and over micro-batches round at other places. An update
# in fp32 is the difference of two weights, of which those of norms are a thousand times as large.
TOLERANCE = {
    "fp32": {"gradients": 1e-5, "update": 1e-4, "weights": 1e-5},
    "bf16": {"gradients": 2e-2, "update": 2e-2, "weights": 4e-3},
}
SCALARS = ("loss", "gradient_norm", "largest_logit", "evaluation")
SCALAR_TOLERANCE = {"fp32": 1e-6, "bf16": 2e-3}
LOGIT_TOLERANCE = {"fp32": 1e-5, "bf16": 2**-7}
"""Tolerance of a single number, over which nothing is averaged: in bf16, the step between two neighbours."""

pytestmark = pytest.mark.xdist_group("parity")  # they share what `references` and `trained` keep

TOPOLOGIES = [
    Topology(pipe=1, data=1, tensor=2),
    Topology(pipe=2, data=1, tensor=1),
    Topology(pipe=1, data=2, tensor=1),
    Topology(pipe=4, data=1, tensor=1),
    Topology(pipe=2, data=2, tensor=2),
]
FAST = (
    Case("fp32", accumulation=3),
    Case("fp32", tied=True, sequence=True, recomputation="full", regularised=True),
    Case("bf16", accumulation=3, tied=True, sequence=True),
    Case("bf16", sequence=True, regularised=True),
    Case("bf16", sequence=True, regularised=True, recomputation="selective"),
    Case("bf16", sequence=True, regularised=True, recomputation="full"),
)
ALL_TOPOLOGIES = [Topology(p, d, t) for p, d, t in itertools.product((1, 2, 4), (1, 2), (1, 2))]
ALL = tuple(
    Case(*values)
    for values in itertools.product(
        ("fp32", "bf16"), (1, 3), (False, True), (False, True), ("none", "selective", "full"), (False, True)
    )
)


def fitting(some: Sequence[Case], topology: Topology) -> tuple[Case, ...]:
    """Each case once, without sequence parallelism where there is nothing to split."""
    return tuple(dict.fromkeys(case if topology.tensor > 1 else replace(case, sequence=False) for case in some))


CASES_OF_A_START = 8
"""Each engine makes process groups, whose threads look for work a hundred times a second as long as the process lives:
with 16 processes and 30 engines in each, two cores do nothing else."""


def run_cases(topology: Topology, some: tuple[Case, ...], fault: str = "") -> dict[Case, dict[str, Any]]:
    """Some cases in one group of processes, the next ones in another."""
    found: dict[Case, dict[str, Any]] = {}
    for together in (some[k : k + CASES_OF_A_START] for k in range(0, len(some), CASES_OF_A_START)):
        configs = [case.config(topology) for case in together]
        results = run_processes(topology.world_size, cases.train_many, configs, topology, STEPS, fault)
        for other, (number, case) in itertools.product(results[1:], enumerate(together)):
            for key in SCALARS:
                assert other[number][key] == results[0][number][key], f"{case}: the ranks do not agree on the {key}"
        found.update(zip(together, results[0], strict=True))
    return found


@cache
def trained(topology: Topology) -> dict[Case, dict[str, Any]]:
    return run_cases(topology, fitting(FAST, topology))


@cache
def references() -> dict[Case, dict[str, Any]]:
    """Names of all cases."""
    return run_cases(ONE, tuple(dict.fromkeys(case.reference for case in ALL)))


def differences(case: Case, ours: dict[str, Any]) -> list[str]:
    """Differences from one process that exceed their bounds."""
    reference = references()[case.reference]
    found = []
    if worst_difference(ours["initial"], reference["initial"])[0]:
        found.append("other initial weights")
    for key in SCALARS:
        difference = np.max(np.abs(np.array(ours[key]) / reference[key] - 1))
        tolerance = (LOGIT_TOLERANCE if key == "largest_logit" else SCALAR_TOLERANCE)[case.precision]
        if not difference <= tolerance:
            found.append(f"{key}: {difference:.1e}")
    for key, tolerance in TOLERANCE[case.precision].items():
        difference, name = worst_difference(ours[key], reference[key])
        if not difference <= tolerance:
            found.append(f"{key} of {name}: {difference:.1e}")
    return [f"{case}: {what}" for what in found]


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_equals_one_process(topology: Topology) -> None:
    assert [what for case, ours in trained(topology).items() for what in differences(case, ours)] == []


@pytest.mark.slow
@pytest.mark.parametrize("topology", ALL_TOPOLOGIES, ids=str)
def test_the_whole_matrix_equals_one_process(topology: Topology) -> None:
    results = run_cases(topology, fitting(ALL, topology))
    assert [what for case, ours in results.items() for what in differences(case, ours)] == []


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_recomputation_changes_no_bit(topology: Topology) -> None:
    """With dropout, too."""
    plain, *recomputed = fitting(FAST[-3:], topology)
    results = trained(topology)
    for case in recomputed:
        assert results[case]["loss"] == results[plain]["loss"]
        for key in ("gradients", "weights"):
            assert worst_difference(results[case][key], results[plain][key])[0] == 0.0, case


@pytest.mark.parametrize("stages", [2, 4])
def test_pipeline_is_bit_identical(stages: int) -> None:
    """Stages only move tensors: nothing is summed in another order."""
    case = FAST[0]
    reference = run_cases(ONE, (case,))[case]
    ours = trained(Topology(stages, 1, 1))[case]
    for key in ("gradients", "weights"):
        assert worst_difference(ours[key], reference[key])[0] == 0.0


def test_clipping_bites_and_dropout_drops() -> None:
    """Otherwise the parity of the clipped update and of the masks would prove nothing."""
    for case, result in references().items():
        assert min(result["gradient_norm"]) > case.config(ONE).optimizer.gradient_clipping
        if case.regularised:
            plain = references()[replace(case, regularised=False)]
            assert worst_difference(result["gradients"], plain["gradients"])[0] > 0.1
            assert plain["evaluation"] != result["evaluation"]


@pytest.mark.parametrize(
    ("fault", "topology", "case", "broken"),
    [
        ("norm counts shards once", Topology(1, 1, 2), Case(), "gradient_norm"),
        ("no sum over the tensor axis", Topology(1, 1, 2), Case(), "gradients"),
        ("weights depend on the rank", Topology(1, 1, 2), Case(), "initial"),
        ("data ranks read the same samples", Topology(1, 2, 1), Case(), "gradients"),
        ("partial gradients are not summed", Topology(1, 1, 2), Case(sequence=True), "gradients"),
        ("masks depend on the tensor rank", Topology(1, 1, 2), Case(regularised=True), "gradients"),
        ("a recomputation draws again", ONE, Case(recomputation="full", regularised=True), "gradients"),
        ("ranks smooth over their own vocabulary", Topology(1, 1, 2), Case(regularised=True), "loss"),
    ],
)
def test_a_fault_is_seen(fault: str, topology: Topology, case: Case, broken: str) -> None:
    """For each kind of number that the parity test compares, a fault that only this comparison detects."""
    try:
        ours = run_cases(topology, (case,), fault)[case]
    except (RuntimeError, AssertionError) as error:  # copies that drift apart are found while they are gathered
        assert "differs" in str(error) or "do not agree" in str(error)
        return
    assert any(broken.replace("initial", "other initial") in what for what in differences(case, ours))
