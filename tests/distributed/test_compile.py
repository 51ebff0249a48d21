"""Compiled blocks and losses compute the same as the CPU's functions, for every axis, layout and objective."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pretrain.topology import Topology
from tests.distributed import cases
from tests.distributed.differences import worst_difference
from tests.distributed.processes import run_processes
from tests.distributed.test_families import config_of

STEPS = 2
TOLERANCE = {"gradients": 1e-5, "update": 1e-4, "weights": 1e-5}
"""Largest relative difference of any one parameter, fp32, in the Euclidean norm, as in test_parity."""

REGULARISED = {"model__hidden_dropout": 0.1, "model__attention_dropout": 0.1, "model__label_smoothing": 0.1}
ADAPTERS = {"initial_weights": "unused", "adapter": {"rank": 2, "alpha": 4, "dropout": 0.1}}
ONE, TENSOR, BOTH = Topology(1, 1, 1), Topology(1, 1, 2), Topology(2, 1, 2)

# Family or objective, topology, settings.
QUICK: dict[str, tuple[str, Topology, dict[str, Any]]] = {
    "llama": ("llama", ONE, {}),
}
SLOW: dict[str, tuple[str, Topology, dict[str, Any]]] = {
    "sequence parallelism, dropout, recomputed blocks": (
        "llama", TENSOR, {"parallel__sequence": True, "recomputation": "full", **REGULARISED}),
    "tensor and pipeline, tied": ("llama", BOTH, {"model__tied_embedding": True}),
    "recomputed scores": ("llama", TENSOR, {"recomputation": "selective", **REGULARISED}),
    "learned positions, biases": ("gpt3", TENSOR, {"parallel__sequence": True}),
    "parallel block, shared heads, z-loss": ("palm", TENSOR, {"parallel__sequence": True}),
    "ALiBi": ("bloom", TENSOR, {}),
    "ALiBi, NormHead, maximum z-loss": ("baichuan-alibi", Topology(2, 1, 1), {}),
    "ALiBi and prefix": ("bloom-prefix", TENSOR, {}),
    "separate documents": ("gpt3-documents", TENSOR, {}),
    "norms of single heads": ("qwen3", TENSOR, {"parallel__sequence": True}),
    "norms of all heads, post-norm": ("olmo2", BOTH, {}),
    "sliding window": ("mistral", TENSOR, {}),
    "sliding window, separate documents": ("mistral-documents", ONE, {}),
    "soft caps": ("gemma2", TENSOR, {"parallel__sequence": True, "model__z_loss": 1e-3}),
    "soft caps, separate documents, tensor and pipeline": ("gemma2-documents", BOTH, {}),
    "windows in some layers, sandwich norms": ("gemma3", TENSOR, {"parallel__sequence": True}),
    "two norms in parallel, part of a head rotated": ("gpt_neox", TENSOR, {"parallel__sequence": True}),
    "ReLU": ("opt", ONE, {}),
    "half of a head rotated, interleaved": ("chatglm", TENSOR, {}),
    "blanks": ("glm-blanks", BOTH, {}),
    "adapters": ("llama", TENSOR, {**ADAPTERS, "parallel__sequence": True, "recomputation": "full"}),
    "adapters and a frozen weight with a trained bias": (
        "bloom", BOTH, {**ADAPTERS, "trainable": ["embedding", "layers.*.bias"]}),
    "some blocks frozen": (
        "llama", ONE, {"initial_weights": "unused", "trainable": ["layers.1", "layers.2.mlp", "layers.3.*norm"]}),
    "deepnorm, rotary, blanks": ("glm-deepnorm-blanks", ONE, REGULARISED),
}  # fmt: skip


def train(name: str, topology: Topology, compile: str, changes: dict[str, Any], fault: str = "") -> dict[str, Any]:
    changes = {"parallel__tensor": topology.tensor, "parallel__pipeline": topology.pipe, "compile": compile, **changes}
    results = run_processes(topology.world_size, cases.train, config_of(name, **changes), topology, STEPS, fault)
    found: dict[str, Any] = results[0]
    return found


def differences(ours: dict[str, Any], reference: dict[str, Any]) -> list[str]:
    found = []
    for key in ("loss", "gradient_norm", "largest_logit", "evaluation"):
        difference = np.max(np.abs(np.array(ours[key]) / reference[key] - 1))
        if not difference <= 1e-5:
            found.append(f"{key}: {difference:.1e}")
    for key, tolerance in TOLERANCE.items():
        difference, name = worst_difference(
            ours[key], reference[key], reference["weights"] if key == "update" else None
        )
        if not difference <= tolerance:
            found.append(f"{key} of {name}: {difference:.1e}")
    return found


def held_to_the_cpu(name: str, topology: Topology, changes: dict[str, Any]) -> None:
    ours, reference = (train(name, topology, choice, changes) for choice in ("on", "off"))
    assert differences(ours, reference) == []
    # Another order of sums: the same bits would mean that nothing was compiled.
    assert worst_difference(ours["gradients"], reference["gradients"])[0] > 0


@pytest.mark.parametrize("case", QUICK)
def test_compiled_is_the_same(case: str) -> None:
    held_to_the_cpu(*QUICK[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_every_other_form_compiled_is_the_same(case: str) -> None:
    held_to_the_cpu(*SLOW[case])


def test_auto_compiles_nothing_on_a_cpu() -> None:
    ours, reference = (train("llama", ONE, choice, {}) for choice in ("auto", "off"))
    assert worst_difference(ours["weights"], reference["weights"])[0] == 0.0
