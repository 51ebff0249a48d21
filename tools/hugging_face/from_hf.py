"""Hugging Face weights to a checkpoint of ours, of step 0 and without an optimizer's memory."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from foundation.checksums import verified_meanwhile
from pretrain.checkpoint.read import verified_checkpoint
from pretrain.checkpoint.tensor_file import TensorFile
from pretrain.config import ModelConfig
from pretrain.families.format import Format
from pretrain.families.mapping import Weight
from pretrain.families.mapping import from_hugging_face as tensor_here
from pretrain.families.registry import format_of_type
from tools.hugging_face.adapter import CONFIG_FILE as ADAPTER_CONFIG_FILE
from tools.hugging_face.adapter import read_adapter
from tools.hugging_face.files import CHECKSUM_FILE, PART_ELEMENTS, SAFETENSORS_NAMES, SPECIAL_TOKENS, Parts
from tools.model_file import model_of
from tools.pickles import PickledTensors
from tools.starting_checkpoint import Beside, write_starting_checkpoint

EXAMPLES = """examples:
  altiplano convert from-hf models/llama-2-7b imported/llama-2-7b
      then train with initial_weights=imported/llama-2-7b
  altiplano convert from-hf adapters/alpaca imported/alpaca --base imported/llama-2-7b
      an adapter of PEFT beside the model that it adapts"""

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
    there_format = format_of_type(str(written.get("model_type")))
    model = model_of(there_format.model_settings(written), "config.json")
    weights = there_format.places(model)
    there = _Tensors(folder, there_format)
    if model.tied_embedding:
        there.add_copy(there_format.head, weights["embedding.weight"].parts[0].name)
    wanted = {rows.name for weight in weights.values() for rows in weight.parts}
    for complaint, names in (("has no tensor", wanted - there.names), ("has an unknown tensor", there.names - wanted)):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ValueError(f"{folder}: a {model.family} of this config.json {complaint} {min(names)!r}{more}")

    special_tokens = {name: written[name] for name in SPECIAL_TOKENS if name in written}
    generation_path = folder / "generation_config.json"
    generation = (
        json.loads(generation_path.read_text(encoding="utf-8")) if generation_path.is_file() else special_tokens
    )
    write_starting_checkpoint(
        out,
        model,
        lambda name: _parts(name, weights[name], there),
        data_digest=IMPORTED_RUN,
        origin={"from": str(folder), "special_tokens": special_tokens, "generation_config": generation},
        tokenizer=folder,
        title="import",
        verified_meanwhile=there.verified_meanwhile(),
    )


def _parts(name: str, weight: Weight, there: _Tensors) -> Parts:
    """One of our weights, in parts where its rows are stored in our order."""
    if any(rows.layout != "rows" for rows in weight.parts):
        return tensor_here(name, weight, there.read)
    return (part for rows in weight.parts for part in there.parts(rows.name, rows.shape(weight.shape), name))


def import_adapter(folder: Path, out: Path, base: Path) -> None:
    """Write a checkpoint from a PEFT folder beside the checkpoint with the weights that it adapts; whole or not at all.

    Raises:
        ValueError: an adapter that ours cannot express, or that does not fit the model of `base`; a damaged file.
        FileExistsError: `out` is there already.
    """
    reader = verified_checkpoint(base)
    model = ModelConfig.model_validate(reader.config["model"])
    found = read_adapter(folder, model)
    imported = reader.index.get("imported", {"special_tokens": {}, "generation_config": {}})
    tokenizer = reader.path / "tokenizer"
    write_starting_checkpoint(
        out,
        model,
        lambda name: found.tensors[name],
        data_digest=IMPORTED_RUN,
        origin={**imported, "from": str(folder)},
        tokenizer=tokenizer if tokenizer.is_dir() else None,
        title="import",
        beside=Beside(reader, found.settings, found.trainable),
    )


OTHER_PICKLES = (".pt", ".pth", ".ckpt", ".pkl")


class _Tensors:
    """The tensors of a folder by name, read one at a time.

    Args:
        there: decides which names are copies or masks and are passed over, and how old files without the prefix of the
            whole model (`transformer.`, `model.`) are understood.

    Raises:
        ValueError: no weights, a damaged file, or one tensor in two files.
    """

    def __init__(self, folder: Path, there: Format) -> None:
        files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
        if not files:
            pickles = sorted(file.name for suffix in OTHER_PICKLES for file in folder.glob(f"*{suffix}"))
            why = f"{pickles[0]} is a pickle, which can run code when it is read, and is refused; " if pickles else ""
            raise ValueError(
                f"{folder}: no *.safetensors and no pytorch_model*.bin; {why}save the model in the first format"
            )
        self._checksum_path = folder / CHECKSUM_FILE
        self._place: dict[str, tuple[Any, str]] = {}
        self._copies: dict[str, str] = {}
        ignored = re.compile("|".join(there.ignored))
        for file in files:
            opened = _opened(file)
            for stored in opened.keys():  # noqa: SIM118
                if ignored.fullmatch(stored):
                    continue
                name = f"{there.prefix}{stored}" if _is_bare(stored, there) else stored
                if name in self._place:
                    raise ValueError(f"{file}: tensor {stored!r} stands in another file too")
                self._place[name] = opened, stored

    @property
    def names(self) -> set[str]:
        return set(self._place) - set(self._copies.values())

    def verified_meanwhile(self) -> AbstractContextManager[None]:
        """Context that compares the files' checksums, where the folder has them, while tensors are read.

        Raises:
            ValueError: a file is missing or differs; names the first one.
        """
        recorded = json.loads(self._checksum_path.read_text(encoding="utf-8")) if self._checksum_path.is_file() else {}
        files = [(self._checksum_path.with_name(file), sha256) for file, sha256 in recorded.items()]
        return verified_meanwhile(files, self._damaged_file)

    def _damaged_file(self, path: Path) -> ValueError:
        return ValueError(f"{path}: missing or damaged: {self._checksum_path.name} has another SHA-256")

    def read(self, name: str) -> torch.Tensor:
        """One tensor, fp32: every 16-bit number is one of those.

        Raises:
            ValueError: it has another dtype, as in a quantized model.
        """
        opened, stored = self._place[name]
        tensor: torch.Tensor = opened.get_tensor(stored)
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"{stored}: dtype {tensor.dtype} is not supported, only float32, bfloat16 and float16")
        return tensor.float()

    def parts(self, name: str, shape: tuple[int, ...] | None = None, ours: str = "") -> Iterator[torch.Tensor]:
        """Parts of a tensor along dim 0, fp32, of `PART_ELEMENTS` or fewer where a row is not larger; a tensor
        with a copy, see `add_copy`, is compared with it.

        Args:
            shape: shape that one of our weights, `ours`, needs.

        Raises:
            ValueError: it has another dtype, as in a quantized model, or another shape, or its copy is not one.
        """
        copy = self._copies.get(name)
        if copy is None:
            yield from self._own_parts(name, shape, ours)
            return
        pairs = zip_longest(self._own_parts(name, shape, ours), self.parts(copy), fillvalue=torch.empty(0))
        for part, other in pairs:
            if not torch.equal(part, other):
                raise ValueError(
                    f"{copy}: differs from {name}, though the config.json ties the two (tie_word_embeddings): one of "
                    "them is wrong, and which one cannot be known"
                )
            yield part

    def _own_parts(self, name: str, shape: tuple[int, ...] | None, ours: str) -> Iterator[torch.Tensor]:
        opened, stored = self._place[name]
        rows = opened.get_slice(stored)
        found = tuple(rows.get_shape())
        if shape is not None and found != shape:
            raise ValueError(f"{name}: shape {found}, but {ours} needs {shape}")
        if not found or rows.get_dtype() not in SAFETENSORS_NAMES.values():
            yield self.read(name)  # which refuses the dtype; a single number has no rows
            return
        step = max(1, PART_ELEMENTS // max(1, math.prod(found[1:])))
        for start in range(0, found[0], step):
            yield rows[start : start + step].float()

    def add_copy(self, head: str, embedding: str) -> None:
        """Read the head of a tied model, which is a copy of the embedding, only beside it, to compare the two."""
        if head in self._place and embedding in self._place:
            self._copies[embedding] = head


def _opened(file: Path) -> Any:
    """The tensors of a file. Releases of before safetensors are pickles, of which nothing but tensors is read."""
    if file.suffix == ".bin":
        return PickledTensors(file)
    return TensorFile(file)


def _is_bare(name: str, there: Format) -> bool:
    return not name.startswith((there.prefix, there.head))


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano convert from-hf",
        description="Import a model of Hugging Face's format as a checkpoint that a run can start from.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="config.json, *.safetensors or pytorch_model*.bin, and a tokenizer")
    parser.add_argument("out", type=Path, help="folder to write; must not exist")
    parser.add_argument("--base", type=Path, help="of an adapter of PEFT: the checkpoint of the model that it adapts")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    command = make_parser()
    given = command.parse_args(arguments)
    is_adapter = (given.folder / ADAPTER_CONFIG_FILE).is_file()
    if is_adapter != (given.base is not None):
        command.error(
            f"--base: needed: {given.folder} is an adapter; give the checkpoint of the model that it adapts"
            if is_adapter
            else f"--base: has no effect: {given.folder / ADAPTER_CONFIG_FILE} does not exist"
        )
    try:
        if is_adapter:
            import_adapter(given.folder, given.out, given.base)
        else:
            from_hugging_face(given.folder, given.out)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"imported to {given.out}: start a run from it with initial_weights={given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
