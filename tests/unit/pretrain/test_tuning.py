"""Which weights are trained, how many they are, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from foundation.configuration import ConfigError, Settings, load_config
from pretrain.config import ModelConfig, TrainConfig
from pretrain.families.mapping import weight_shapes
from pretrain.tuning import AdapterConfig, adapter_shapes, matching, trained_shapes
from tests.unit.pretrain.families.small import small_model

CONFIGS = Path(__file__).parents[3] / "configs"


class Preset(Settings):
    model: ModelConfig


def llama_7b(**changes: Any) -> ModelConfig:
    preset = load_config(Preset, CONFIGS / "model" / "llama-7b.yaml").model
    return ModelConfig.model_validate({**preset.model_dump(), **changes})


def count(model: ModelConfig, trainable: tuple[str, ...] | None, **adapter: Any) -> int:
    settings = AdapterConfig(alpha=16, **adapter) if adapter else None
    return sum(map(math.prod, trained_shapes(model, trainable, settings).values()))


def test_published_numbers_of_trained_weights() -> None:
    # PEFT's print_trainable_parameters of LLaMA 7B with rank 8: tloen/alpaca-lora's README (query and value).
    assert count(llama_7b(), None, rank=8, targets=("query", "value")) == 4_194_304
    assert count(llama_7b(), None, rank=8) == 19_988_480
    # Chinese-LLaMA 7B (Cui et al. 2023, arXiv:2304.08177, section 3.1): 2.97 % and 6.06 % of the weights.
    chinese = llama_7b(vocabulary_size=49953)
    total = sum(math.prod(shape) for shape, _ in weight_shapes(chinese).values())
    stage_1 = count(chinese, ("embedding",))
    stage_2 = count(chinese, ("embedding", "head"), rank=8, targets=("query_key_value", "output"))
    assert (stage_1, stage_2) == (204_607_488, 417_603_584)
    assert (round(100 * stage_1 / total, 2), round(100 * stage_2 / total, 2)) == (2.97, 6.06)


def test_shapes_of_factors() -> None:
    model = small_model("llama")  # hidden 32, queries 32, keys and values 16 each, inner 48
    shapes = adapter_shapes(model, AdapterConfig(rank=3, alpha=1, targets=("query", "value", "gate_up", "down")))
    assert {name.removeprefix("layers.0."): shape for name, shape in shapes.items() if "layers.0." in name} == {
        "attention.query_key_value.lora.a": (6, 32),
        "attention.query_key_value.lora.b": (48, 3),
        "mlp.gate_up.lora.a": (6, 32),
        "mlp.gate_up.lora.b": (96, 3),
        "mlp.down.lora.a": (3, 48),
        "mlp.down.lora.b": (32, 3),
    }
    assert {name.split(".")[-3] for name in adapter_shapes(small_model("bloom"), AdapterConfig(rank=1, alpha=1))} == {
        "query_key_value",
        "output",
        "up",
        "down",
    }


def test_scale() -> None:
    assert AdapterConfig(rank=4, alpha=12).scale == 3
    assert AdapterConfig(rank=4, alpha=12, rank_stabilised=True).scale == 6


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("head", {"head.weight"}),
        ("layers.1", {"layers.1.norm.weight", "layers.1.mlp.up.weight"}),
        ("layers.*.mlp", {"layers.1.mlp.up.weight", "layers.10.mlp.up.weight"}),
        ("*norm", {"layers.1.norm.weight", "final_norm.weight"}),
        ("layers.10.mlp.up.weight", {"layers.10.mlp.up.weight"}),
    ],
)
def test_patterns(pattern: str, found: set[str]) -> None:
    names = [
        "head.weight", "final_norm.weight", "layers.1.norm.weight", "layers.1.mlp.up.weight", "layers.10.mlp.up.weight"
    ]  # fmt: skip
    assert matching([pattern], names) == found


RUN = """output: run
model: {vocabulary_size: 250, hidden_size: 32, layers: 2, attention_heads: 4, key_value_heads: 2,
        feed_forward_size: 64, maximum_positions: 64}
data: {mixture: m.yaml, sequence_length: 24}
batch: {global_batch_size: 8, micro_batch_size: 2}
optimizer: {learning_rate: 1e-3}
schedule: {total_steps: 100, warmup_steps: 10}
initial_weights: base
"""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainable=[heads]"], "trainable: 'heads' matches no weight of the model; the closest are head"),
        (["trainable=[layers.2]"], "trainable: 'layers.2' matches no weight of the model; the closest are layers.1"),
        (["trainable=[]"], "trainable: nothing would be trained; name weights, or leave it out to train all of them"),
        (["trainable=all"], "trainable: 'all' is not allowed: it should be a valid"),
        (
            ["trainable=[layers.0]", "adapter={rank: 2, alpha: 4}"],
            "trainable: layers.0.attention.query_key_value.weight has an adapter; train it or adapt it, not both",
        ),
        (
            ["adapter={rank: 17, alpha: 4}"],
            "adapter.rank: 17 is more than the 16 rows or columns of layers.0.attention.query_key_value.weight",
        ),
        (["adapter={rank: 2, alpha: 4, targets: [gates]}"], "did you mean 'gate'?"),
        (
            ["adapter={rank: 2, alpha: 4, targets: [gate]}", "model.activation=gelu"],
            "adapter.targets: gate matches no linear layer: the model's MLP has no gate",
        ),
        (
            ["adapter={rank: 2, alpha: 4, targets: [query, query_key_value]}"],
            "targets: query has no effect: it is given already",
        ),
        (["adapter={rank: 2, alpha: 4, targets: []}"], "adapter.targets"),
        (
            ["adapter={rank: 2, alpha: 4}", "initial_weights=null"],
            "adapter: weights that stay must come from a trained model: give its checkpoint as initial_weights",
        ),
        (["trainable=[head]", "initial_weights=null"], "trainable: weights that stay must come from a trained model"),
    ],
)
def test_what_is_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    (tmp_path / "run.yaml").write_text(RUN)
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, tmp_path / "run.yaml", overrides)
    assert message in str(caught.value)


def test_everything_is_trained_by_default(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN)
    config = load_config(TrainConfig, tmp_path / "run.yaml")
    assert not config.is_partial and config.trained_shapes.keys() == weight_shapes(config.model).keys()
    assert not config.has_dropout
    tuned = load_config(TrainConfig, tmp_path / "run.yaml", ["adapter={rank: 2, alpha: 4, dropout: 0.1}"])
    assert tuned.is_partial and tuned.has_dropout
    assert all(name.endswith((".lora.a", ".lora.b")) for name in tuned.trained_shapes)


def test_settings_are_checked_without_a_file() -> None:
    with pytest.raises(ValidationError, match="targets"):
        AdapterConfig(rank=1, alpha=1, targets=("up", "up"))
