"""Adapters in the format of Hugging Face's PEFT: `adapter_config.json` and `adapter_model.safetensors` in a folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from foundation.atomic_files import whole_folder, write_json
from pretrain.checkpoint.whole import Adapter, WholeWeights
from pretrain.config import ModelConfig
from pretrain.families.format import Format
from pretrain.families.mapping import Rows, Weight, from_hugging_face, to_hugging_face, weight_shapes
from pretrain.families.registry import format_of
from pretrain.tuning import PARTS, AdapterConfig, adapter_shapes, trained_shapes

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""Before the name of each module, which PEFT wraps twice."""


@dataclass(frozen=True)
class Factors:
    """A and B of one of PEFT's modules; its scale is that of the adapter."""

    module: str
    a: torch.Tensor
    b: torch.Tensor

    @property
    def rank(self) -> int:
        return len(self.a)


def write_adapter(weights: WholeWeights, out: Path, base_name: str | None) -> None:
    """Write the adapters of a checkpoint, and the weights that were trained whole, as a folder for PEFT; whole or not
    at all. The adapted weights themselves are not read.

    Args:
        base_name: name or folder of the base model in Hugging Face's format, which PEFT may load by itself.

    Raises:
        ValueError: the checkpoint has no adapter, or what it trained beside it has no counterpart.
        FileExistsError: `out` is there already.
    """
    settings, model = weights.adapter_settings, weights.model
    if settings is None:
        raise ValueError(f"{weights.path}: has no adapter; leave --adapter out to export the whole model")
    places = format_of(model).places(model)
    factors = [one for name, weight in places.items() for one in _factors(weights.adapter(name), weight, settings.rank)]
    saved = _saved_whole(weights, places, {one.module for one in factors})
    tensors = {f"{_PREFIX}{name}": tensor for name, tensor in saved.items()}
    for one in factors:
        tensors[f"{_PREFIX}{one.module}.lora_A.weight"] = one.a
        tensors[f"{_PREFIX}{one.module}.lora_B.weight"] = one.b
    modules = {rows.name.rpartition(".")[0] for weight in places.values() for rows in weight.parts} | {
        Format.head.rpartition(".")[0]
    }
    with whole_folder(out) as folder:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS_FILE, {"format": "pt"}
        )
        write_json(folder / CONFIG_FILE, _peft_config(settings, model, places, factors, saved, modules, base_name))


def _peft_config(
    settings: AdapterConfig,
    model: ModelConfig,
    places: Mapping[str, Weight],
    factors: Sequence[Factors],
    saved: Iterable[str],
    modules: set[str],
    base_name: str | None,
) -> dict[str, Any]:
    adapted = {one.module for one in factors}
    stacked = {_suffix(one.module, adapted, modules): one.rank for one in factors if one.rank != settings.rank}
    is_transposed = any(
        rows.layout == "transposed" and _has(rows, adapted) for weight in places.values() for rows in weight.parts
    )
    whole = {name.rpartition(".")[0] for name in saved}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "use_rslora": settings.rank_stabilised,
        "lora_dropout": settings.dropout,
        "bias": "none",
        "fan_in_fan_out": is_transposed,
        "target_modules": sorted({_suffix(module, adapted, modules) for module in adapted}),
        "rank_pattern": stacked,
        # Of a stacked module, so that its scale is that of the others.
        "alpha_pattern": {
            suffix: settings.alpha
            * (math.sqrt(rank / settings.rank) if settings.rank_stabilised else rank / settings.rank)
            for suffix, rank in stacked.items()
        },
        "modules_to_save": sorted({_suffix(module, whole, modules) for module in whole}) or None,
        "ensure_weight_tying": model.tied_embedding and bool(whole),
    }


def _has(rows: Rows, modules: set[str]) -> bool:
    return rows.name.rpartition(".")[0] in modules


def _suffix(module: str, chosen: set[str], modules: set[str]) -> str:
    """The shortest end of a module's name that only chosen modules have, such as `q_proj`."""
    words = module.split(".")
    for count in range(1, len(words) + 1):
        suffix = ".".join(words[-count:])
        if all(other in chosen for other in modules if other == suffix or other.endswith(f".{suffix}")):
            return suffix
    raise AssertionError(module)


def _factors(adapter: Adapter | None, weight: Weight, rank: int) -> Iterator[Factors]:
    """PEFT's factors beside one of our weights. Where several of our blocks make one weight there, their As are
    stacked, and each B has columns of its own, zero in the rows of other blocks."""
    if adapter is None:
        return
    for rows in weight.parts:
        inside = [block for block in adapter.blocks() if rows.start <= block[0][0] and block[0][1] <= rows.stop]
        if not inside:
            continue
        a = torch.cat([a for _, a, _ in inside])
        b = torch.zeros(rows.stop - rows.start, len(inside) * rank)
        for i, ((start, stop), _, factor) in enumerate(inside):
            b[start - rows.start : stop - rows.start, i * rank : (i + 1) * rank] = factor
        yield Factors(rows.name.rpartition(".")[0], a, _rows_to_theirs(rows, b))


def _rows_to_theirs(rows: Rows, b: torch.Tensor) -> torch.Tensor:
    """B with its rows in the other format's order. PEFT has the outputs first for every layer, GPT-2's too."""
    return b if rows.layout == "transposed" else rows.to_theirs(b)


def _rows_from_theirs(rows: Rows, b: torch.Tensor) -> torch.Tensor:
    return b if rows.layout == "transposed" else rows.from_theirs(b)


def _saved_whole(weights: WholeWeights, places: Mapping[str, Weight], adapted: set[str]) -> dict[str, torch.Tensor]:
    """Weights that were trained whole, by their names in Hugging Face's format.

    Raises:
        ValueError: a module of theirs was trained in part only, which PEFT cannot express.
    """
    settings = weights.adapter_settings
    trained = trained_shapes(weights.model, weights.config.get("trainable"), settings).keys() & places.keys()
    modules: dict[str, set[str]] = {}
    for name, weight in places.items():
        for rows in weight.parts:
            modules.setdefault(rows.name.rpartition(".")[0], set()).add(name)
    for name in sorted(trained):
        for rows in places[name].parts:
            module = rows.name.rpartition(".")[0]
            rest = sorted(modules[module] - trained)
            if rest or module in adapted:
                beside = "has an adapter" if module in adapted else f"has {rest[0]} frozen"
                raise ValueError(
                    f"{name}: was trained, and its module {module} {beside}, which PEFT cannot express; leave "
                    "--adapter out to export the merged model"
                )
    found = {
        other: tensor
        for name in places
        if name in trained
        for other, tensor in to_hugging_face(name, places[name], weights.tensor(name)).items()
    }
    if weights.model.tied_embedding and "embedding.weight" in trained:
        # A second copy, without which PEFT 0.21.2 would compute the logits with the base model's embedding.
        (rows,) = places["embedding.weight"].parts
        found[format_of(weights.model).head] = found[rows.name].clone()
    return found


# --- and back -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadAdapter:
    """An adapter of PEFT as one of ours.

    Attributes:
        settings: rank, scale, dropout and targets.
        trainable: names of the weights that come whole.
        tensors: adapter weights and whole weights, by our names.
    """

    settings: AdapterConfig
    trainable: tuple[str, ...]
    tensors: dict[str, torch.Tensor]


_REFUSED: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "lora_bias": False,
    "use_qalora": False,
    "layers_to_transform": None,
    "layer_replication": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "alora_invocation_tokens": None,
    "exclude_modules": None,
}
"""Entries of `adapter_config.json` with the only value that our adapters compute."""


def read_adapter(folder: Path, model: ModelConfig) -> ReadAdapter:
    """Read a PEFT folder as an adapter of `model`.

    Raises:
        ValueError: names the entry or the tensor that our adapters cannot express, or that does not fit the model.
    """
    config_path = folder / CONFIG_FILE
    config: dict[str, Any] = json.loads(config_path.read_text(encoding="utf-8"))
    for name, value in _REFUSED.items():
        if config.get(name, value) not in (value, [], {}):
            raise ValueError(f"{config_path}: {name}: {config[name]!r} is not supported, only {value!r}")
    stored = _read_tensors(folder / WEIGHTS_FILE)
    there = format_of(model)
    places = there.places(model)
    found: dict[str, torch.Tensor] = {}
    parts: dict[str, set[str]] = {}
    ranks: dict[str, int] = {}
    for name, weight in places.items():
        layer = name.removesuffix(".weight")
        short = layer.rpartition(".")[2]
        if short not in PARTS or not name.endswith(".weight"):
            continue
        blocks = _blocks_of(weight, weight_shapes(model)[name][1], PARTS[short], stored)
        ranks |= {f"{layer}: {part}": len(a) for part, a, _ in blocks}
        if blocks and len(set(ranks.values())) == 1:
            found[f"{layer}.lora.a"] = torch.cat([a for _, a, _ in blocks])
            found[f"{layer}.lora.b"] = torch.cat([b for _, _, b in blocks])
        parts.setdefault(short, set()).add(" ".join(part for part, _, _ in blocks))
    whole = {name: weight for name, weight in places.items() if all(rows.name in stored for rows in weight.parts)}
    for name, weight in whole.items():
        found[name] = from_hugging_face(name, weight, stored.pop_tensor)
    if model.tied_embedding and "embedding.weight" in whole and there.head in stored:
        head = stored.pop_tensor(there.head)
        if not torch.equal(head, found["embedding.weight"]):
            raise ValueError(f"{stored.path}: {_PREFIX}{there.head}: differs from the embedding, to which it is tied")
    if stored.names:
        raise ValueError(
            f"{folder / WEIGHTS_FILE}: {_PREFIX}{min(stored.names)}: belongs to no weight of a {model.family} that has "
            f"adapters here, or comes alone (and {len(stored.names) - 1} more)"
        )
    if not ranks:
        raise ValueError(f"{folder / WEIGHTS_FILE}: has no adapter of a linear layer of a {model.family}")
    if len(set(ranks.values())) > 1:
        low, high = min(ranks, key=lambda key: ranks[key]), max(ranks, key=lambda key: ranks[key])
        raise ValueError(
            f"{folder / WEIGHTS_FILE}: rank {ranks[low]} at {low} and {ranks[high]} at {high}: our adapters have one "
            "rank"
        )
    uneven = [short for short, kinds in parts.items() if len(kinds) > 1]
    if uneven:
        raise ValueError(
            f"{folder / WEIGHTS_FILE}: {uneven[0]} has adapters in some layers only, which is not supported"
        )
    targets = [part for kinds in parts.values() for part in next(iter(kinds)).split()]
    settings = _settings(config, config_path, next(iter(ranks.values())), targets, stored)
    assert adapter_shapes(model, settings) == {name: tuple(found[name].shape) for name in found if ".lora." in name}
    return ReadAdapter(settings, tuple(whole), found)


class _Stored:
    """Tensors of a PEFT file by the names of Hugging Face's format, each taken once."""

    def __init__(self, path: Path, tensors: dict[str, torch.Tensor]) -> None:
        self.path, self._tensors = path, tensors
        self.module_ranks: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    @property
    def names(self) -> set[str]:
        return set(self._tensors)

    def pop_tensor(self, name: str) -> torch.Tensor:
        return self._tensors.pop(name).float()


def _read_tensors(path: Path) -> _Stored:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; save the adapter in safetensors' format")
    try:
        with safe_open(path, framework="pt", device="cpu") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged: {error}") from None
    for name, tensor in tensors.items():
        if not name.startswith(_PREFIX):
            raise ValueError(f"{path}: {name}: unknown; PEFT's names begin with {_PREFIX}")
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ValueError(f"{path}: {name}: {tensor.dtype}, or values that are NaN or infinite")
    return _Stored(path, {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()})


def _blocks_of(
    weight: Weight, sizes: Sequence[int], names: Sequence[str], stored: _Stored
) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Name, A and B of the adapted blocks of rows of one of our weights."""
    edges = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    found = []
    for rows in weight.parts:
        module = rows.name.rpartition(".")[0]
        if f"{module}.lora_A.weight" not in stored:
            continue
        a, b = (stored.pop_tensor(f"{module}.lora_{factor}.weight") for factor in "AB")
        columns, outputs = weight.shape[1], rows.stop - rows.start
        if a.shape != (len(a), columns) or b.shape != (outputs, len(a)):
            raise ValueError(
                f"{stored.path}: {module}: lora_A has shape {tuple(a.shape)} and lora_B {tuple(b.shape)}, but the "
                f"weight has {outputs} outputs and {columns} inputs"
            )
        stored.module_ranks[module] = len(a)
        b = _rows_from_theirs(rows, b)
        inside = [i for i in range(len(sizes)) if rows.start <= edges[i] and edges[i + 1] <= rows.stop]
        slices = [b[edges[i] - rows.start : edges[i + 1] - rows.start] for i in inside]
        found += [(names[i], *factors) for i, factors in zip(inside, _unstacked(a, slices), strict=True) if factors]
    return found


def _unstacked(a: torch.Tensor, bs: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
    """A and B of each block of rows: its own columns where each block has some, as `_factors` writes them, and None
    for a block without any; else A whole for each block, which computes the same."""
    used = [(b != 0).any(0) for b in bs]
    blocks = sum(bool(columns.any()) for columns in used)
    rank = len(a) // max(blocks, 1)
    if len(bs) > 1 and blocks and rank * blocks == len(a):
        ends = iter(range(0, len(a), rank))
        spans = [next(ends) if columns.any() else None for columns in used]
        if all(
            start is None or not (columns[:start].any() or columns[start + rank :].any())
            for start, columns in zip(spans, used, strict=True)
        ):
            return [
                None if start is None else (a[start : start + rank], b[:, start : start + rank])
                for start, b in zip(spans, bs, strict=True)
            ]
    return [(a, b) for b in bs]


def _settings(
    config: Mapping[str, Any], path: Path, rank: int, targets: Sequence[str], stored: _Stored
) -> AdapterConfig:
    """Settings of the adapter, whose scale must be one for all modules.

    Raises:
        ValueError: two modules have different scales.
    """
    is_stabilised = bool(config.get("use_rslora", False))
    scales = {}
    for module, module_rank in stored.module_ranks.items():
        alpha = _of_pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
        scales[module] = alpha / (math.sqrt(module_rank) if is_stabilised else module_rank)
    low, high = min(scales, key=lambda key: scales[key]), max(scales, key=lambda key: scales[key])
    if not math.isclose(scales[low], scales[high], rel_tol=1e-12):
        raise ValueError(
            f"{path}: the scale of {low} is {scales[low]:g} and that of {high} {scales[high]:g}: our adapters have one"
        )
    alpha = scales[low] * (math.sqrt(rank) if is_stabilised else rank)
    alpha = round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-12) else alpha
    return AdapterConfig(
        rank=rank,
        alpha=alpha,
        rank_stabilised=is_stabilised,
        dropout=config.get("lora_dropout", 0.0),
        targets=tuple(targets),
    )


def _of_pattern(pattern: Mapping[str, float], module: str, default: float) -> float:
    """The value of a module in PEFT's `alpha_pattern`, whose keys are ends of names."""
    for key, value in pattern.items():
        if module == key or module.endswith(f".{key}"):
            return value
    return default
