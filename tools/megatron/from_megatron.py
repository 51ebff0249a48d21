"""Import a distributed checkpoint of Megatron-LM, or the layer files of a Megatron-DeepSpeed fork, as a checkpoint to
start from."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pretrain.checkpoint.read import BY_TOKEN
from pretrain.config import ModelConfig
from tools.hugging_face.to_hf import ORIGIN_FILE
from tools.importing import differing_copies, import_parser, import_weights, run_import
from tools.megatron.arguments import check_expressible, model_settings
from tools.megatron.distributed import COMMON_FILE, DistributedFiles, is_distributed, step_folder
from tools.megatron.layer_files import LayerImporter
from tools.megatron.weights import Place, by_part, is_grouped, places
from tools.model_file import model_of
from tools.starting_checkpoint import Moments

EXAMPLES = """examples:
  altiplano convert from-megatron megatron/checkpoints imported --tokenizer tokenizer
      the newest step of a run of Megatron-LM that saved torch_dist, with the settings that it contains
  altiplano convert from-megatron bloom-560m/global_step600000 imported --model configs/model/bloom-560m.yaml \\
      --tokenizer bloom-560m/tokenizer
      layer files of a fork
      then train with initial_weights=imported"""

OPTIMIZER = "optimizer.state."
"""Beginning of the keys of the optimizer's tensors that are stored by weight."""

MAIN_WEIGHTS = (OPTIMIZER + "fp32_param.", OPTIMIZER + "param.")
"""Beginnings of the keys of the optimizer's fp32 weights; which one depends on the optimizer and its format."""

NO_MOMENTS = (
    "the optimizer's state was not saved by weight; save it with --dist-ckpt-optim-fully-reshardable, or import "
    "without --moments"
)

BESIDE_THE_MODEL = ("optimizer.", "chained_", "rng_state", "rerun_state_machine")
"""Beginnings of the keys of tensors that are not the model's."""

COMPARED = {"attention_head_size": "head_size"}
"""Property in whose place a setting may be left out."""


class DistributedImporter:
    """Whole weights of a model, by our names, from a distributed checkpoint; one weight is in memory at a time.

    Attributes:
        from_optimizer: number of weights that were read from the optimizer, which has them in fp32.

    Raises:
        ValueError: a weight is missing, unknown or of another shape than the model's settings say.
    """

    def __init__(self, files: DistributedFiles, model: ModelConfig) -> None:
        self._files, self._model = files, model
        self._places = places(model)
        self.from_optimizer = 0
        self._keys = {name: self._find(name, place) for name, place in self._places.items()}
        used = {key for keys, _ in self._keys.values() for key in keys}
        for key in sorted(set(files.tensors) - used):
            if not key.startswith(BESIDE_THE_MODEL):
                raise ValueError(f"{files.folder}: a tensor {key!r}, which the model's settings do not have")

    def __call__(self, name: str) -> torch.Tensor:
        """Read one weight.

        Raises:
            ValueError: a part of it is missing or damaged.
        """
        keys, _ = self._keys[name]
        main = [self._main(key) for key in keys]
        self.from_optimizer += main != list(keys)
        return self._read(name, main)

    def moment(self, name: str, state: str) -> torch.Tensor:
        """Read AdamW's `exp_avg` or `exp_avg_sq` of a weight.

        Raises:
            ValueError: it is missing, or a part of it is damaged.
        """
        keys, _ = self._keys[name]
        moments = [f"{OPTIMIZER}{state}.{key}" for key in keys]
        for key, moment in zip(keys, moments, strict=True):
            if not self._is_stored(moment, key):
                raise ValueError(f"{self._files.folder}: no tensor {moment!r}: {NO_MOMENTS}")
        return self._read(name, moments)

    def _read(self, name: str, keys: Sequence[str]) -> torch.Tensor:
        _, layer = self._keys[name]
        found = [self._files.read(key, layer) for key in keys]
        whole = found[0] if len(found) == 1 else torch.cat(found)
        if name in BY_TOKEN:
            return whole[: self._model.vocabulary_size]
        return by_part(self._model, whole) if is_grouped(name) else whole

    def _main(self, key: str) -> str:
        """Key of the optimizer's weight, where it has one of the same shape; otherwise the model's."""
        return next((main + key for main in MAIN_WEIGHTS if self._is_stored(main + key, key)), key)

    def _is_stored(self, key: str, like: str) -> bool:
        """Whether there is a tensor, of the shape of another one."""
        entry = self._files.tensors.get(key)
        return entry is not None and entry.size == self._files.tensors[like].size

    def _find(self, name: str, place: Place) -> tuple[tuple[str, ...], int | None]:
        """Keys of a weight, whose rows follow each other, and its index along their first axis."""
        for key, layer in place.candidates():
            for keys in ((key,), (f"{key}_w", f"{key}_v")):  # a gate and what it multiplies, with singleton shards
                if all(part in self._files.tensors for part in keys):
                    self._check_shape(name, place, keys, layer)
                    return keys, layer
        raise ValueError(f"{self._files.folder}: no tensor {place.candidates()[0][0]!r}, which {name} needs")

    def _check_shape(self, name: str, place: Place, keys: tuple[str, ...], layer: int | None) -> None:
        shapes = [tuple(self._files.tensors[key].size) for key in keys]
        wanted = (place.shape[0] // len(keys), *place.shape[1:])
        if layer is not None:
            wanted = (self._model.layers, *wanted)
        for key, shape in zip(keys, shapes, strict=True):
            fits = shape == wanted
            if name in BY_TOKEN:  # theirs is filled up
                fits = shape[1:] == wanted[1:] and shape[0] >= wanted[0]
            if not fits:
                raise ValueError(
                    f"{self._files.folder}: {key} has shape {shape}, but {name} of the model's settings needs {wanted}"
                )


def settings_of(files: DistributedFiles, given: ModelConfig | None) -> ModelConfig:
    """The settings of the model in a distributed checkpoint: from its arguments, and checked against those of a file.

    Raises:
        ValueError: there are neither; they differ; or an argument says what our block does not compute.
    """
    arguments = files.common().get("args")
    where = f"{files.folder / COMMON_FILE}: args"
    if arguments is None:
        if given is None:
            raise ValueError(f"{where}: missing; give the model's settings with --model")
        check_expressible(given)
        return given
    if not hasattr(arguments, "__dict__"):
        raise ValueError(f"{where}: {type(arguments).__name__}: must be arguments by name")
    settings = model_settings(vars(arguments), where)
    model = model_of({**settings, **_exported(files.folder / ORIGIN_FILE)}, where)
    if given is None:
        return model
    check_expressible(given)
    for name in settings:
        ours, theirs = (getattr(found, COMPARED.get(name, name)) for found in (given, model))
        if ours != theirs and name != "family" and not (name == "vocabulary_size" and ours < theirs):
            raise ValueError(f"model.{name}: {ours} in the file of --model, but {where} have {theirs}")
    return given


def _exported(path: Path) -> dict[str, Any]:
    """What an export of ours records of a model beside Megatron-LM's arguments.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        return {name: written[name] for name in ("family", "vocabulary_size")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged: {error}; without the file, the arguments alone are read") from None


def updates_of(common: Mapping[str, Any], where: str) -> int:
    """Number of updates of the optimizer, from what is the same on all ranks.

    Source: `sharded_state_dict` of megatron-core's optimizers: the distributed one has it in its parameter groups, the
    others beside the states of the weights.

    Raises:
        ValueError: it is missing.
    """
    optimizer = common.get("optimizer")
    inner = optimizer.get("optimizer") if isinstance(optimizer, Mapping) else None
    if isinstance(inner, Mapping):
        groups = inner.get("param_groups") or ()
        steps = [group["step"] for group in groups if isinstance(group, Mapping) and "step" in group]
        steps += [step for key, step in (inner.get("state") or {}).items() if key == "common_step"]
        if steps and max(steps) == min(steps) >= 1:
            return int(steps[0])
    raise ValueError(f"{where}: optimizer: no number of updates: {NO_MOMENTS}")


def import_megatron(
    folder: Path, out: Path, model: ModelConfig | None, tokenizer: Path | None, moments: bool = False
) -> list[str]:
    """Write a checkpoint from a distributed checkpoint or from layer files; whole or not at all.

    Args:
        moments: whether AdamW's moments are read too; only from a distributed checkpoint.

    Returns:
        What the person at the terminal should know.

    Raises:
        ValueError: there are no such files, or they are not those of a model that our block computes.
        FileExistsError: `out` is there already.
    """
    step = step_folder(folder)
    if is_distributed(step):
        return _import_distributed(step, out, model, tokenizer, moments)
    if moments:
        raise ValueError(f"{step}: no metadata.json of a distributed checkpoint; --moments are read from those only")
    if model is None:
        raise ValueError(
            f"{step}: no metadata.json of a distributed checkpoint, which contains the model's settings; for layer "
            "files give them with --model"
        )
    importer = LayerImporter(step, model)
    import_weights(importer, model, folder, out, tokenizer, "megatron")
    return differing_copies(importer.differing)


def _import_distributed(
    step: Path, out: Path, given: ModelConfig | None, tokenizer: Path | None, has_moments: bool
) -> list[str]:
    files = DistributedFiles(step)
    model = settings_of(files, given)
    importer = DistributedImporter(files, model)
    moments = Moments(importer.moment, updates_of(files.common(), str(step / COMMON_FILE))) if has_moments else None
    import_weights(importer, model, step, out, tokenizer, "megatron", moments)
    notes = []
    if importer.from_optimizer:
        notes.append(f"{importer.from_optimizer} of {len(places(model))} weights are the optimizer's, in fp32")
    if moments is not None:
        notes.append(f"AdamW's moments are those of {moments.updates} updates")
    return notes


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = import_parser(
        "altiplano convert from-megatron",
        "Import a checkpoint of Megatron-LM (torch_dist, of any parallel degrees), or the layer files of a "
        "Megatron-DeepSpeed fork, of any tensor degree, as a checkpoint that a run can start from.",
        EXAMPLES,
        folder="folder of a step (iter_NNNNNNN, global_stepN), or of Megatron-LM's checkpoints for the newest",
        model="file with the model's settings: needed for layer files, checked against a distributed checkpoint's own",
    )
    parser.add_argument(
        "--moments",
        action="store_true",
        help="also AdamW's moments, of a distributed checkpoint that has them by weight",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    given = make_parser().parse_args(arguments)
    return run_import(given, partial(import_megatron, moments=given.moments))


if __name__ == "__main__":
    sys.exit(main())
