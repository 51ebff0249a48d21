"""Frozen weights and adapters under every topology: loss, gradients, norm, update and weights equal one process."""

from __future__ import annotations

import itertools
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
LORA = {"rank": 3, "alpha": 6}
EMBEDDING_AND_HEAD = ("embedding", "head")

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    # Biases after a sum, ALiBi, a norm after the embedding, a tied head.
    "bloom": {"family": "bloom", "key_value_heads": 4, "feed_forward_size": 128},
    # One key/value head for two tensor ranks; a learning rate of its own for the embedding.
    "palm": {"family": "palm", "key_value_heads": 1, "embedding_learning_rate_ratio": 4.0},
    # Norms of queries and keys, of which two tensor ranks share one head.
    "qwen3": {"family": "qwen3", "key_value_heads": 1},
    "olmo2": {"family": "olmo2", "key_value_heads": 1, "sliding_window": 7},
    # Soft caps of scores and logits, windows in every second layer, a tied and scaled embedding.
    "gemma2": {
        "family": "gemma2",
        "key_value_heads": 1,
        "sliding_window": 7,
        "attention_soft_cap": 0.5,
        "logit_soft_cap": 1.0,
    },
}


@dataclass(frozen=True)
class Case:
    """What is trained of one model, and how. A global batch has 12 samples under any topology."""

    trainable: tuple[str, ...] | None = None
    adapter: tuple[tuple[str, Any], ...] | None = None
    family: str = "llama"
    precision: str = "fp32"
    accumulation: int = 1
    tied: bool = False
    sequence: bool = False
    recomputation: str = "none"
    hidden_dropout: float = 0.0

    def config(self, topology: Topology) -> TrainConfig:
        tied = {"model__tied_embedding": True} if self.tied else {}
        return cases.tiny_config(
            initial_weights="unused",
            trainable=self.trainable,
            adapter=None if self.adapter is None else dict(self.adapter),
            precision=self.precision,
            parallel__sequence=self.sequence,
            parallel__tensor=topology.tensor,
            parallel__pipeline=topology.pipe,
            recomputation=self.recomputation,
            model__hidden_dropout=self.hidden_dropout,
            batch={"global_batch_size": 12, "micro_batch_size": 12 // (self.accumulation * topology.data)},
            # An epsilon of the gradients' size, and clipping that bites, see test_parity.
            optimizer={"learning_rate": 1e-2, "epsilon": 1e-2, "gradient_clipping": 0.02},
            **{f"model__{key}": value for key, value in FAMILIES[self.family].items()},
            **tied,
        )

    @property
    def reference(self) -> Case:
        """The same in one process, one micro-batch, nothing split and nothing computed twice."""
        return replace(self, accumulation=1, sequence=False, recomputation="none")


def lora(**changes: Any) -> tuple[tuple[str, Any], ...]:
    return tuple({**LORA, **changes}.items())


CASES = (
    Case(adapter=lora(dropout=0.1), accumulation=3),
    Case(adapter=lora(dropout=0.1), sequence=True, recomputation="full", hidden_dropout=0.1),
    Case(adapter=lora(rank_stabilised=True, targets=("query", "value", "up")), recomputation="selective"),
    Case(adapter=lora(), tied=True, sequence=True),
    Case(adapter=lora(), trainable=EMBEDDING_AND_HEAD, sequence=True, accumulation=2),
    Case(adapter=lora(), trainable=("embedding", "*norm"), tied=True),
    Case(adapter=lora(), family="bloom", trainable=("embedding_norm", "*.bias"), sequence=True),
    Case(adapter=lora(dropout=0.1), family="palm", sequence=True),
    Case(adapter=lora(), family="qwen3", trainable=("*norm",)),
    Case(adapter=lora(dropout=0.1), family="olmo2", trainable=("*_norm",), sequence=True),
    Case(adapter=lora(dropout=0.1), family="gemma2", trainable=("*_norm",), sequence=True, recomputation="selective"),
)
FREEZING = (
    Case(trainable=EMBEDDING_AND_HEAD),  # with four stages, two have nothing to train
    Case(trainable=("head",), recomputation="full"),  # and here three, the first among them
    Case(trainable=("layers.1",), tied=True, accumulation=2),
    Case(trainable=("embedding",), family="palm"),
    Case(trainable=("layers.*.attention", "final_norm"), sequence=True),
)
pytestmark = pytest.mark.xdist_group("tuning")  # they share what `references` keeps

TOPOLOGIES = [
    Topology(pipe=1, data=1, tensor=2),
    Topology(pipe=2, data=1, tensor=1),
    Topology(pipe=1, data=2, tensor=1),
    Topology(pipe=4, data=1, tensor=1),
    Topology(pipe=2, data=2, tensor=2),
]
SLOW_TOPOLOGIES: list[Any] = [pytest.param(topology, marks=pytest.mark.slow) for topology in TOPOLOGIES[:-1]]
TOLERANCE = {
    # Measured: 1.1e-6 at most. Rounding in another order of sums.
    "fp32": {"gradients": 2e-6, "update": 1e-4, "weights": 1e-5},
    # Activations have 8 bits, and sums over the tensor axis and over micro-batches round at other places. Of biases,
    # which begin at zero, all of the weight is update.
    "bf16": {"gradients": 3e-2, "update": 3e-2, "weights": 3e-2},
}
SCALARS = {"fp32": 1e-6, "bf16": 4e-3}
NORM = {"fp32": 1e-6, "bf16": 1e-2}
"""Of the gradient norm; in bf16 the gradients themselves differ by more."""


def fitting(some: tuple[Case, ...], topology: Topology) -> tuple[Case, ...]:
    """Without sequence parallelism where there is nothing to split."""
    return tuple(dict.fromkeys(case if topology.tensor > 1 else replace(case, sequence=False) for case in some))


def in_bf16(some: tuple[Case, ...]) -> tuple[Case, ...]:
    return tuple(replace(case, precision="bf16") for case in some)


def run_cases(topology: Topology, some: tuple[Case, ...], fault: str = "") -> dict[Case, dict[str, Any]]:
    found: dict[Case, dict[str, Any]] = {}
    for together in (some[k : k + 7] for k in range(0, len(some), 7)):  # see CASES_OF_A_START of test_parity
        configs = [case.config(topology) for case in together]
        results = run_processes(topology.world_size, cases.train_many, configs, topology, STEPS, fault)
        for other, (number, case) in itertools.product(results[1:], enumerate(together)):
            for key in ("loss", "gradient_norm", "evaluation"):
                assert other[number][key] == results[0][number][key], f"{case}: the ranks do not agree on the {key}"
        found.update(zip(together, results[0], strict=True))
    return found


@cache
def references(some: tuple[Case, ...]) -> dict[Case, dict[str, Any]]:
    return run_cases(ONE, tuple(dict.fromkeys(case.reference for case in some)))


def differences(case: Case, ours: dict[str, Any], reference: dict[str, Any]) -> list[str]:
    """What is further from one process than it may be."""
    found = ["other initial weights"] if worst_difference(ours["initial"], reference["initial"])[0] else []
    for key in ("loss", "gradient_norm", "evaluation"):
        difference = np.max(np.abs(np.array(ours[key]) / reference[key] - 1))
        if not difference <= (NORM if key == "gradient_norm" else SCALARS)[case.precision]:
            found.append(f"{key}: {difference:.1e}")
    for key, tolerance in TOLERANCE[case.precision].items():
        weights = reference["weights"] if key == "update" else None
        difference, name = worst_difference(ours[key], reference[key], weights)
        print(f"{case.precision} {key} of {name}: {difference:.1e}")
        if not difference <= tolerance:
            found.append(f"{key} of {name}: {difference:.1e}")
    return [f"{case}: {what}" for what in found]


def held_to_one_process(topology: Topology, some: tuple[Case, ...]) -> None:
    expected = references(some)
    results = run_cases(topology, fitting(some, topology))
    faults = [what for case, ours in results.items() for what in differences(case, ours, expected[case.reference])]
    assert faults == []


@pytest.mark.parametrize("topology", TOPOLOGIES[-1:] + SLOW_TOPOLOGIES, ids=str)
def test_adapters_equal_one_process(topology: Topology) -> None:
    held_to_one_process(topology, CASES)


@pytest.mark.parametrize("topology", TOPOLOGIES[-2:] + SLOW_TOPOLOGIES[:-1], ids=str)
def test_frozen_weights_equal_one_process(topology: Topology) -> None:
    held_to_one_process(topology, FREEZING)


def test_bf16_equals_one_process() -> None:
    held_to_one_process(TOPOLOGIES[0], in_bf16((CASES[1], CASES[4], CASES[7], *FREEZING[:2])))


@pytest.mark.slow
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_all_of_it_in_bf16(topology: Topology) -> None:
    held_to_one_process(topology, in_bf16(CASES + FREEZING))


def test_only_what_is_named_is_trained() -> None:
    """And all of that: each weight that is trained has moved, and the norm counts each once."""
    for case, result in references(CASES + FREEZING).items():
        trained = case.config(ONE).trained_shapes
        assert result["update"].keys() == result["gradients"].keys() == trained.keys()
        assert all(np.any(update) for update in result["update"].values()), case
        square = sum(float(np.square(gradient, dtype=np.float64).sum()) for gradient in result["gradients"].values())
        assert result["gradient_norm"][0] == pytest.approx(square**0.5, rel=1e-5)
        assert min(result["gradient_norm"]) > case.config(ONE).optimizer.gradient_clipping, f"{case}: nothing clipped"


def test_dropout_drops_and_scales_differ() -> None:
    """Else the parity of masks and scales would prove nothing."""
    plain = Case(adapter=lora())
    others = (Case(adapter=lora(dropout=0.1)), Case(adapter=lora(rank_stabilised=True)), Case(adapter=lora(alpha=3)))
    results = references((plain, *others))
    for case in others:
        assert worst_difference(results[case]["gradients"], results[plain]["gradients"])[0] > 0.05
    assert results[others[0]]["evaluation"] != results[plain]["evaluation"]


@pytest.mark.parametrize(
    ("fault", "topology", "case", "broken"),
    [
        ("adapters of split inputs are not summed", Topology(1, 1, 2), Case(adapter=lora()), "gradients"),
        ("gradients of adapters of split outputs are not summed", Topology(1, 1, 2), Case(adapter=lora()), "gradients"),
        ("partial gradients are not summed", Topology(1, 1, 2), Case(adapter=lora(), sequence=True), "gradients"),
        ("adapters' masks depend on the tensor rank", Topology(1, 1, 2), Case(adapter=lora(dropout=0.1)), "gradients"),
        (
            "each rank masks its inputs as the first ones",
            Topology(1, 1, 2),
            Case(adapter=lora(dropout=0.1, targets=("output", "down"))),
            "gradients",
        ),
        ("norm counts shards once", Topology(1, 1, 2), Case(adapter=lora()), "gradient_norm"),
    ],
)
def test_a_fault_is_seen(fault: str, topology: Topology, case: Case, broken: str) -> None:
    try:
        ours = run_cases(topology, (case,), fault)[case]
    except (RuntimeError, AssertionError) as error:  # copies that drift apart are found while they are gathered
        assert "differs" in str(error) or "do not agree" in str(error)
        return
    reference = references((case,))[case.reference]
    assert any(broken in what for what in differences(case, ours, reference))


def test_frozen_tied_weights_would_break_deepspeed() -> None:
    """The filter is still needed: without it, DeepSpeed looks for gradients that do not exist."""
    with pytest.raises(RuntimeError, match="_hp_grad"):
        run_cases(Topology(2, 1, 1), (Case(adapter=lora(), tied=True, precision="bf16"),), "frozen weights are tied")
