"""Planned memory against published formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from foundation.configuration import load_config
from pretrain.config import TrainConfig
from pretrain.families.mapping import parameter_count
from tools.plan.memory import layer_costs, memory_of


def gpt3(folder: Path, **settings: Any) -> TrainConfig:
    values = {
        "base": str(Path("configs/model/gpt3-6.7b.yaml").absolute()),
        "output": "run",
        "data": {"mixture": "mixture.yaml", "sequence_length": 2048},
        "batch": {"global_batch_size": 1024, "micro_batch_size": 1},
        "optimizer": {"learning_rate": 1.2e-4},
        "schedule": {"total_steps": 1000, "warmup_steps": 100},
        **settings,
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(values))
    return load_config(TrainConfig, folder / "train.yaml")


@pytest.mark.parametrize(
    ("parallel", "bytes_per_element"),
    [
        ({}, 32),
        ({"tensor": 4}, 8 + 24 / 4),
        ({"tensor": 4, "sequence": True}, 32 / 4),
        ({"context": 2}, 32 / 2 + 4),  # the gathered keys and values are kept besides
    ],
)
def test_a_block_keeps_what_the_paper_counts(
    tmp_path: Path, parallel: dict[str, Any], bytes_per_element: float
) -> None:
    """Korthikanti et al. 2022, arXiv:2205.05198, section 4: s·b·h·34 bytes, or 10 + 24/t, or 34/t, two of them for
    dropout masks, which we do not have, and without the scores, which flash attention does not keep."""
    config = gpt3(tmp_path, parallel=parallel)
    block = layer_costs(config)[2]
    assert block.kept / (2048 * 4096) == pytest.approx(bytes_per_element, rel=0.02)


def test_recomputation_keeps_the_input_of_a_block(tmp_path: Path) -> None:
    whole, recomputed = layer_costs(gpt3(tmp_path)), layer_costs(gpt3(tmp_path, recomputation="full"))
    assert recomputed[2].kept == 2 * 2048 * 4096
    assert recomputed[2].transient == whole[2].transient + whole[2].kept


def test_every_weight_is_counted_once_over_the_stages(tmp_path: Path) -> None:
    config = gpt3(tmp_path)
    costs = layer_costs(config)
    padding = (config.model.padded_vocabulary_size() - config.model.vocabulary_size) * config.model.hidden_size
    assert sum(cost.weights for cost in costs[:-1]) == parameter_count(config.model) + padding
    assert costs[-1].is_tied and costs[-1].weights == costs[0].weights
    one_stage = memory_of(config, 1)
    assert one_stage.state == (parameter_count(config.model) + padding) * 18


def test_frozen_weights_are_a_weight_alone(tmp_path: Path) -> None:
    """Two bytes in bf16; and a frozen layer keeps no input for a gradient of its weight."""
    whole = gpt3(tmp_path)
    config = gpt3(tmp_path, initial_weights="base", adapter={"rank": 8, "alpha": 16})
    padding = (config.model.padded_vocabulary_size() - config.model.vocabulary_size) * config.model.hidden_size
    frozen = parameter_count(config.model) + padding
    assert memory_of(config, 1).state == frozen * 2 + config.trained_count * 18
    assert memory_of(config, 4).state == frozen * 2 + config.trained_count * (6 + 12 // 4)
    partly = gpt3(tmp_path, initial_weights="base", trainable=["layers.3.mlp"])
    costs = layer_costs(partly)
    assert [cost.weights - cost.frozen for cost in costs[2:-2]] == [partly.trained_count * (i == 3) for i in range(32)]
    assert costs[2].kept < costs[5].kept < layer_costs(whole)[5].kept
