"""The topology follows the number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foundation.configuration import ConfigError, load_config
from pretrain.config import TrainConfig
from pretrain.launch.elastic import fit_processes

CONFIG = """
output: out
model: {vocabulary_size: 300, hidden_size: 32, layers: 4, attention_heads: 4, key_value_heads: 4,
        feed_forward_size: 64, maximum_positions: 64}
data: {mixture: mixture.yaml, sequence_length: 32}
batch: {global_batch_size: 48, micro_batch_size: 4}
optimizer: {learning_rate: 1e-3}
schedule: {total_steps: 10, warmup_steps: 1}
parallel:
  preferred:
    - {tensor: 4, pipeline: 4, sequence: true}
    - {tensor: 4, pipeline: 2}
    - {tensor: 2, micro_batch_size: 2}
    - {}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "train.yaml"
    file.write_text(CONFIG)
    return file


@pytest.mark.parametrize(
    ("processes", "tensor", "pipeline", "sequence", "micro_batch_size"),
    [(16, 4, 4, True, 4), (48, 4, 4, True, 4), (24, 4, 2, False, 4), (8, 4, 2, False, 4), (6, 2, 1, False, 2),
     (3, 1, 1, False, 4)],
)  # fmt: skip
def test_the_first_that_fits_is_taken(
    path: Path, processes: int, tensor: int, pipeline: int, sequence: bool, micro_batch_size: int
) -> None:
    fitted = fit_processes(load_config(TrainConfig, path), processes)
    found: Any = (fitted.parallel.tensor, fitted.parallel.pipeline, fitted.parallel.sequence)
    assert found == (tensor, pipeline, sequence)
    assert fitted.batch.micro_batch_size == micro_batch_size


def test_without_preferences_nothing_changes(path: Path) -> None:
    path.write_text(CONFIG[: CONFIG.index("parallel:")])
    config = load_config(TrainConfig, path)
    assert fit_processes(config, 7) is config


def test_none_fits_says_why_for_each(path: Path) -> None:
    with pytest.raises(ValueError) as error:
        fit_processes(load_config(TrainConfig, path), 5)
    message = str(error.value)
    assert "none of 4 fits 5 processes" in message and "tensor 4 × pipeline 4: parallel.tensor 4" in message
    assert "batch.global_batch_size: 48 must be a multiple" in message


def test_degrees_beside_preferences_have_no_effect_and_are_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"parallel.tensor: 2 has no effect: parallel.preferred sets"):
        load_config(TrainConfig, path, ["parallel.tensor=2"])


def test_a_preference_that_the_model_cannot_have_is_named_when_it_is_tried(path: Path) -> None:
    config = load_config(TrainConfig, path, ["parallel.preferred=[{tensor: 3}]"])
    with pytest.raises(ValueError, match=r"tensor 3 × pipeline 1: parallel.tensor: 3 must divide model.attention_h"):
        fit_processes(config, 3)
