"""Megatron-LM's distributed checkpoints in both directions: megatron-core's own model, loader and writer, under one and
two tensor ranks, against ours. Small models of several families, and random ones."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.checkpoint.read import CheckpointReader
from pretrain.checkpoint.single import load_single_process_model
from pretrain.config import ModelConfig
from tests.distributed import megatron_cases
from tests.distributed.megatron_cases import UPDATES, Save
from tests.distributed.processes import run_processes
from tests.unit.pretrain.families.small import InMemory, build, small_model
from tools.megatron.arguments import arguments_of, check_expressible
from tools.megatron.from_megatron import import_megatron
from tools.megatron.to_megatron import export_distributed

TOLERANCE = 1e-5
"""Largest difference of logits of up to 3, fp32: sums in another order."""
TOKENS = np.random.default_rng(11).integers(0, 100, (2, 40))
SIZES = {"vocabulary_size": 130, "hidden_size": 32, "attention_heads": 4, "feed_forward_size": 48, "layers": 2}

NAMED = {
    "llama": small_model("llama"),
    "llama-tied": small_model("llama-tied"),
    "llama-linear": small_model("llama-linear"),
    "llama-3.1": ModelConfig.model_validate(
        {
            **SIZES,
            "key_value_heads": 2,
            "maximum_positions": 100,
            "rope_theta": 25000.0,
            "rope_scaling": {
                "kind": "llama3",
                "factor": 32.0,
                "low_frequency_factor": 1.0,
                "high_frequency_factor": 4.0,
                "original_positions": 8192,
            },
        }
    ),
    "gpt3": small_model("gpt3"),
    "qwen2": small_model("qwen2"),
    "qwen3": small_model("qwen3"),
    "partial-rotary": ModelConfig.model_validate(
        {
            **SIZES,
            "key_value_heads": 2,
            "maximum_positions": 100,
            "attention_head_size": 16,
            "positions": "rotary_interleaved",
            "rotary_share": 0.5,
            "query_key_value_biases": True,
        }
    ),
}


def random_model(seed: int) -> ModelConfig:
    """Any settings that could be Megatron-LM's, some of which are not."""
    draw = random.Random(seed)
    groups, each, size = draw.choice([2, 4]), draw.choice([1, 2, 3]), draw.choice([8, 16])
    positions = draw.choice(["rotary", "rotary_interleaved", "learned"])
    biases = draw.random() < 0.5
    rotary = {"rotary_share": draw.choice([1.0, 0.5, 0.25]), "rope_theta": draw.choice([500.0, 10000.0])}
    return ModelConfig.model_validate(
        {
            "vocabulary_size": draw.randint(100, 300),
            "hidden_size": 8 * draw.randint(2, 6),
            "layers": draw.randint(1, 3),
            "attention_heads": groups * each,
            "key_value_heads": groups,
            "attention_head_size": size,
            "feed_forward_size": 2 * draw.randint(4, 30),
            "maximum_positions": draw.randint(40, 90),
            "positions": positions,
            "norm": draw.choice(["rms", "layer"]),
            "norm_epsilon": draw.choice([1e-5, 1e-6, 1e-2]),
            "query_key_norm": draw.choice(["none", "none", "per_head"]),
            "activation": draw.choice(["swiglu", "gelu", "gelu_tanh"]),
            "biases": biases,
            "query_key_value_biases": draw.choice([biases, True]),
            "tied_embedding": draw.random() < 0.5,
            **({} if positions == "learned" else rotary),
        }
    )


def is_expressible(model: ModelConfig) -> bool:
    try:
        check_expressible(model)
    except ValueError as error:
        assert str(error).startswith("model."), error
        return False
    return True


DRAWN = {f"random-{seed}": random_model(seed) for seed in range(24)}
MODELS = NAMED | {name: model for name, model in DRAWN.items() if is_expressible(model)}


def test_random_models_are_of_both_kinds() -> None:
    """Otherwise the tests below compare nothing, or refuse nothing."""
    assert len(NAMED) + 8 <= len(MODELS) < len(NAMED) + len(DRAWN)


def from_ranks(results: list[list[np.ndarray]]) -> list[np.ndarray]:
    return [np.concatenate(parts, axis=-1) for parts in zip(*results, strict=True)]


def same(ours: np.ndarray, theirs: np.ndarray, name: str) -> None:
    assert np.abs(ours).max() > 0.5, f"{name}: a model that says little proves nothing"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("tensor", [1, 2])
def test_their_loader_reads_what_we_write(tensor: int, tmp_path: Path) -> None:
    for name, model in MODELS.items():
        export_distributed(InMemory(model), tmp_path / name, dtype="float32")
    folders = [str(tmp_path / name / "release") for name in MODELS]
    results = run_processes(tensor, megatron_cases.loaded_logits, tensor, folders, TOKENS)
    for (name, model), theirs in zip(MODELS.items(), from_ranks(results), strict=True):
        with torch.no_grad():
            ours = build(model)(torch.from_numpy(TOKENS)).transpose(0, 1).numpy()
        same(ours[..., : model.vocabulary_size], theirs[..., : model.vocabulary_size], name)


FORMS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"singleton_local_shards": True}, ""),
    ({"non_homogeneous_layers": True}, "fp32_param"),
    ({}, "param"),
]
"""Forms of their checkpoints: layers stacked, every shard by itself, or by layer; without an optimizer's fp32 weights,
with them, and with those that `--dist-ckpt-optim-fully-reshardable` saves."""


@pytest.mark.parametrize("tensor", [1, 2])
def test_we_read_what_their_writer_writes(tensor: int, tmp_path: Path) -> None:
    """Named models in every form, random ones in turn; with the moments where there are any."""
    saves = []
    for i, (name, model) in enumerate(MODELS.items()):
        for form, (metadata, main_weights) in enumerate(FORMS):
            if name in NAMED or form == i % len(FORMS):
                saves.append(Save(str(tmp_path / f"{name}-{form}"), arguments_of(model), metadata, main_weights))
    results = run_processes(tensor, megatron_cases.saved_logits, tensor, saves, TOKENS)
    for save, theirs in zip(saves, from_ranks(results), strict=True):
        ours = Path(f"{save.folder}-ours")
        has_optimizer = bool(save.main_weights)
        notes = import_megatron(Path(save.folder), ours, None, None, moments=has_optimizer)
        reader = CheckpointReader(ours)
        weights = len(reader.names())
        told = [
            f"{weights} of {weights} weights are the optimizer's, in fp32",
            "AdamW's moments are those of 10 updates",
        ]
        assert notes == (told if has_optimizer else [])
        assert reader.imported_updates == (UPDATES if has_optimizer else 0)
        for name in reader.names() if has_optimizer else ():
            weight = reader.tensor(name)
            assert torch.equal(reader.tensor(name, "exp_avg"), 2 * weight), name
            assert torch.equal(reader.tensor(name, "exp_avg_sq"), weight.square()), name
        with torch.no_grad():
            found = load_single_process_model(ours)(torch.from_numpy(TOKENS)).numpy()
        same(found, theirs, save.folder)


def test_through_their_loader_and_writer_under_four_ranks(tmp_path: Path) -> None:
    """Two tensor ranks of two pipeline stages, of which the last one has a copy of a tied embedding: the same bits."""
    names = ("llama", "gpt3", "qwen2")
    for name in names:
        export_distributed(InMemory(NAMED[name]), tmp_path / name, dtype="float32")
    folders = {str(tmp_path / name / "release"): str(tmp_path / f"{name}-theirs") for name in names}
    run_processes(4, megatron_cases.save_again, 2, 2, folders)
    for name in names:
        import_megatron(tmp_path / f"{name}-theirs", tmp_path / f"{name}-ours", NAMED[name], None)
        found, before = CheckpointReader(tmp_path / f"{name}-ours"), InMemory(NAMED[name])
        assert all(torch.equal(found.tensor(weight), before.tensor(weight)) for weight in before.names()), name
