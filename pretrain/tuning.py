"""What a run trains of a model: all of it, the weights that `trainable` names, or low-rank adapters beside the others.

Weights go by their global names, see `pretrain.families.mapping.weight_shapes`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from foundation.configuration import Settings
from pretrain.families.mapping import weight_shapes

if TYPE_CHECKING:
    from pretrain.config import ModelConfig

PARTS = {
    "query_key_value": ("query", "key", "value"),
    "output": ("output",),
    "gate_up": ("gate", "up"),
    "up": ("up",),
    "down": ("down",),
}
"""Linear layers of a block by name, and the names of their blocks of rows; a single block has the layer's name."""

Target = Literal["query_key_value", "query", "key", "value", "output", "gate_up", "gate", "up", "down"]


class AdapterConfig(Settings):
    """Low-rank adapters: a linear layer computes W x + s · B A x, with W frozen and s = alpha / rank (LoRA, Hu et al.
    2021, arXiv:2106.09685, section 4.1)."""

    rank: int = Field(gt=0)
    """Rows of A and columns of B."""
    alpha: float = Field(gt=0)
    """Scale of what an adapter adds, times the rank."""
    rank_stabilised: bool = False
    """Whether s is alpha / sqrt(rank), so that the size of a gradient does not depend on the rank (Kalajdzievski 2023,
    arXiv:2312.03732, theorem 3.2)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout rate of an adapter's input; the projections of a fused layer share a mask."""
    targets: tuple[Target, ...] | None = Field(default=None, min_length=1)
    """Linear layers of the blocks that have adapters, or projections of fused ones: `query`, `key` and `value` of
    `query_key_value`, `gate` and `up` of `gate_up`. A layer without a gate has `up` alone. Left out: all."""

    @property
    def scale(self) -> float:
        """s, by which B A x is multiplied."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

    def adapted_parts(self, layer: str) -> tuple[int, ...]:
        """Indices of the blocks of rows of a linear layer that have adapters, by the layer's name within its block."""
        names = PARTS.get(layer, ())
        is_whole = self.targets is None or layer in self.targets
        return tuple(i for i, part in enumerate(names) if is_whole or part in (self.targets or ()))

    @model_validator(mode="after")
    def _targets_are_given_once(self) -> AdapterConfig:
        targets = self.targets or ()
        for target in targets:
            twice = targets.count(target) > 1
            if twice or any(target in parts for layer, parts in PARTS.items() if layer in targets and layer != target):
                raise ValueError(f"targets: {target} has no effect: it is given already; leave it out")
        return self


ADAPTER_SUFFIXES = (".lora.a", ".lora.b")
"""Ends of the names of an adapter's factors A and B, after the name of the layer."""


def is_adapter_weight(name: str) -> bool:
    return name.endswith(ADAPTER_SUFFIXES)


def adapter_shapes(model: ModelConfig, adapter: AdapterConfig | None) -> dict[str, tuple[int, int]]:
    """Whole shapes of all adapter weights by name, in the model's order. A fused layer has one A for each adapted
    block, one below the other.

    Raises:
        ValueError: a target is not in the model, or the rank is higher than a matrix has rows or columns.
    """
    found: dict[str, tuple[int, int]] = {}
    if adapter is None:
        return found
    missing = set(adapter.targets or ())
    for name, (shape, blocks) in weight_shapes(model).items():
        layer, _, kind = name.rpartition(".")
        short = layer.rpartition(".")[2]
        parts = adapter.adapted_parts(short) if kind == "weight" else ()
        if not parts:
            continue
        missing -= {short, *PARTS[short]}
        rows, columns = [blocks[part] for part in parts], shape[1]
        smallest = min(columns, *rows)
        if adapter.rank > smallest:
            raise ValueError(
                f"adapter.rank: {adapter.rank} is more than the {smallest} rows or columns of {name}, whose update it "
                f"would not restrict: at most {smallest}, or other adapter.targets"
            )
        found[f"{layer}.lora.a"] = (len(parts) * adapter.rank, columns)
        found[f"{layer}.lora.b"] = (sum(rows), adapter.rank)
    if missing:
        has = "gate" if model.is_gated else "no gate"
        raise ValueError(
            f"adapter.targets: {min(missing)} matches no linear layer: the model's MLP has {has} (model.activation "
            f"{model.activation}); its layers are {', '.join(_layers(model))}"
        )
    return found


def trained_shapes(
    model: ModelConfig, trainable: Sequence[str] | None, adapter: AdapterConfig | None
) -> dict[str, tuple[int, ...]]:
    """Whole shapes of the weights that are trained, without padding rows, by name.

    Raises:
        ValueError: a pattern matches no weight, or nothing is trained, or an adapted weight is trained itself.
    """
    shapes = {name: shape for name, (shape, _) in weight_shapes(model).items()}
    adapters = adapter_shapes(model, adapter)
    if trainable is None:
        return dict(adapters) if adapter is not None else dict(shapes)
    matched = matching(trainable, shapes)
    if not matched and not adapters:
        raise ValueError("trainable: nothing would be trained; name weights, or leave it out to train all of them")
    for name in adapters:
        weight = f"{name.removesuffix('.lora.a')}.weight"
        if weight in matched:
            raise ValueError(f"trainable: {weight} has an adapter; train it or adapt it, not both")
    return {**{name: shape for name, shape in shapes.items() if name in matched}, **adapters}


def matching(patterns: Sequence[str], names: Iterable[str]) -> set[str]:
    """Names that match a pattern: `*` stands for any characters, and the name of a module for all that is in it, so
    that `head`, `layers.3` and `layers.*.mlp` are patterns.

    Raises:
        ValueError: a pattern matches nothing; suggests the closest names.
    """
    modules: dict[str, list[str]] = {}
    for name in names:
        words = name.split(".")
        for count in range(1, len(words) + 1):
            modules.setdefault(".".join(words[:count]), []).append(name)
    found: set[str] = set()
    for pattern in patterns:
        matched = [name for module, inside in modules.items() if fnmatchcase(module, pattern) for name in inside]
        if not matched:
            close = difflib.get_close_matches(pattern, modules, n=3, cutoff=0.4)
            hint = f"the closest are {', '.join(close)}" if close else f"the first are {', '.join(list(modules)[:3])}"
            raise ValueError(f"trainable: {pattern!r} matches no weight of the model; {hint}")
        found.update(matched)
    return found


def _layers(model: ModelConfig) -> list[str]:
    layers = [name.split(".")[-2] for name in weight_shapes(model) if name.endswith(".weight")]
    return [layer for layer in dict.fromkeys(layers) if layer in PARTS]
