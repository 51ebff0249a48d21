"""The settings of a model from a file, for imports of weights that come without them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ConfigDict

from foundation.configuration import Settings, load_config
from pretrain.config import ModelConfig


class ModelFile(Settings):
    """A file with the settings of a model, such as those in `configs/model`; other settings are passed over."""

    model_config = ConfigDict(extra="ignore")

    model: ModelConfig


def load_model_settings(path: Path, overrides: Sequence[str] = ()) -> ModelConfig:
    """The settings in a file, with overrides such as `model.layers=4`.

    Raises:
        ConfigError: the file is missing, or a setting is wrong; names it and its line.
    """
    return load_config(ModelFile, path, overrides).model
