"""Layer files of a Megatron-DeepSpeed fork, and reading them.

The forks (BigScience's, Microsoft's, and those made from them) write `layer_NN-model_TT-model_states.pt` for each layer
NN of the pipeline and each tensor rank TT: embedding, blocks, last norm and, where it is not tied, the head.
Layers without weights take numbers but have no file, so that the numbers depend on the fork; the order does not. The
files do not contain the model's settings, which come from a file of ours.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pretrain.config import ModelConfig
from pretrain.families.format import COMPUTED_BY_ALL
from pretrain.families.mapping import weight_shapes
from tools.megatron.weights import by_part, check_computed
from tools.pickles import read_pickle, tensors_of

NAME = re.compile(r"layer_(\d+)-model_(\d+)-model_states\.pt")

Kind = Literal["copies", "rows", "columns", "heads", "gated"]


@dataclass(frozen=True)
class Place:
    """A weight in the layer files.

    Attributes:
        name: its name in the file of its layer.
        kind: how the tensor ranks share it. copies: each has all of it. rows, columns: parts along dim 0 or 1. heads:
            rows, with the queries of a group of heads, their key and their value together. gated: rows, with the gate's
            part and then the other one on each rank.
    """

    name: str
    kind: Kind


def _layer(name: str, kind: Kind, bias: Kind) -> dict[str, Place]:
    return {"weight": Place(f"{name}.weight", kind), "bias": Place(f"{name}.bias", bias)}


EMBEDDING = {
    "embedding": _layer("word_embeddings", "rows", "rows"),
    "positions": _layer("position_embeddings", "copies", "copies"),
    "embedding_norm": _layer("word_embeddings.norm", "copies", "copies"),
}
BLOCK = {
    "attention_norm": _layer("input_layernorm", "copies", "copies"),
    "attention.query_key_value": _layer("self_attention.query_key_value", "heads", "heads"),
    "attention.output": _layer("self_attention.dense", "columns", "copies"),
    "mlp_norm": _layer("post_attention_layernorm", "copies", "copies"),
    "mlp.up": _layer("mlp.dense_h_to_4h", "rows", "rows"),
    "mlp.gate_up": _layer("mlp.dense_h_to_4h", "gated", "gated"),
    "mlp.down": _layer("mlp.dense_4h_to_h", "columns", "copies"),
}
"""Places by our names without the layer's index. Source: `megatron/model/transformer.py`, `language_model.py` and
`gpt_model.py` of BigScience's and Microsoft's Megatron-DeepSpeed."""

COMPUTES: dict[str, tuple[Any, ...]] = {
    **{setting: (value,) for setting, value in COMPUTED_BY_ALL.items() if setting != "rotary_share"},
    "positions": ("alibi", "rotary", "learned"),
    "block": ("sequential",),
    "normalised_head": (False,),
    "logit_scale": (1.0,),
}
"""Settings that the forks compute."""


class LayerFiles:
    """The layer files of a folder, read one layer at a time.

    Attributes:
        degree: tensor degree of the run that wrote them.

    Raises:
        ValueError: there are none, or a file is missing.
    """

    def __init__(self, folder: Path, layers: int) -> None:
        self.folder = folder
        by_layer: dict[int, dict[int, Path]] = defaultdict(dict)
        for path in sorted(folder.glob("layer_*-model_*-model_states.pt")):
            match = NAME.fullmatch(path.name)
            if match:
                by_layer[int(match[1])][int(match[2])] = path
        if not by_layer:
            raise ValueError(
                f"{folder}: no layer_NN-model_TT-model_states.pt; give the folder of one step, such as global_step1000"
            )
        self.degree = 1 + max(rank for ranks in by_layer.values() for rank in ranks)
        for number, ranks in sorted(by_layer.items()):
            for rank in range(self.degree):
                if rank not in ranks:
                    raise ValueError(f"{folder}: layer_{number:02d}-model_{rank:02d}-model_states.pt: missing")
        self._files = [[ranks[rank] for rank in range(self.degree)] for _, ranks in sorted(by_layer.items())]
        self._number, self._loaded = -1, [{}] * self.degree
        found = len(self._files)
        if not layers + 2 <= found <= layers + 3:
            raise ValueError(
                f"{folder}: files of {found} layers, but a model of {layers} blocks has {layers + 2}, or {layers + 3} "
                "with a head of its own"
            )
        self._blocks = layers

    _number: int
    _loaded: list[Mapping[str, torch.Tensor]]

    @property
    def has_head(self) -> bool:
        return len(self._files) == self._blocks + 3

    def ranks(self, number: int) -> list[Mapping[str, torch.Tensor]]:
        """Tensors of a layer, counted from the embedding, by tensor rank.

        Raises:
            ValueError: a file is damaged, or contains more than tensors.
        """
        if number != self._number:
            self._loaded = [_tensors(path) for path in self._files[number]]
            self._number = number
        return self._loaded

    def parts(self, number: int, name: str) -> list[torch.Tensor]:
        """The ranks' parts of a tensor, fp32."""
        found = []
        for path, tensors in zip(self._files[number], self.ranks(number), strict=True):
            if name not in tensors:
                raise ValueError(f"{path}: no tensor {name!r}, only {', '.join(sorted(tensors))}")
            found.append(tensors[name].float())
        return found

    def names(self, number: int) -> set[str]:
        """Names of the tensors of a layer, but for tables that are computed anew."""
        return {name for tensors in self.ranks(number) for name in tensors if not name.endswith("inv_freq")}


def _tensors(path: Path) -> Mapping[str, torch.Tensor]:
    return tensors_of(read_pickle(path), str(path))


class LayerImporter:
    """Whole weights of a model, by our names, from layer files; those of one layer are in memory at a time.

    Attributes:
        differing: largest difference between the ranks' copies of a weight, by our name, where they differ; their mean
            is taken. In BigScience's runs the ranks' copies of norms drifted apart.
    """

    def __init__(self, folder: Path, model: ModelConfig) -> None:
        check_computed(model, COMPUTES, "Megatron-DeepSpeed")
        files = LayerFiles(folder, model.layers)
        if files.has_head == model.tied_embedding:
            found = "has a head of its own" if files.has_head else "has no head of its own"
            raise ValueError(f"model.tied_embedding: {model.tied_embedding}, but the model in {folder} {found}")
        self._files, self._model = files, model
        self._shapes = weight_shapes(model)
        wanted: dict[int, set[str]] = defaultdict(set)
        for name in self._shapes:
            number, place = self._place(name)
            wanted[number].add(place.name)
        self._wanted = wanted
        self.differing: dict[str, float] = {}

    def __call__(self, name: str) -> torch.Tensor:
        """Read one weight.

        Raises:
            ValueError: it is missing or has another shape than the model's settings say, or its layer has a tensor that
                the model does not have.
        """
        number, place = self._place(name)
        parts = self._files.parts(number, place.name)
        for unknown in sorted(self._files.names(number) - self._wanted[number]):
            raise ValueError(
                f"{self._files.folder}: layer {number} has a tensor {unknown!r}, which the model's settings do not have"
            )
        whole = self._merged(name, place.kind, parts)
        shape = self._shapes[name][0]
        if name in ("embedding.weight", "head.weight"):
            whole = whole[: shape[0]]  # theirs is padded to a multiple of the tensor degree
        if tuple(whole.shape) != shape:
            raise ValueError(
                f"{self._files.folder}: {place.name} of layer {number} has shape {tuple(whole.shape)}, but {name} of "
                f"the model's settings has {shape}"
            )
        return whole

    def _place(self, name: str) -> tuple[int, Place]:
        module, part = name.rsplit(".", 1)
        blocks = self._model.layers
        if module.startswith("layers."):
            index, inner = module.removeprefix("layers.").split(".", 1)
            return 1 + int(index), BLOCK[inner][part]
        if module == "final_norm":
            return blocks + 1, Place(part, "copies")
        if module == "head":
            return blocks + 2, Place("lm_head.weight", "rows")
        return 0, EMBEDDING[module][part]

    def _merged(self, name: str, kind: Kind, parts: list[torch.Tensor]) -> torch.Tensor:
        if kind == "copies":
            mean = torch.stack(parts).mean(0)
            worst = max(float((part - parts[0]).abs().max()) for part in parts)
            if worst:
                self.differing[name] = worst
            return mean if worst else parts[0]
        if kind == "columns":
            return torch.cat(parts, dim=1)
        if kind == "gated":
            return torch.cat([part.chunk(2)[half] for half in (0, 1) for part in parts])
        whole = torch.cat(parts)
        model = self._model
        if kind == "heads" and len(whole) == (model.attention_heads + 2 * model.key_value_heads) * model.head_size:
            return by_part(model, whole)
        return whole  # another shape is named later
