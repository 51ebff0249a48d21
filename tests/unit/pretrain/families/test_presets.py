"""Every published size has the published number of weights, and our formula counts what the model has."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundation.configuration import Settings, load_config
from pretrain.config import ModelConfig
from pretrain.families.mapping import parameter_count, weight_shapes
from tests.unit.pretrain.families.small import SMALL, build, small_model, without_padding

CONFIGS = Path(__file__).parents[4] / "configs" / "model"

EXACT = {
    # Of the released weights, as KerasHub's presets list them.
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1.5b": 1_557_611_200,
    # The models' cards: bigscience/bloom-560m and so on.
    "bloom-560m": 559_214_592,
    "bloom-1b1": 1_065_314_304,
    "bloom-1b7": 1_722_408_960,
    "bloom-3b": 3_002_557_440,
    "bloom-7b1": 7_069_016_064,
    "bloom-176b": 176_247_271_424,
    # The table in the README of baichuan-inc/Baichuan-13B.
    "baichuan-7b": 7_000_559_616,
    "baichuan-13b": 13_264_901_120,
    # Of the released weights as loaded: KerasHub's preset (7B), pyllama's README (33B, 65B), LoRAM's tables (the rest).
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    # Of the released weights, as their cards on Hugging Face list them.
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3.1-8b": 8_030_261_248,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "mistral-7b": 7_241_732_096,
    "gemma2-2b": 2_614_341_888,
    "gemma2-9b": 9_241_705_984,
    "gemma2-27b": 27_227_128_320,
    "gemma3-1b": 999_885_952,
    "olmo2-1b": 1_484_916_736,
    "olmo2-7b": 7_298_617_344,
    "olmo2-13b": 13_716_198_400,
    "chatglm2-6b": 6_243_584_000,
    "chatglm3-6b": 6_243_584_000,
    # Biderman et al. 2023, table 1, and Black et al. 2022, section 2.
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    "gpt-neox-20b": 20_554_567_680,
    # As loaded by transformers, less the two rows of positions that only padding uses.
    "opt-125m": 125_239_296 - 2 * 768,
    "opt-1.3b": 1_315_758_080 - 2 * 2048,
    "opt-2.7b": 2_651_596_800 - 2 * 2560,
    "opt-6.7b": 6_658_473_984 - 2 * 4096,
    "opt-13b": 12_853_473_280 - 2 * 5120,
}
ROUNDED = {
    # Brown et al. 2020, table 2.1: two or three digits.
    "gpt3-125m": (125e6, 0.5e6),
    "gpt3-350m": (356e6, 0.5e6),
    "gpt3-760m": (760e6, 5e6),
    "gpt3-1.3b": (1.3e9, 0.05e9),
    "gpt3-2.7b": (2.7e9, 0.05e9),
    "gpt3-6.7b": (6.7e9, 0.05e9),
    "gpt3-13b": (13.0e9, 0.1e9),
    "gpt3-175b": (175.0e9, 0.5e9),
    # Zhang et al. 2022, table 1.
    "opt-30b": (30e9, 0.05e9),
    "opt-66b": (66e9, 0.5e9),
    # Chowdhery et al. 2022, table 1.
    "palm-8b": (8.63e9, 0.005e9),
    "palm-62b": (62.50e9, 0.005e9),
    "palm-540b": (540.35e9, 0.01e9),
    # Yang et al. 2023, by name only: no count was published.
    "baichuan2-7b": (7.5e9, 0.05e9),
    "baichuan2-13b": (13.9e9, 0.05e9),
    # Du et al. 2021, section 3.1, and Zeng et al. 2022, by name only.
    "glm-110m": (110e6, 1e6),
    "glm-335m": (335e6, 1e6),
    "glm-410m": (410e6, 1e6),
    "glm-515m": (515e6, 1e6),
    "glm-2b": (2e9, 0.1e9),
    "glm-10b": (10e9, 0.2e9),
    "glm-130b": (130e9, 1.5e9),
}


class ModelFile(Settings):
    model: ModelConfig


def preset(name: str) -> ModelConfig:
    return load_config(ModelFile, CONFIGS / f"{name}.yaml").model


@pytest.mark.parametrize("name", EXACT)
def test_the_count_is_the_published_one(name: str) -> None:
    assert parameter_count(preset(name)) == EXACT[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_the_count_rounds_to_the_published_one(name: str) -> None:
    published, tolerance = ROUNDED[name]
    assert abs(parameter_count(preset(name)) - published) <= tolerance


def test_every_preset_is_counted() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {"demo", *EXACT, *ROUNDED}
    preset("demo")


@pytest.mark.parametrize("name", SMALL)
def test_the_declared_weights_are_those_of_the_model(name: str) -> None:
    config = small_model(name)
    declared = {key: shape for key, (shape, _) in weight_shapes(config).items()}
    parameters = dict(build(config).named_global_parameters())
    assert parameters["embedding.weight"].shape[0] == config.padded_vocabulary_size()
    found = {key: tuple(without_padding(config, key, parameter).shape) for key, parameter in parameters.items()}
    assert found == declared
    assert list(found) == list(declared), "the order"
