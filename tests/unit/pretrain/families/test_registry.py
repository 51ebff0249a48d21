"""The table of families: a file and an entry in it make a family."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.config import ModelConfig
from pretrain.families import registry
from pretrain.families.registry import FAMILIES, format_of, format_of_type
from tests.unit.pretrain.families.small import SMALL, small_model

SIZES = {
    "vocabulary_size": 64,
    "hidden_size": 32,
    "layers": 1,
    "attention_heads": 2,
    "key_value_heads": 2,
    "feed_forward_size": 64,
    "maximum_positions": 16,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_complete(name: str) -> None:
    """Its file has the block, its format names it back, and a small model of it is tested beside the others."""
    module = vars(registry)[name]
    assert Path(module.__file__).stem == name
    assert FAMILIES[name].block is module.BLOCK
    model = ModelConfig.model_validate({"family": name, **SIZES})
    for setting, value in module.BLOCK.items():
        assert getattr(model, setting) == value
    assert name in {small_model(small).family for small in SMALL}
    form = FAMILIES[name].format
    assert form.family == name and format_of(model) is form and format_of_type(form.model_type) is form


def test_a_setting_of_the_model_takes_precedence() -> None:
    model = ModelConfig.model_validate({"family": "bloom", **SIZES, "positions": "rotary"})
    assert model.positions == "rotary" and model.embedding_norm


def test_an_unknown_family_names_the_known_ones() -> None:
    for family in ("lama", ["llama"]):
        with pytest.raises(
            ValueError, match="family\\n  Input should be 'llama', 'gpt3', 'palm', 'bloom', 'baichuan', 'qwen2'"
        ):
            ModelConfig.model_validate({"family": family, **SIZES})


def test_the_table_needs_no_torch() -> None:
    code = "import sys, pretrain.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
