"""The table of model families, and look-ups in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pretrain.families import (
    baichuan,
    bloom,
    chatglm,
    gemma2,
    gemma3,
    glm,
    gpt3,
    gpt_neox,
    llama,
    mistral,
    olmo2,
    opt,
    palm,
    qwen2,
    qwen3,
)
from pretrain.families.format import Format

if TYPE_CHECKING:
    from pretrain.config import ModelConfig


@dataclass(frozen=True)
class Family:
    """Definition of a family.

    Attributes:
        block: defaults for the settings of `ModelConfig`.
        format: mapping to Hugging Face's format.
    """

    block: Mapping[str, Any]
    format: Format


FAMILIES: dict[str, Family] = {
    "llama": Family(llama.BLOCK, llama.FORMAT),
    "gpt3": Family(gpt3.BLOCK, gpt3.FORMAT),
    "palm": Family(palm.BLOCK, palm.FORMAT),
    "bloom": Family(bloom.BLOCK, bloom.FORMAT),
    "baichuan": Family(baichuan.BLOCK, baichuan.FORMAT),
    "qwen2": Family(qwen2.BLOCK, qwen2.FORMAT),
    "qwen3": Family(qwen3.BLOCK, qwen3.FORMAT),
    "mistral": Family(mistral.BLOCK, mistral.FORMAT),
    "gemma2": Family(gemma2.BLOCK, gemma2.FORMAT),
    "gemma3": Family(gemma3.BLOCK, gemma3.FORMAT),
    "olmo2": Family(olmo2.BLOCK, olmo2.FORMAT),
    "gpt_neox": Family(gpt_neox.BLOCK, gpt_neox.FORMAT),
    "opt": Family(opt.BLOCK, opt.FORMAT),
    "chatglm": Family(chatglm.BLOCK, chatglm.FORMAT),
    "glm": Family(glm.BLOCK, glm.FORMAT),
}
"""Every family by the name that `model.family` takes."""


def format_of(model: ModelConfig) -> Format:
    """The Hugging Face format of a model's family."""
    return FAMILIES[model.family].format


def format_of_type(model_type: str) -> Format:
    """The format that the `model_type` of a Hugging Face configuration names.

    Raises:
        ValueError: no family has this `model_type`; names the known ones.
    """
    by_type = {family.format.model_type: family.format for family in FAMILIES.values()}
    if model_type not in by_type:
        names = ", ".join(sorted(by_type))
        raise ValueError(f"config.json: model_type: {model_type!r} cannot be imported; one of {names} can")
    return by_type[model_type]
