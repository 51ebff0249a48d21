"""Export a checkpoint to Hugging Face's format."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from foundation.atomic_files import whole_folder, write_json, write_text
from foundation.progress import Progress
from foundation.version import program
from pretrain.config import ModelConfig
from pretrain.data.mixture import load_mixture
from pretrain.families import baichuan, mapping
from pretrain.families.mapping import Weight
from pretrain.families.registry import format_of
from tools.exporting import export_parser
from tools.hugging_face.files import (
    CHECKSUM_FILE,
    PART_ELEMENTS,
    SPECIAL_TOKENS,
    SPECIAL_TOKENS_FILES,
    TOKENIZERS,
    Exported,
    Parts,
    copy_tokenizer,
    write_safetensors,
)

SHARD_BYTES = 5_000_000_000
"""Largest file of weights, as transformers splits them."""

Dtype = Literal["float32", "bfloat16", "float16"]

EXAMPLES = """examples:
  altiplano convert to-hf runs/demo/train/checkpoints runs/demo/hf
      the newest checkpoint, with the tokenizer it was trained with
  altiplano convert to-hf runs/demo/train/checkpoints/step-0000200 out --dtype bfloat16
      a certain checkpoint, at half the size
  altiplano convert to-hf runs/tuned/checkpoints adapter --adapter
      the adapters alone, as a folder for PEFT; without --adapter they are merged into the weights
  altiplano convert verify runs/demo/train/checkpoints runs/demo/hf
      afterwards: compare its logits with those of transformers"""

Form = Literal["own", "llama"]
"""Form of the exported files: the family's own; or LLaMA's, for a Baichuan with rotary positions."""
CHAT_TEMPLATE_FILE = "chat_template.jinja"
"""Template of conversations, beside a `mixture.yaml` and in an export."""
GENERATION_FILE = "generation_config.json"
"""Settings of generation, beside the template and in an export."""

ORIGIN_FILE = "altiplano.json"
"""Version of this program and step of the checkpoint that an export was made from."""


class Checkpoint(Protocol):
    """The part of a checkpoint that an export reads, see `pretrain.checkpoint.whole.WholeWeights`."""

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def step(self) -> int: ...

    def names(self) -> list[str]: ...

    def tensor(self, name: str) -> torch.Tensor: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def is_stored(self, name: str) -> bool: ...

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor: ...

    def verified_meanwhile(self) -> AbstractContextManager[None]: ...


def to_hugging_face(
    checkpoint: Checkpoint,
    out: Path,
    *,
    tokenizer: Path,
    end_of_document: int | None,
    dtype: Dtype,
    shard_bytes: int,
    form: Form = "own",
    imported: Mapping[str, Any] | None = None,
    chat_template: Path | None = None,
    answer_ends: Sequence[int] = (),
) -> None:
    """Write a folder that `transformers.AutoModelForCausalLM.from_pretrained` reads; whole or not at all.

    One weight of the checkpoint is in memory at a time.

    Args:
        tokenizer: folder with a tokenizer, which is copied.
        end_of_document: token that separates documents; generation begins and stops with it, as every text in training
            did, whatever other token the tokenizer calls its first.
        dtype: data type of the written weights; those of a checkpoint are float32.
        shard_bytes: the weights are split over several files, with an index, where they need more.
        imported: `special_tokens`, `generation_config` and, by name, `files` of the tokenizer that a model came with,
            which it keeps; generation stops at `end_of_document` as well, where that is given.
        chat_template: template of the conversations that the model was trained on, which replaces an imported one.
        answer_ends: tokens that end an answer of those conversations; generation stops at each of them as well.

    Raises:
        ValueError: a weight is missing, unknown, or has another shape than the model's settings say; or the family or
            a setting has no counterpart.
        FileExistsError: `out` is there already.
    """
    model = ModelConfig.model_validate(checkpoint.config["model"])
    if form == "llama" and model.family != "baichuan":
        raise ValueError(f"the form of LLaMA is for Baichuan; the checkpoint's model is of family {model.family}")
    written = baichuan.AS_LLAMA if form == "llama" else format_of(model)
    weights = written.places(model)
    written_config = written.hugging_face_config(model, dtype=dtype, end_of_document=end_of_document)
    generation: dict[str, Any] = dict.fromkeys(SPECIAL_TOKENS, end_of_document)
    ends = (*(() if end_of_document is None else (end_of_document,)), *answer_ends)
    if imported is not None:
        written_config |= {**dict.fromkeys(SPECIAL_TOKENS), **imported["special_tokens"]}
        generation = imported["generation_config"]
    generation = _stopping_at(ends, generation)
    check_names(set(checkpoint.names()), set(weights))
    if not any((tokenizer / file_name).is_file() for file_name in TOKENIZERS):
        raise ValueError(f"{tokenizer / TOKENIZERS[0]}: no such file; the tokenizer belongs to the exported model")

    item_bytes = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    planned: dict[str, list[Exported]] = {}
    for name, weight in weights.items():
        shapes = [(rows.name, rows.shape(weight.shape)) for rows in weight.parts]
        planned[name] = [Exported(other, shape, math.prod(shape) * item_bytes) for other, shape in shapes]
    shards = _split(planned, shard_bytes)

    progress = Progress("export", len(weights), "weights")
    with whole_folder(out) as folder, checkpoint.verified_meanwhile(), progress:
        file_of: dict[str, str] = {}
        checksums: dict[str, str] = {}
        for i, names in enumerate(shards):
            file_name = (
                f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
            )
            exported = [part for name in names for part in planned[name]]
            file_of.update({part.name: file_name for part in exported})
            fold_norm = form == "llama" and model.normalised_head
            checksums[file_name] = write_safetensors(
                folder / file_name, exported, _read(checkpoint, weights, names, fold_norm, progress), dtype
            )
        if len(shards) > 1:
            total = sum(part.bytes for parts in planned.values() for part in parts)
            write_json(
                folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": file_of}
            )
        write_json(folder / CHECKSUM_FILE, checksums)
        write_json(folder / "config.json", written_config)
        write_json(folder / ORIGIN_FILE, {"program": program(), "step": checkpoint.step, "family": model.family})
        write_json(folder / GENERATION_FILE, generation)
        copy_tokenizer(tokenizer, folder)
        for file_name, text in (imported or {}).get("files", {}).items():
            (folder / file_name).parent.mkdir(exist_ok=True)
            write_text(folder / file_name, text)
        if chat_template is not None:
            write_text(folder / CHAT_TEMPLATE_FILE, chat_template.read_text(encoding="utf-8"))
        for file_name in SPECIAL_TOKENS_FILES:
            if imported is None and (folder / file_name).is_file():
                _begin_with_end_of_document(folder / file_name)
        if imported is None and written_config["model_type"] == "qwen2":
            _keep_tokenizer_class(folder / SPECIAL_TOKENS_FILES[0])


def _stopping_at(ends: Iterable[int], generation: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of generation that stop at these tokens too, with which texts and answers in training ended."""
    before = generation.get("eos_token_id")
    stops = before if isinstance(before, list) else [] if before is None else [before]
    missing = [token for token in dict.fromkeys(ends) if token not in stops]
    if not missing:
        return dict(generation)
    return {**generation, "eos_token_id": [*stops, *missing] if len(stops) + len(missing) > 1 else missing[0]}


def _answer_ends(template: Path) -> list[int]:
    """Tokens that end an answer, as `tokenize` wrote them beside the template of conversations.

    Raises:
        ValueError: they are missing.
    """
    path = template.parent / GENERATION_FILE
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; it names the tokens at which generation stops, and `altiplano data tokenize` "
            f"writes it beside {template.name}: run it again with `--restart tokenize`"
        )
    ends = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    if not isinstance(ends, list) or not ends or not all(type(token) is int for token in ends):
        raise ValueError(f"{path}: eos_token_id: {ends!r}; it must be a list of token ids")
    return ends


def _begin_with_end_of_document(path: Path) -> None:
    """The tokenizer's first token is the one that stood before each text in training; one that was never seen there has
    an embedding that means nothing."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if "eos_token" in content:
        write_json(path, {**content, "bos_token": content["eos_token"]})


def _keep_tokenizer_class(path: Path) -> None:
    """Make transformers use a tokenizer as it is in a model of type `qwen2`.

    Version 5 replaces the tokenizer's class by Qwen's for this type, whatever `tokenizer_class` is, and with it the
    pre-tokenizer (`MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS` in `tokenization_auto.py`). It does not where a class is
    named that needs `trust_remote_code`, which is then not used unless asked for, as in version 4; asked for it, both
    fail because the file is missing."""
    if not path.is_file():
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    if not str(content.get("tokenizer_class")).startswith("Qwen2Tokenizer"):
        write_json(path, {**content, "auto_map": {"AutoTokenizer": [None, "none.PreTrainedTokenizerFast"]}})


def check_names(found: set[str], expected: set[str]) -> None:
    """Raise ValueError when a checkpoint lacks a weight of its model or has an unknown one."""
    missing, unknown = sorted(expected - found), sorted(found - expected)
    if missing:
        raise ValueError(f"the checkpoint has no weight {missing[0]!r}" + _and_more(missing))
    if unknown:
        raise ValueError(f"the checkpoint has a weight {unknown[0]!r}, which the model does not" + _and_more(unknown))


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _split(planned: Mapping[str, list[Exported]], shard_bytes: int) -> list[list[str]]:
    """Our names in order, cut into files of at most `shard_bytes`, or of a single weight that is larger."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, parts in planned.items():
        size = sum(part.bytes for part in parts)
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _read(
    checkpoint: Checkpoint, weights: Mapping[str, Weight], names: list[str], fold_norm: bool, progress: Progress
) -> Iterator[tuple[str, Parts]]:
    def whole(name: str) -> Iterable[tuple[str, Parts]]:
        tensor = checkpoint.tensor(name)
        if fold_norm and name == "head.weight":
            tensor = torch.nn.functional.normalize(tensor)
        return mapping.to_hugging_face(name, weights[name], tensor).items()

    def by_rows(name: str) -> Iterator[tuple[str, Parts]]:
        mapping.check_shape(name, weights[name], checkpoint.shape(name))
        step = max(1, PART_ELEMENTS // math.prod(weights[name].shape[1:]))
        for part in weights[name].parts:
            starts = range(part.start, part.stop, step)
            yield part.name, (checkpoint.rows(name, start, min(start + step, part.stop)) for start in starts)

    for name in names:
        is_changed = any(part.layout != "rows" for part in weights[name].parts) or (fold_norm and name == "head.weight")
        # of which nothing is left here when the next one is read
        yield from whole(name) if is_changed or not checkpoint.is_stored(name) else by_rows(name)
        progress.advance()


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = export_parser(
        "altiplano convert to-hf",
        "Export a checkpoint to a folder that transformers loads.",
        EXAMPLES,
        dtype="of the weights; float32 (default) keeps the checkpoint's values, the others round them to half the size",
    )
    parser.add_argument(
        "--form",
        choices=["own", "llama"],
        default="own",
        help="own: the family's; llama: for a Baichuan with rotary positions, with NormHead folded into the head",
    )
    parser.add_argument("--mixture", type=Path, help="mixture.yaml that names the tokenizer; default: the run's own")
    parser.add_argument(
        "--adapter", action="store_true", help="write the adapters, and what was trained whole, as a folder for PEFT"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    command = make_parser()
    given = command.parse_args(arguments)
    for name in ("dtype", "form", "mixture") if given.adapter else ():
        if getattr(given, name) != command.get_default(name):
            command.error(f"--{name}: has no effect with --adapter, whose weights are float32 and without a tokenizer")
    try:
        if given.adapter:
            export_adapter(given.checkpoint, given.out, given.base)
        else:
            export_command(given.checkpoint, given.out, given.mixture, given.dtype, given.form, given.base)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"exported to {given.out}")
    return 0


def export_adapter(path: Path, out: Path, base: Path | None) -> None:
    """`to-hf --adapter`: the base model, if it was imported, by the name of the folder it came from."""
    from pretrain.checkpoint.whole import verified_weights
    from tools.hugging_face.adapter import write_adapter

    weights = verified_weights(path, base)
    imported = {} if weights.base is None else weights.base.index.get("imported", {})
    write_adapter(weights, out, imported.get("from"))


def export_command(
    path: Path, out: Path, mixture_path: Path | None, dtype: Dtype, form: Form, base: Path | None
) -> None:
    """`to-hf`: adapters are merged, in fp32, and rounded once to `dtype`. The tokenizer is that of the mixture, or the
    one that came with an imported model. How the two are used (special tokens, generation settings, templates of
    conversations) stays as it was imported, also after training."""
    from pretrain.checkpoint.origin import origin_of
    from pretrain.checkpoint.read import CheckpointReader
    from pretrain.checkpoint.whole import WholeWeights

    checkpoint = WholeWeights(CheckpointReader(path), base)
    imported = origin_of(checkpoint.reader)
    chat_template = None
    if "imported" in checkpoint.index and mixture_path is None:
        tokenizer, end_of_document = checkpoint.path / "tokenizer", None
    else:
        if "imported" in checkpoint.index:
            imported = None  # the mixture's tokenizer is asked for
        mixture = load_mixture(mixture_path or Path(checkpoint.config["data"]["mixture"]))
        if mixture.vocabulary_size != checkpoint.config["model"]["vocabulary_size"]:
            raise ValueError(
                f"{mixture.path}: vocabulary_size: {mixture.vocabulary_size}, but the checkpoint's model has "
                f"{checkpoint.config['model']['vocabulary_size']}; give the mixture it was trained on with --mixture"
            )
        tokenizer, end_of_document = mixture.tokenizer, mixture.end_of_document
        beside = mixture.path.parent / CHAT_TEMPLATE_FILE
        chat_template = beside if beside.is_file() else None
    to_hugging_face(
        checkpoint,
        out,
        tokenizer=tokenizer,
        end_of_document=end_of_document,
        dtype=dtype,
        shard_bytes=SHARD_BYTES,
        form=form,
        imported=imported,
        chat_template=chat_template,
        answer_ends=() if chat_template is None else _answer_ends(chat_template),
    )


if __name__ == "__main__":
    sys.exit(main())
