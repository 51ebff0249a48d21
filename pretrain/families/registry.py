"""Families by name, and by the `model_type` of a Hugging Face configuration."""

from __future__ import annotations

from pretrain.config import ModelConfig
from pretrain.families import baichuan, bloom, gpt3, llama, palm
from pretrain.families.format import Format

FORMATS = (llama.FORMAT, gpt3.FORMAT, bloom.FORMAT, palm.FORMAT, baichuan.FORMAT)


def format_of(model: ModelConfig) -> Format:
    """Of the model's family.

    Raises:
        ValueError: nothing that transformers loads computes the family.
    """
    for found in FORMATS:
        if found.family == model.family:
            return found
    raise ValueError(f"model.family: no model of transformers computes {model.family}, so it cannot be converted")


def format_of_type(model_type: str) -> Format:
    """The one that a Hugging Face configuration's `model_type` stands for.

    Raises:
        ValueError: none of ours.
    """
    for found in FORMATS:
        if found.model_type == model_type:
            return found
    names = ", ".join(sorted(found.model_type for found in FORMATS))
    raise ValueError(f"config.json: model_type: {model_type!r} is none that can be imported: {names}")
