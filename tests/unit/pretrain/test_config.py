"""Every rule between settings is enforced, with a message that names field, value and rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundation.configuration import ConfigError, load_config
from pretrain.config import ModelConfig, TrainConfig, check_vocabulary, check_world_size

CONFIGS = Path(__file__).parents[3] / "configs" / "train"

BASE = """
output: runs/x
model: {vocabulary_size: 1000, hidden_size: 64, layers: 4, attention_heads: 4, key_value_heads: 2,
        feed_forward_size: 192, maximum_positions: 128}
data: {mixture: tokens/mixture.yaml, sequence_length: 128}
batch: {global_batch_size: 16, micro_batch_size: 2}
optimizer: {learning_rate: 1e-3}
schedule: {total_steps: 100, warmup_steps: 10}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(BASE, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model.hidden_size=66"], "model.hidden_size: 66 must be a multiple of attention_heads 4"),
        (["model.hidden_size=60"], "model.hidden_size: 60 / attention_heads 4 makes a head size of 15"),
        (["model.key_value_heads=3"], "model.key_value_heads: 3 must divide attention_heads 4"),
        (["parallel.tensor=8"], "parallel.tensor: 8 must divide model.attention_heads 4"),
        (
            [
                "parallel.tensor=6",
                "model={hidden_size: 96, attention_heads: 12, key_value_heads: 4, vocabulary_size: 768}",
            ],
            "parallel.tensor: 6 must divide model.key_value_heads 4, or be a multiple of it",
        ),
        (["model.rope_theta=5e5", "model.positions=alibi"], "model.rope_theta: 500000.0 has no effect: positions are"),
        (
            ["model.normalised_head=true", "model.tied_embedding=true"],
            "model.normalised_head: True has no effect: with tied_embedding there is no separate head",
        ),
        (["model.full_attention_first=1"], "model.full_attention_first: 1 has no effect: there is no sliding_window"),
        (
            ["model.full_attention_first=4", "model.sliding_window=9"],
            "model.full_attention_first: 4 must be less than layers 4; without a window in any layer leave sliding_win",
        ),
        (["parallel.tensor=2", "model.feed_forward_size=191"], "must divide model.feed_forward_size 191"),
        (
            [
                "parallel.tensor=32",
                "model={hidden_size: 64, attention_heads: 32, key_value_heads: 2, attention_head_size: 8}",
            ],
            "parallel.tensor: 32 is more than the 16 rows of the model's 2 key/value heads",
        ),
        (["parallel.pipeline=5"], "parallel.pipeline: 5 stages need at least one layer each, and model.layers is 4"),
        (["data.sequence_length=129"], "data.sequence_length: 129 is longer than model.maximum_positions 128"),
        (["batch.global_batch_size=15"], "batch.global_batch_size: 15 must be a multiple of batch.micro_batch_size 2"),
        (["parallel.data=3"], "must be a multiple of batch.micro_batch_size 2 × data-parallel processes 3 = 6"),
        (
            ["batch.ramp_up={start: 4, increment: 5, samples: 90}"],
            "batch.ramp_up.increment: steps of 5 from start 4 do not end at global_batch_size 16: it must divide 12",
        ),
        (
            ["batch.ramp_up={start: 16, increment: 4, samples: 90}"],
            "batch.ramp_up.start: 16 must be less than global_batch_size 16, or nothing grows",
        ),
        (
            ["batch.ramp_up={start: 3, increment: 13, samples: 90}"],
            "batch.ramp_up.start: 3 must be a multiple of batch.micro_batch_size 2",
        ),
        (
            ["batch.ramp_up={start: 4, increment: 6, samples: 90}", "parallel.data=2"],
            "batch.ramp_up.increment: 6 must be a multiple of batch.micro_batch_size 2 × data-parallel processes 2 = 4",
        ),
        (
            ["batch.ramp_up={start: 4, increment: 4, samples: 1000}"],
            "batch.global_batch_size: 16 has no effect: the 100 steps of schedule.total_steps take 464 samples",
        ),
        (["schedule.warmup_steps=100"], "schedule.warmup_steps: 100 must be less than schedule.total_steps 100"),
        (["checkpoint.keep_every_steps=1000"], "checkpoint.keep_every_steps: has no effect without keep_last"),
        (
            ["checkpoint={every_steps: 40, keep_last: 2, keep_every_steps: 100}"],
            "checkpoint.keep_every_steps: 100 must be a multiple of every_steps 40",
        ),
        (["parallel.sequence=true"], "parallel.sequence: has no effect with tensor 1"),
        (
            ["parallel={tensor: 2, sequence: true}", "data.sequence_length=127"],
            "data.sequence_length: 127 must be a multiple of parallel.tensor 2 (parallel.sequence), which is 2",
        ),
        (
            ["parallel.context=3", "parallel.tensor=2", "parallel.sequence=true"],
            "data.sequence_length: 128 must be a multiple of 2 × parallel.context 3 × parallel.tensor 2 "
            "(parallel.sequence), which is 12",
        ),
        (["stop_after_step=101"], "stop_after_step: 101 has no effect, schedule.total_steps is 100"),
        (["optimizer.beta2=1.0"], "optimizer.beta2: 1.0 is not allowed: it should be less than 1"),
        (["precision=fp16"], "precision: 'fp16' is not allowed: it should be 'bf16' or 'fp32'"),
        (["model.family=lama"], "model.family: 'lama' is not allowed: it should be 'llama',"),
    ],
)
def test_rules_between_settings(base: Path, overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, base, overrides)
    assert expected in str(caught.value)


def test_the_degrees_multiply_to_the_number_of_processes(base: Path) -> None:
    config = load_config(TrainConfig, base, ["parallel={tensor: 2, pipeline: 2}"])
    assert check_world_size(config, 8) == 2
    with pytest.raises(ValueError, match=r"parallel\.tensor 2 × parallel\.pipeline 2 = 4 must divide.*processes, 6"):
        check_world_size(config, 6)
    with pytest.raises(
        ValueError, match=r"global_batch_size: 16 must be a multiple of .* 2 × data-parallel processes 3 = 6"
    ):
        check_world_size(config, 12)
    fixed = load_config(TrainConfig, base, ["parallel={tensor: 2, pipeline: 2, data: 2}"])
    assert check_world_size(fixed, 8) == 2
    with pytest.raises(ValueError, match=r"parallel\.data 2 = 8, but 4 processes were started; start 8"):
        check_world_size(fixed, 4)


def test_the_vocabulary_is_the_tokenizers(base: Path) -> None:
    config = load_config(TrainConfig, base)
    check_vocabulary(config, 1000)
    with pytest.raises(ValueError, match=r"model\.vocabulary_size: 1000 differs from the 1024 of data\.mixture tokens"):
        check_vocabulary(config, 1024)


def test_derived_values(base: Path) -> None:
    config = load_config(TrainConfig, base)
    assert config.model.head_size == 16
    assert [config.model.padded_vocabulary_size(degree) for degree in (1, 8, 3, 5, 256)] == [
        1024,
        1024,
        1152,
        1280,
        1024,
    ]
    assert ModelConfig(**(config.model.model_dump() | {"vocabulary_size": 1024})).padded_vocabulary_size() == 1024
    assert [config.accumulation_steps(size) for size in (1, 2, 8)] == [8, 4, 1]


def test_defaults_are_llamas(base: Path) -> None:
    """Touvron et al. 2023, arXiv:2302.13971, section 2.3."""
    config = load_config(TrainConfig, base)
    optimizer = config.optimizer
    assert (optimizer.beta1, optimizer.beta2, optimizer.weight_decay, optimizer.gradient_clipping) == (
        0.9,
        0.95,
        0.1,
        1.0,
    )
    assert config.schedule.minimum_learning_rate_ratio == 0.1


def test_every_recipe_is_read() -> None:
    recipes = {path.stem: load_config(TrainConfig, path) for path in CONFIGS.glob("*.yaml")}
    assert recipes.keys() >= {"demo", "llama-7b", "bloom-176b"}
    assert check_world_size(recipes["demo"], 8) == 2
    llama = recipes["llama-7b"]
    tokens = llama.schedule.total_steps * llama.batch.global_batch_size * llama.data.sequence_length
    assert tokens == pytest.approx(1.0e12, rel=1e-5)
    assert check_world_size(llama, 256) == 128
    assert recipes["alpaca-lora-7b"].trained_count == 4_194_304
    bloom = recipes["bloom-176b"]
    assert check_world_size(bloom, 384) == 8
    assert bloom.batch.sizes.after(bloom.schedule.total_steps) == pytest.approx(200e6, rel=1e-5)
    assert bloom.batch.sizes.after(bloom.schedule.warmup_steps) == pytest.approx(183_105, rel=2e-3)
    assert [bloom.accumulation_steps(8, size) for size in bloom.batch.sizes.all[:3]] == [12, 13, 14]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path: Path) -> None:
    config = load_config(TrainConfig, path)
    assert config.schedule.total_steps is None or config.schedule.steps > config.schedule.warmup
    assert config.data.sequence_length <= config.model.maximum_positions


def test_longrope_and_documents_apart_are_refused(base: Path) -> None:
    scaling = "model.rope_scaling={kind: longrope, original_positions: 64, short_factors: [1, 1, 1, 1, 1, 1, 1, 1], "
    scaling += "long_factors: [2, 2, 2, 2, 2, 2, 2, 2]}"
    assert load_config(TrainConfig, base, [scaling]).model.rope_scaling is not None
    with pytest.raises(ConfigError, match="longrope has other factors in long samples"):
        load_config(TrainConfig, base, [scaling, "objective.separate_documents=true"])
    with pytest.raises(ConfigError, match=r"rope_scaling\.short_factors: 8 factors, but heads have 4 frequencies"):
        load_config(TrainConfig, base, [scaling, "model.attention_head_size=8"])
