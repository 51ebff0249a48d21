"""The parity check: it passes under every axis, notices what is wrong, and leaves no trace in the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foundation.configuration import load_config
from pretrain.check.twin import twin_config
from pretrain.config import TrainConfig
from pretrain.topology import Topology
from tests.distributed import cases, check_cases
from tests.distributed.processes import run_processes
from tests.small_run import write_small_run

EIGHT = Topology(pipe=2, data=2, tensor=2)
ACCUMULATING = {"global_batch_size": 16, "micro_batch_size": 2}
LORA = {"rank": 3, "alpha": 6, "dropout": 0.1}
PLANTED = (
    "tensor sum skipped",
    "partial gradients not summed",
    "data sum skipped",
    "tied gradients not summed",
    "micro-batches not averaged",
    "loss mask one token late",
    "attention sees a token more",
)


def config_for(topology: Topology, **changes: Any) -> TrainConfig:
    degrees = {"parallel__tensor": topology.tensor, "parallel__pipeline": topology.pipe}
    return cases.tiny_config(batch=ACCUMULATING, **degrees, **changes)


def verdicts(result: dict[str, Any]) -> dict[str, str]:
    return {row["what"].removeprefix("fault: "): row["verdict"] for row in result["rows"]}


CASES = {
    "everything in bf16": {
        "precision": "bf16",
        "model__tied_embedding": True,
        "model__hidden_dropout": 0.1,
        "parallel__sequence": True,
        "recomputation": "full",
        "objective__separate_documents": True,
    },
    "everything in fp32": {
        "model__tied_embedding": True,
        "model__hidden_dropout": 0.1,
        "model__attention_dropout": 0.1,
        "parallel__sequence": True,
        "recomputation": "selective",
        "objective__separate_documents": True,
    },
    "adapters": {"precision": "bf16", "initial_weights": "unused", "adapter": LORA, "parallel__sequence": True},
    "adapters, embedding and head": {
        "initial_weights": "unused",
        "adapter": LORA,
        "trainable": ("embedding", "head", "*norm"),
    },
    "one layer is trained": {"initial_weights": "unused", "trainable": ("layers.3",)},
    "ALiBi and biases": {
        "model__family": "bloom",
        "model__key_value_heads": 4,
        "model__feed_forward_size": 128,
        "objective__kind": "prefix",
    },
}
APPLICABLE: dict[str, tuple[str, ...]] = {
    "everything in bf16": PLANTED,
    "everything in fp32": PLANTED,
    "adapters": (*PLANTED[:3], *PLANTED[4:6]),
    "adapters, embedding and head": (PLANTED[0], PLANTED[2], *PLANTED[4:6]),
    "one layer is trained": (PLANTED[0], PLANTED[2], *PLANTED[4:6]),
    "ALiBi and biases": (PLANTED[0], *PLANTED[2:]),
}


def test_eight_processes_pass_and_every_planted_fault_is_detected(tmp_path: Path) -> None:
    configs = [config_for(EIGHT, **changes) for changes in CASES.values()]
    results = run_processes(8, check_cases.checked, configs, EIGHT, str(tmp_path))
    for number, name in enumerate(CASES):
        result = results[0][number]
        print(name, result["seconds"], [(row["what"], row["difference"], row["bound"]) for row in result["rows"]])
        assert result["passed"], f"{name}: {result['verdict']}"
        expected = {fault: "detected" if fault in APPLICABLE[name] else "not applicable" for fault in PLANTED}
        assert {fault: verdicts(result)[fault] for fault in PLANTED} == expected, name
        assert verdicts(result)["checkpoint loaded, bits"] == "equal"
        assert result["parameters"] == len(twin_config(configs[number], EIGHT).trained_shapes)
        for other in results[1:]:
            assert other[number]["rows"] == result["rows"], "the ranks do not agree"
        assert [by_rank[number]["left"] for by_rank in results] == [set()] * 8, name
        written = json.loads((tmp_path / str(number) / "parity.json").read_text())
        assert written["passed"] and len(written["rows"]) == len(result["rows"])
        assert [path.name for path in (tmp_path / str(number)).iterdir()] == ["parity.json"]


@pytest.mark.parametrize(
    ("fault", "changes", "broken"),
    [
        ("no sum over the tensor axis", {}, "every gradient"),
        ("partial gradients are not summed", {"parallel__sequence": True}, "every gradient"),
        ("masks depend on the tensor rank", {"model__hidden_dropout": 0.1}, "every gradient"),
        ("norm counts shards once", {}, "one update"),
        ("adapters of split inputs are not summed", {"initial_weights": "unused", "adapter": LORA}, "every gradient"),
    ],
)
def test_a_fault_of_the_program_is_found(fault: str, changes: dict[str, Any], broken: str, tmp_path: Path) -> None:
    """Faults that are in the code itself, not planted by the check."""
    topology = Topology(1, 1, 2)
    results = run_processes(2, check_cases.checked, [config_for(topology, **changes)], topology, str(tmp_path), fault)
    assert not results[0][0]["passed"]
    assert verdicts(results[0][0])[broken] == "DIFFERENT"


def test_a_planted_fault_that_changes_nothing_is_missed(tmp_path: Path) -> None:
    config = cases.tiny_config(output=str(tmp_path))
    (found,) = run_processes(1, check_cases.check_with_a_harmless_fault, config, Topology(1, 1, 1))
    assert found == ["MISSED", "False"]


def test_a_bit_that_a_load_changes_is_found(tmp_path: Path) -> None:
    config = cases.tiny_config(output=str(tmp_path), precision="bf16")
    found = run_processes(2, check_cases.checkpoint_of_other_bits, config, Topology(1, 2, 1))
    assert "checkpoint loaded, bits" in found[0] and found[0] == found[1]


def losses(folder: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["gradient_norm"]) for line in lines if line["kind"] == "train"]


def test_the_run_has_the_bits_of_one_without_the_check(tmp_path: Path) -> None:
    path = write_small_run(tmp_path)
    common = ["parallel.tensor=2", "model.hidden_dropout=0.1", "spikes.enabled=false", "schedule.total_steps=4"]
    for check in ("false", "true"):
        overrides = [*common, f"check={check}", f"output={tmp_path / check}"]
        run_processes(2, cases.train_command, str(path), overrides)
    assert losses(tmp_path / "true") == losses(tmp_path / "false") and len(losses(tmp_path / "true")) == 4
    assert json.loads((tmp_path / "true" / "parity.json").read_text())["passed"]


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "configs" / "train").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_recipe_has_a_twin(path: Path) -> None:
    config = load_config(TrainConfig, path, ["parallel.preferred=[]"])
    topology = Topology(config.parallel.pipeline, config.parallel.data or 1, config.parallel.tensor)
    twin = twin_config(config, topology)
    assert twin.model.layers >= topology.pipe
    assert twin.model.head_size == config.model.head_size and twin.recomputation == config.recomputation
    assert twin.model.family == config.model.family and twin.objective.kind == config.objective.kind
    assert (twin.trainable is None) == (config.trainable is None)
    assert (twin.accumulation_steps(topology.data) > 1) == (config.accumulation_steps(topology.data) > 1)


def test_a_twin_has_layers_with_and_without_a_window() -> None:
    config = cases.tiny_config(model__sliding_window=5, model__full_attention_first=3)
    model = twin_config(config, Topology(1, 1, 1)).model
    assert model.layers == 2 and [model.has_window(layer) for layer in range(2)] == [False, True]
