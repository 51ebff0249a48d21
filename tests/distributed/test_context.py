"""Context parallelism: the tokens of a sample on several ranks, and the numbers of one process."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pretrain.topology import Topology
from tests.distributed import cases, check_cases
from tests.distributed.differences import worst_difference
from tests.distributed.processes import run_processes
from tests.distributed.test_check import ACCUMULATING, verdicts
from tests.distributed.test_compile import REGULARISED, differences, train
from tests.distributed.test_families import config_of, held_to

ONE = Topology(pipe=1, data=1, tensor=1)
TWO = Topology(pipe=1, data=1, tensor=1, context=2)
WITH_TENSOR = Topology(pipe=1, data=1, tensor=2, context=2)
ALL_AXES = Topology(pipe=2, data=1, tensor=2, context=2)
WITH_DATA = Topology(pipe=2, data=2, tensor=1, context=2)

Changes = tuple[tuple[str, Any], ...]
LORA = {"rank": 2, "alpha": 4, "dropout": 0.1}
# Family or objective, and settings.
MODELS: dict[str, tuple[str, Changes]] = {
    "llama": ("llama", ()),
    "dropout": ("llama", tuple(REGULARISED.items())),
    "tied": ("llama", (("model__tied_embedding", True),)),
    "learned positions, separate documents": ("gpt3-documents", ()),
    "window within documents": ("mistral-documents", ()),
    "windows in some layers": ("gemma3", ()),
    "ALiBi": ("bloom", ()),
    "ALiBi, prefixes of other weights": ("bloom-prefix", (("model__attention_dropout", 0.1),)),
    "blanks": ("glm-blanks", ()),
    "soft caps, a window in every second layer": ("gemma2", ()),
    "shared heads, parallel block": ("palm", ()),
    "norms of all heads": ("olmo2", ()),
    "adapters": ("llama", (("initial_weights", "unused"), ("adapter", LORA))),
}
SEQUENCE: Changes = (("parallel__sequence", True), ("parallel__tensor", 2))
SELECTIVE, FULL = ((("recomputation", kind),) for kind in ("selective", "full"))
QUICK: list[tuple[Topology, Changes, tuple[str, ...]]] = [
    (TWO, (), ("llama", "learned positions, separate documents", "window within documents",
               "ALiBi, prefixes of other weights", "blanks", "soft caps, a window in every second layer")),
    (WITH_TENSOR, SEQUENCE, ("dropout", "shared heads, parallel block", "norms of all heads", "adapters")),
]  # fmt: skip
SLOW: list[tuple[Topology, Changes, tuple[str, ...]]] = [
    (TWO, (), ("dropout", "windows in some layers", "ALiBi", "norms of all heads", "adapters")),
    (WITH_TENSOR, SELECTIVE, ("dropout", "windows in some layers")),
    (WITH_DATA, (), ("tied", "blanks")),
    (Topology(pipe=1, data=1, tensor=1, context=3), FULL, ("dropout", "window within documents")),
]


@cache
def trained(topology: Topology, shared: Changes, names: tuple[str, ...], fault: str = "") -> dict[str, dict[str, Any]]:
    configs = [config_of(MODELS[name][0], **dict(MODELS[name][1]), **dict(shared)) for name in names]
    results = run_processes(topology.world_size, cases.train_many, configs, topology, 2, fault)
    return dict(zip(names, results[0], strict=True))


def reference(name: str) -> dict[str, Any]:
    return trained(ONE, (), tuple(MODELS))[name]


@pytest.mark.parametrize(
    ("topology", "shared", "names"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
    ids=lambda part: str(part)[:40],
)
def test_equals_one_process(topology: Topology, shared: Changes, names: tuple[str, ...]) -> None:
    for name, ours in trained(topology, shared, names).items():
        print(topology, name, worst_difference(ours["gradients"], reference(name)["gradients"]))
        held_to(reference(name), ours)


@pytest.mark.parametrize(
    ("fault", "name", "what"),
    [
        ("gradients of gathered keys stay with their queries", "llama", "gradients"),
        ("tokens are taken for the first ones", "ALiBi, prefixes of other weights", "gradients"),
        pytest.param("tokens are taken for the first ones", "dropout", "gradients", marks=pytest.mark.slow),
        pytest.param(
            "tokens are taken for the first ones", "window within documents", "gradients", marks=pytest.mark.slow
        ),
        pytest.param("weights of targets are those of whole samples", "blanks", "loss", marks=pytest.mark.slow),
    ],
)
def test_a_fault_is_seen(fault: str, name: str, what: str) -> None:
    ours, right = trained(TWO, (), (name,), fault)[name], reference(name)
    found = differences(ours, right)
    assert any(difference.startswith(what) for difference in found), found


def test_the_check_of_a_run_detects_a_wrong_division(tmp_path: Path) -> None:
    """In bf16 and under all axes but data."""
    config = cases.tiny_config(
        precision="bf16",
        batch=ACCUMULATING,
        objective__separate_documents=True,
        parallel={"tensor": 2, "pipeline": 2, "context": 2, "sequence": True},
    )
    results = run_processes(8, check_cases.checked, [config], ALL_AXES, str(tmp_path))
    found = results[0][0]
    assert found["passed"], found["verdict"]
    assert verdicts(found)["tokens in the order of the ranks"] == "detected"
    assert verdicts(found)["data sum skipped"] == "detected"


def test_a_resume_is_bit_exact_and_other_axes_go_on(tmp_path: Path) -> None:
    config, topology = cases.tiny_config(precision="bf16"), Topology(pipe=1, data=2, tensor=1, context=2)
    (whole, *_) = run_processes(4, cases.train_in_parts, config, topology, str(tmp_path / "whole"), 0, 6)
    (first, *_) = run_processes(4, cases.train_in_parts, config, topology, str(tmp_path / "parts"), 0, 3)
    (second, *_) = run_processes(4, cases.train_in_parts, config, topology, str(tmp_path / "parts"), 3, 6)
    assert first["loss"] + second["loss"] == whole["loss"]
    (third, *_) = run_processes(2, cases.train_in_parts, config, Topology(2, 1, 1), str(tmp_path / "parts"), 6, 8)
    (fourth, *_) = run_processes(4, cases.train_in_parts, config, topology, str(tmp_path / "whole"), 6, 8)
    assert third["loss"] == pytest.approx(fourth["loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "dropout", "ALiBi, prefixes of other weights", "window within documents"])
@pytest.mark.parametrize("recomputation", ["none", "selective"])
def test_compiled_is_the_same(name: str, recomputation: str) -> None:
    family, changes = MODELS[name]
    changed = {**dict(changes), "recomputation": recomputation}
    ours = train(family, TWO, "on", changed)
    assert differences(ours, reference(name)) == []
