"""Hugging Face weights to a checkpoint of ours, of step 0 and without an optimizer's memory."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from foundation.atomic_files import sha256_file, whole_folder
from foundation.progress import Progress
from pretrain.checkpoint.layout import FORMAT_VERSION, StoredFragment, partition_to_json, rank_file, write_index
from pretrain.config import ModelConfig
from pretrain.device import start_alone
from pretrain.families.mapping import from_hugging_face as tensor_here
from pretrain.families.registry import Family, family_of_type
from pretrain.model.linear import TensorParallel
from pretrain.model.partition import partition_of
from pretrain.model.pipeline import WholeModel
from tools.convert import CHECKSUM_FILE, TOKENIZER_FILES, Exported, write_safetensors

IMPORTED_RUN = "hugging face"
"""In place of a digest of data: none of ours has been seen."""


def from_hugging_face(folder: Path, out: Path) -> None:
    """Write a checkpoint from a folder in Hugging Face's format; whole or not at all, one weight in memory at a time.

    Raises:
        ValueError: a model that our block does not compute; a tensor that is missing, unknown or has another shape than
            the configuration says; a file that is damaged.
        FileExistsError: `out` is there already.
    """
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ValueError(f"{config_path}: no such file; give the folder of a model in Hugging Face's format")
    written: dict[str, Any] = json.loads(config_path.read_text(encoding="utf-8"))
    family = family_of_type(str(written.get("model_type")))
    try:
        model = ModelConfig.model_validate(family.model_settings(written))
    except KeyError as error:
        raise ValueError(f"{config_path}: {error.args[0]}: missing") from None
    weights = family.weights(model)
    there = _Tensors(folder, family)
    wanted = {rows.name for weight in weights.values() for rows in weight.parts}
    for complaint, names in (("has no tensor", wanted - there.names), ("has an unknown tensor", there.names - wanted)):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ValueError(f"{folder}: a {model.family} of this config.json {complaint} {min(names)!r}{more}")

    fragments = [StoredFragment(name, 0, 0, math.prod(weight.shape)) for name, weight in weights.items()]
    planned = [Exported(fragment.key("weight"), (fragment.stop,), 4 * fragment.stop) for fragment in fragments]
    with whole_folder(out) as unfinished, Progress("import", len(weights), "weights") as progress:

        def tensors() -> Iterator[tuple[str, torch.Tensor]]:
            for part, (name, weight) in zip(planned, weights.items(), strict=True):
                yield part.name, tensor_here(name, weight, there.read).reshape(-1)
                progress.advance()

        path = unfinished / rank_file(0)
        write_safetensors(path, planned, tensors(), "float32")
        if tokenizer_files := [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]:
            (unfinished / "tokenizer").mkdir()
            for file in tokenizer_files:
                shutil.copyfile(file, unfinished / "tokenizer" / file.name)
        end_of_document = written.get("eos_token_id")
        if isinstance(end_of_document, list):
            end_of_document = end_of_document[0]
        index = {
            "format": FORMAT_VERSION,
            "step": 0,
            "consumed_samples": 0,
            "topology": {"tensor": 1, "pipe": 1, "data": 1},
            "config": {"model": model.model_dump(mode="json")},
            "data_digest": IMPORTED_RUN,
            "versions": {"torch": torch.__version__},
            "imported": {"from": str(folder), "end_of_document": end_of_document},
            "parameters": _parameters(model),
            "files": {
                rank_file(0): {
                    "bytes": path.stat().st_size,
                    "sha256": sha256_file(path),
                    "fragments": [[f.name, f.tensor_rank, f.start, f.stop] for f in fragments],
                }
            },
        }
        write_index(unfinished, index)


def _parameters(model: ModelConfig) -> dict[str, Any]:
    """Shape and partition of every weight, asked of the model itself; on torch's meta device it takes no memory."""
    if not torch.distributed.is_initialized():
        start_alone()
    group = torch.distributed.new_group([torch.distributed.get_rank()])
    with torch.device("meta"):
        whole = WholeModel(model, TensorParallel(group, torch.float32))
    return {
        name: {"shape": list(parameter.shape), "partition": partition_to_json(partition_of(parameter))}
        for name, parameter in whole.named_global_parameters()
    }


PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class _Tensors:
    """The tensors of a folder by name, read one at a time.

    Args:
        family: decides which names are copies or masks and are passed over, and how old files without the prefix of the
            whole model (`transformer.`, `model.`) are understood.

    Raises:
        ValueError: no weights, a damaged file, or one tensor in two files.
    """

    def __init__(self, folder: Path, family: Family) -> None:
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            pickles = sorted(file.name for suffix in PICKLES for file in folder.glob(f"*{suffix}"))
            why = f"{pickles[0]} is a pickle, which can run code when it is read, and is refused; " if pickles else ""
            raise ValueError(f"{folder}: no *.safetensors; {why}save the model in that format first")
        checksum_path = folder / CHECKSUM_FILE
        if checksum_path.is_file():
            for file_name, sha256 in json.loads(checksum_path.read_text(encoding="utf-8")).items():
                if not (folder / file_name).is_file() or sha256_file(folder / file_name) != sha256:
                    raise ValueError(
                        f"{folder / file_name}: missing or damaged: {checksum_path.name} has another SHA-256"
                    )
        self._place: dict[str, tuple[Any, str]] = {}
        ignored = re.compile("|".join(family.IGNORED))
        for file in files:
            try:
                opened = safe_open(file, framework="pt", device="cpu")
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{file}: damaged: {error}") from None
            for stored in opened.keys():  # noqa: SIM118
                if ignored.fullmatch(stored):
                    continue
                name = f"{family.PREFIX}{stored}" if _is_bare(stored, family.PREFIX) else stored
                if name in self._place:
                    raise ValueError(f"{file}: tensor {stored!r} stands in another file too")
                self._place[name] = opened, stored

    @property
    def names(self) -> set[str]:
        return set(self._place)

    def read(self, name: str) -> torch.Tensor:
        """One tensor, fp32: every 16-bit number is one of those."""
        opened, stored = self._place[name]
        tensor: torch.Tensor = opened.get_tensor(stored)
        return tensor.float()


def _is_bare(name: str, prefix: str) -> bool:
    return not name.startswith((prefix, "lm_head."))
