"""Families by name, and by the `model_type` of a Hugging Face configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

from pretrain.config import ModelConfig
from pretrain.families import baichuan, bloom, gpt3, llama, palm
from pretrain.families.mapping import Weight


class Family(Protocol):
    """What each family's file declares."""

    MODEL_TYPE: str
    """In `config.json`."""
    PREFIX: str
    """Of all names but the head's; files of the model without a head leave it out."""
    IGNORED: tuple[str, ...]
    """Patterns of names over there that hold nothing trained, or a copy."""

    def weights(self, model: ModelConfig) -> dict[str, Weight]: ...

    def hugging_face_config(self, model: ModelConfig, *, dtype: str, end_of_document: int) -> dict[str, Any]: ...

    def model_settings(self, config: Mapping[str, Any]) -> dict[str, Any]: ...


FAMILIES: dict[str, Family] = {
    "llama": cast(Family, llama),
    "gpt3": cast(Family, gpt3),
    "bloom": cast(Family, bloom),
    "palm": cast(Family, palm),
    "baichuan": cast(Family, baichuan),
}


def family_of(model: ModelConfig) -> Family:
    """The file of the model's family.

    Raises:
        ValueError: nothing that transformers loads computes the family.
    """
    if model.family not in FAMILIES:
        raise ValueError(f"model.family: no model of transformers computes {model.family}, so it cannot be converted")
    return FAMILIES[model.family]


def family_of_type(model_type: str) -> Family:
    """The family that a Hugging Face configuration's `model_type` stands for.

    Raises:
        ValueError: none of ours.
    """
    for family in FAMILIES.values():
        if model_type == family.MODEL_TYPE:
            return family
    names = ", ".join(sorted(family.MODEL_TYPE for family in FAMILIES.values()))
    raise ValueError(f"config.json: model_type: {model_type!r} is none that can be imported: {names}")
