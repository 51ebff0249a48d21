"""Files of Hugging Face's format: tokenizers, which are copied, and weights, which are written front to back."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foundation.checksums import hashed_file

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""Any of these is a tokenizer: of `tokenizers`, of SentencePiece, or of GPT-2's kind, with `merges.txt`."""

SPECIAL_TOKENS_FILES = ("tokenizer_config.json", "special_tokens_map.json")

TOKENIZER_FILES = (
    *TOKENIZERS,
    *SPECIAL_TOKENS_FILES,
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
"""Patterns of everything that transformers saves with a tokenizer, templates of conversations included."""

SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Entries of `config.json` and of `generation_config.json`."""

CHECKSUM_FILE = "checksums.json"
"""Name of the file with the SHA-256 of each file of weights; `from-hf` compares them."""

SAFETENSORS_NAMES: dict[str, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


PART_ELEMENTS = 1 << 20
"""Elements that are read, converted and written at a time: 4 MB in fp32, for which the allocator reuses its memory;
for larger tensors it has the kernel map and clear pages each time, which takes longer than the copy."""

Parts = torch.Tensor | Iterable[torch.Tensor]
"""A tensor, or its parts along dim 0, one after the other."""


def in_parts(tensor: Parts) -> Iterator[torch.Tensor]:
    """Split a tensor into consecutive flat parts of `PART_ELEMENTS` or fewer."""
    for part in (tensor,) if isinstance(tensor, torch.Tensor) else tensor:
        yield from part.reshape(-1).split(PART_ELEMENTS)


@dataclass(frozen=True)
class Exported:
    """One tensor of the exported model."""

    name: str
    shape: tuple[int, ...]
    bytes: int


def copy_tokenizer(folder: Path, out: Path) -> None:
    """Copy the files of a tokenizer."""
    for pattern in TOKENIZER_FILES:
        for file in sorted(folder.glob(pattern)):
            target = out / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def write_safetensors(path: Path, planned: Sequence[Exported], tensors: Iterable[tuple[str, Parts]], dtype: str) -> str:
    """Write a safetensors file front to back, because the library's own writer needs all tensors in memory.

    Returns:
        SHA-256 of what was written.

    Raises:
        ValueError: a value is not finite, or not once it has the dtype; names the weight.

    Format: eight bytes with the header's length, little-endian; a JSON header; the tensors' bytes
    (https://huggingface.co/docs/safetensors, "Format").
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for part in planned:
        offsets = [start, start + part.bytes]
        header[part.name] = {"dtype": SAFETENSORS_NAMES[dtype], "shape": list(part.shape), "data_offsets": offsets}
        start += part.bytes
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with hashed_file(path) as file:
        file.write(len(head).to_bytes(8, "little") + head)
        remaining = iter(tensors)
        for part in planned:  # no zip, which keeps the last tensor while it reads the next one
            name, tensor = next(remaining)
            assert name == part.name and (not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) == part.shape)
            before = file.size
            for few in in_parts(tensor):
                file.write(converted(name, few, dtype).contiguous().view(torch.uint8).numpy().data)
            assert file.size - before == part.bytes
            if isinstance(tensor, torch.Tensor):
                file.wait()  # parts are views, which would keep it while the next one is read
            few = tensor = torch.empty(0)
        assert next(remaining, None) is None
        return file.digest()


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is infinite or NaN. Ten times as fast as by `isfinite`: both ends of the range are NaN where any
    value is (https://docs.pytorch.org/docs/stable/generated/torch.aminmax.html)."""
    return not tensor.numel() or all(math.isfinite(end) for end in tensor.aminmax())


def converted(name: str, tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    """A weight in a dtype of `SAFETENSORS_NAMES`.

    Raises:
        ValueError: a value is not finite, or not once it has the dtype; names the weight.
    """
    kind: torch.dtype = getattr(torch, dtype)
    result = tensor.to(kind)
    if not is_finite(result):
        if not is_finite(tensor):
            raise ValueError(f"{name}: some of its values are not finite (NaN or infinity): the checkpoint is damaged")
        raise ValueError(
            f"{name}: its largest value, {float(tensor.abs().max()):.4g}, does not fit into {dtype}, which ends at "
            f"{torch.finfo(kind).max:.4g}: export it as bfloat16 or float32"
        )
    return result
