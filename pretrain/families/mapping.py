"""Types for the mapping of our weights to another format, with which each family's file declares its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from pretrain.config import ModelConfig

Layout = Literal["rows", "transposed", "by_head", "gate_last", "after_two", "less_one"]


@dataclass(frozen=True)
class Rows:
    """Rows [start, stop) of one of our weights, which make the whole weight `name` in the other format.

    Attributes:
        layout: rows: the same rows. transposed: inputs first (GPT-2's Conv1D). by_head: ours has all queries, then all
            keys, then all values; theirs has query, key and value of each head together (BLOOM). gate_last: theirs has
            the gate after the other half (GLM-130B). after_two: theirs has two rows before ours, which are used for
            padding only (OPT's positions) and are zero in what we write. less_one: theirs are added to one before they
            are used (Gemma's norms).
        heads: number of heads, for the by_head layout.
    """

    name: str
    start: int
    stop: int
    layout: Layout = "rows"
    heads: int = 0

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of `name` in the other format, for our weight of shape `ours`."""
        shape = (self.stop - self.start, *ours[1:])
        if self.layout == "after_two":
            return (shape[0] + 2, *shape[1:])
        return shape[::-1] if self.layout == "transposed" else shape

    def to_theirs(self, part: torch.Tensor) -> torch.Tensor:
        """Convert these rows of our weight to the other format."""
        if self.layout == "transposed":
            return part.T
        if self.layout == "by_head":
            return part.unflatten(0, (3, self.heads, -1)).transpose(0, 1).flatten(0, 2)
        if self.layout == "gate_last":
            return part.roll(len(part) // 2, 0)
        if self.layout == "less_one":
            return part - 1
        if self.layout == "after_two":
            import torch

            return torch.nn.functional.pad(part, (0, 0, 2, 0))
        return part

    def from_theirs(self, part: torch.Tensor) -> torch.Tensor:
        """Convert a weight of the other format to these rows of ours; the inverse of `to_theirs`."""
        if self.layout == "transposed":
            return part.T
        if self.layout == "by_head":
            return part.unflatten(0, (self.heads, 3, -1)).transpose(0, 1).flatten(0, 2)
        if self.layout == "gate_last":
            return part.roll(len(part) // 2, 0)
        if self.layout == "after_two":
            return part[2:]
        if self.layout == "less_one":
            return part + 1
        return part


@dataclass(frozen=True)
class Weight:
    """One of our weights: its whole shape, and the weights of the other format that its rows make."""

    shape: tuple[int, ...]
    parts: tuple[Rows, ...]


@dataclass(frozen=True)
class Source:
    """Names of a weight's consecutive blocks of rows in the other format, with `{}` for the layer's index."""

    names: tuple[str, ...]
    layout: Layout = "rows"


def same(*names: str) -> Source:
    """A weight with the same rows in the other format."""
    return Source(names)


def with_bias(ours: str, theirs: str, layout: Layout = "rows") -> dict[str, Source]:
    """Weight and bias of a layer; the layout `transposed` applies to the weight alone."""
    bias: Layout = "rows" if layout == "transposed" else layout
    return {f"{ours}.weight": Source((f"{theirs}.weight",), layout), f"{ours}.bias": Source((f"{theirs}.bias",), bias)}


def weight_shapes(model: ModelConfig) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Whole shape, without padding rows, and sizes of the blocks of rows (queries, keys, values; gate, up) of every
    weight, by our name and in the model's order."""
    hidden, inner, head = model.hidden_size, model.feed_forward_size, model.head_size
    queries, keys = model.attention_heads * head, model.key_value_heads * head
    vocabulary = model.vocabulary_size
    found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def linear(name: str, blocks: tuple[int, ...], columns: int, has_bias: bool = model.biases) -> None:
        found[f"{name}.weight"] = ((sum(blocks), columns), blocks)
        if has_bias:
            found[f"{name}.bias"] = ((sum(blocks),), blocks)

    def norm(name: str) -> None:
        for part in ("weight", "bias") if model.norm == "layer" else ("weight",):
            found[f"{name}.{part}"] = ((hidden,), (hidden,))

    found["embedding.weight"] = ((vocabulary, hidden), (vocabulary,))
    if model.positions.startswith("learned"):
        found["positions.weight"] = ((model.maximum_positions, hidden), (model.maximum_positions,))
    if model.positions == "learned_2d":
        found["block_positions.weight"] = ((model.maximum_positions, hidden), (model.maximum_positions,))
    if model.embedding_norm:
        norm("embedding_norm")
    for i in range(model.layers):
        norm(f"layers.{i}.attention_norm")
        has_bias = model.query_key_value_biases
        linear(f"layers.{i}.attention.query_key_value", (queries, keys, keys), hidden, has_bias)
        linear(f"layers.{i}.attention.output", (hidden,), queries)
        for part, size in (("query", queries), ("key", keys)) if model.query_key_norm != "none" else ():
            width = head if model.query_key_norm == "per_head" else size
            found[f"layers.{i}.attention.{part}_norm.weight"] = ((width,), (width,))
        if model.block == "sandwich":
            norm(f"layers.{i}.attention_post_norm")
        if model.has_mlp_norm:
            norm(f"layers.{i}.mlp_norm")
        if model.is_gated:
            linear(f"layers.{i}.mlp.gate_up", (inner, inner), hidden)
        else:
            linear(f"layers.{i}.mlp.up", (inner,), hidden)
        linear(f"layers.{i}.mlp.down", (hidden,), inner)
        if model.block == "sandwich":
            norm(f"layers.{i}.mlp_post_norm")
    norm("final_norm")
    if not model.tied_embedding:
        found["head.weight"] = ((vocabulary, hidden), (vocabulary,))
    return found


def parameter_count(model: ModelConfig) -> int:
    """Number of weights of the model."""
    return sum(sum(blocks) * (shape[1] if len(shape) == 2 else 1) for shape, blocks in weight_shapes(model).values())


def map_weights(model: ModelConfig, sources: Mapping[str, Source]) -> dict[str, Weight]:
    """Mapping of every weight of the model, by our name.

    Args:
        sources: sources by our name, with `{}` for the layer's index.
    """
    found = {}
    for name, (shape, blocks) in weight_shapes(model).items():
        words = name.split(".")
        layer = words[1] if words[0] == "layers" else ""
        pattern = ".".join(["layers", "{}", *words[2:]]) if layer else name
        source = sources[pattern]
        if len(source.names) == 1:
            blocks = (sum(blocks),)
        assert len(source.names) == len(blocks), f"{name}: {len(blocks)} blocks, but {source.names}"
        heads = model.attention_heads if source.layout == "by_head" else 0
        start, parts = 0, []
        for other, rows in zip(source.names, blocks, strict=True):
            parts.append(Rows(other.format(layer), start, start + rows, source.layout, heads))
            start += rows
        found[name] = Weight(shape, tuple(parts))
    return found


def check_shape(name: str, weight: Weight, shape: tuple[int, ...]) -> None:
    """Raise ValueError when the shape of one of our tensors differs from that of the model's settings."""
    if shape != weight.shape:
        raise ValueError(f"{name}: shape {shape}, but the model's settings require {weight.shape}")


def to_hugging_face(name: str, weight: Weight, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Convert one of our tensors to the tensors of Hugging Face's format, in its dtype.

    Raises:
        ValueError: the tensor's shape differs from that of the model's settings.
    """
    check_shape(name, weight, tuple(tensor.shape))
    return {rows.name: rows.to_theirs(tensor[rows.start : rows.stop]) for rows in weight.parts}


def from_hugging_face(name: str, weight: Weight, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
    """Convert tensors of Hugging Face's format to one of ours.

    Args:
        read: returns a tensor by its name in Hugging Face's format.

    Raises:
        ValueError: a tensor's shape differs from that of the model's settings.
    """
    import torch

    parts = []
    for rows in weight.parts:
        part = read(rows.name)
        shape = rows.shape(weight.shape)
        if tuple(part.shape) != shape:
            raise ValueError(f"{rows.name}: shape {tuple(part.shape)}, but {name} needs {shape}")
        parts.append(rows.from_theirs(part))
    return torch.cat(parts) if len(parts) > 1 else parts[0]
