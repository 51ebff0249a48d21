"""The settings of a model, for imports: from a file of ours, and from what another program wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

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


def model_of(settings: Mapping[str, Any], where: str) -> ModelConfig:
    """The model of settings that were made of another program's.

    Args:
        where: where those are from, for messages.

    Raises:
        ValueError: our settings cannot have them; names each.
    """
    try:
        return ModelConfig.model_validate(dict(settings))
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            place = ".".join(map(str, fault["loc"]))
            faults.append(f"{place}: {fault['input']!r}: {fault['msg']}" if place else fault["msg"])
        told = "; ".join(fault.removeprefix("Value error, ") for fault in faults)
        raise ValueError(f"{where}: {told} (by the names of our settings)") from None
