"""The recipes of data and of training belong together, and have the sizes that were published."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.config import DataConfig
from data_prep.conversations.templates import load_template
from foundation.configuration import load_config
from pretrain.config import TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"
DATA = {
    config.output / "tokens" / "mixture.yaml": config
    for config in (load_config(DataConfig, path) for path in sorted((CONFIGS / "data").glob("*.yaml")))
}
TRAIN = {path.stem: load_config(TrainConfig, path) for path in sorted((CONFIGS / "train").glob("*.yaml"))}
PAIRS = {name: DATA[config.data.mixture] for name, config in TRAIN.items() if config.data.mixture in DATA}


def test_recipes_of_instruction_tuning_have_their_data() -> None:
    tuned = {"alpaca-lora-7b", "vicuna-7b", "bloomz-7b1", "belle-7b", "chinese-alpaca-7b", "llama2-chat-sft"}
    stages = {"chinese-llama-7b-stage1", "chinese-llama-7b-stage2"}
    assert PAIRS.keys() >= tuned | stages
    assert {name for name, data in PAIRS.items() if data.tokens.template} == tuned | {"demo-chat", "demo-chat-lora"}
    assert len(DATA) == len(list((CONFIGS / "data").glob("*.yaml"))), "each has a folder of its own"


@pytest.mark.parametrize("name", PAIRS)
def test_samples_are_the_packs_of_the_data(name: str) -> None:
    train, data = TRAIN[name], PAIRS[name]
    assert train.objective.separate_documents == (data.tokens.pack is not None)
    if data.tokens.pack is not None:
        assert train.data.sequence_length == data.tokens.pack
        assert data.tokens.template is not None
        load_template(data.tokens.template)


@pytest.mark.parametrize(
    ("name", "trained", "share"),
    [  # shares: table of settings in ymcui/Chinese-LLaMA-Alpaca, README, of all weights, adapters included
        ("chinese-llama-7b-stage1", 204_607_488, "2.97%"),
        ("chinese-llama-7b-stage2", 417_603_584, "6.06%"),
        ("chinese-alpaca-7b", 429_211_648, "6.22%"),
    ],
)
def test_as_many_weights_are_trained_as_was_published(name: str, trained: int, share: str) -> None:
    config = TRAIN[name]
    assert config.trained_count == trained
    adapters = sum(a * b for key, (a, b) in config.trained_shapes.items() if ".lora." in key)
    whole = 6_738_415_616 + 2 * (config.model.vocabulary_size - 32_000) * 4096
    assert f"{trained / (whole + adapters):.2%}" == share


def test_bloomz_sees_as_many_samples_as_it_did() -> None:
    config = TRAIN["bloomz-7b1"]
    assert config.schedule.steps * config.batch.global_batch_size == 6_348_800
    assert config.objective.weighting == "document"
