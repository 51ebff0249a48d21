"""Convert an exported model to GGUF with llama.cpp's own converter: `altiplano convert to-gguf HF_FOLDER OUT.gguf`.

What llama.cpp would compute differently is refused by name. The judge of both is llama.cpp itself, in
`tests/system/test_llama_cpp.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.tokenizer import sentence_piece
from data_prep.tokenizer.encoding.encode import MODEL_FILE
from data_prep.tokenizer.encoding.piece_encoder import PRE_TOKENIZER_PATTERN
from foundation.atomic_files import whole_file
from pretrain.config import ModelConfig
from pretrain.families.registry import format_of_type
from tools.hugging_face import llama_cpp_converter
from tools.hugging_face.llama_cpp_converter import CONVERTER, REPLACED, Task

CONFIG_FILE = "config.json"
TYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "q8_0": "q8_0"}
"""Data types of the written weights, and the converter's names for them."""

EXAMPLES = """examples:
  altiplano convert to-gguf runs/demo/hf demo.gguf --llama-cpp llama.cpp
  altiplano convert to-gguf runs/demo/hf demo.gguf --llama-cpp llama.cpp --dtype q8_0
      at a quarter of the size; llama.cpp's own llama-quantize has more kinds"""


@dataclass(frozen=True)
class Computed:
    """What llama.cpp computes of a family.

    Attributes:
        scalings: kinds of `model.rope_scaling`; `ntk` is exported as another base.
        ignores_windows: it attends to all earlier tokens, and is right in texts of up to the window's length.
        settings: settings that it computes with one value only, which may depend on the model's sizes.
        required: settings that must be given.
    """

    scalings: tuple[str, ...] = ()
    ignores_windows: bool = False
    settings: Callable[[ModelConfig], dict[str, Any]] = lambda model: {}
    required: tuple[str, ...] = ()


def _full_heads(model: ModelConfig) -> dict[str, Any]:
    return {"attention_head_size": model.hidden_size // model.attention_heads}


def _four_times_wider(model: ModelConfig) -> dict[str, Any]:
    return {"feed_forward_size": 4 * model.hidden_size}


def _gemma_scale(model: ModelConfig, largest: int) -> float:
    """The scale that llama.cpp gives to all Gemmas but the largest, which it recognises by the number of layers."""
    size = model.hidden_size // model.attention_heads if model.layers == largest else model.head_size
    return float(size**-0.5)


def _gemma2(model: ModelConfig) -> dict[str, Any]:
    scale = _gemma_scale(model, 46)
    return {"attention_scale": scale, "full_attention_every": 2, "rope_theta": 10000.0, "tied_embedding": True}


def _gemma3(model: ModelConfig) -> dict[str, Any]:
    return {"attention_scale": _gemma_scale(model, 62), "full_attention_every": 6}


_YARN = ("linear", "ntk", "yarn")
COMPUTED = {
    "llama": Computed((*_YARN, "llama3")),
    "mistral": Computed((*_YARN, "llama3"), ignores_windows=True),
    "qwen2": Computed(_YARN, ignores_windows=True, settings=_full_heads),
    "qwen3": Computed(_YARN, ignores_windows=True),
    "olmo2": Computed(_YARN),
    "gemma2": Computed(settings=_gemma2, required=("attention_soft_cap", "logit_soft_cap")),
    "gemma3": Computed(_YARN, settings=_gemma3),
    "gpt_neox": Computed(settings=lambda model: {"tied_embedding": False, "rope_theta": 10000.0}),
    "gpt3": Computed(settings=_four_times_wider),
    "bloom": Computed(settings=_four_times_wider),
    "palm": Computed(settings=_full_heads),
    "chatglm": Computed(settings=_full_heads),
}
"""Families that llama.cpp and its converter have. Source: `src/models/*.cpp` and `conversion/*.py` of llama.cpp, as in
llama-cpp-python 0.3.36; the tests of `tests/system/test_llama_cpp.py` see that every entry is needed."""
_PALM_LAYERS = 64
"""From so many layers on, llama.cpp expects the norms of queries and keys that the larger Command R has."""


def refusals(model: ModelConfig) -> list[str]:
    """Settings of a model that llama.cpp does not compute, each with what it computes."""
    computed = COMPUTED.get(model.family)
    if computed is None:
        hint = "; if its positions are rotary, export it with --form llama" if model.family == "baichuan" else ""
        return [f"model.family: llama.cpp's converter makes nothing of {model.family}{hint}"]
    found = []
    scaling = model.rope_scaling
    if scaling is not None and scaling.kind not in computed.scalings:
        there = " or ".join(computed.scalings) or "none"
        found.append(f"model.rope_scaling.kind: {scaling.kind}: for {model.family} llama.cpp has {there}")
    if scaling is not None and scaling.kind == "yarn" and scaling.attention_factor is not None:
        found.append(f"model.rope_scaling.attention_factor: {scaling.attention_factor}: llama.cpp has the default")
    if scaling is not None and scaling.rounds_edges is False:
        found.append("model.rope_scaling.rounds_edges: false: llama.cpp rounds them")
    for name, value in computed.settings(model).items():
        given = getattr(model, name)
        if given is not None and given != value:
            found.append(f"model.{name}: {given}: for {model.family} llama.cpp has {value}")
    for name in computed.required:
        if getattr(model, name) is None:
            found.append(f"model.{name}: none: for {model.family} llama.cpp needs one")
    if model.family == "palm" and model.layers >= _PALM_LAYERS:
        found.append(f"model.layers: {model.layers}: llama.cpp has less than {_PALM_LAYERS} for {model.family}")
    return found


def exported_model(folder: Path) -> ModelConfig:
    """Settings of an exported model.

    Raises:
        ValueError: the folder is no export of a known family.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `altiplano convert to-hf` writes the folder")
    config = json.loads(path.read_text(encoding="utf-8"))
    return ModelConfig.model_validate(format_of_type(config["model_type"]).model_settings(config))


def longest_text(model: ModelConfig) -> int:
    """Number of tokens up to which llama.cpp computes the model: a window that it ignores must not be left."""
    ignored = COMPUTED[model.family].ignores_windows and model.sliding_window
    return min(model.maximum_positions, ignored or model.maximum_positions)


def _tokenizer(folder: Path) -> dict[str, Any]:
    """Entries of a `Task` about the tokenizer.

    Raises:
        ValueError: llama.cpp would encode text differently.
    """
    path, model_path = folder / "tokenizer.json", folder / MODEL_FILE
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    # Of SentencePiece's tokenizers, llama.cpp would put the first token before each text, which the export does not.
    begins = False if content and content.get("post_processor") is None else None
    if model_path.is_file():
        parsed = sentence_piece.parse(model_path.read_bytes())
        known = {piece.piece for piece in parsed.pieces}
        if unknown := [token["content"] for token in content.get("added_tokens", []) if token["content"] not in known]:
            raise ValueError(f"{path}: {unknown[0]!r} is not in {MODEL_FILE}, from which llama.cpp's converter reads")
        return {
            "tokenizer": "sentencepiece",
            "space_prefix": parsed.normalizer_spec.add_dummy_prefix,
            "begins": begins,
        }
    if content.get("model", {}).get("byte_fallback"):
        raise ValueError(
            f"{model_path}: no such file; llama.cpp encodes by its scores, which {path.name} does not have"
        )
    steps = (content.get("pre_tokenizer") or {}).get("pretokenizers") or [{}]
    is_ours = steps[0].get("pattern") == {"Regex": PRE_TOKENIZER_PATTERN} and content.get("normalizer") is None
    return {"tokenizer": "byte_level" if is_ours else None, "space_prefix": False, "begins": begins}


def to_gguf(folder: Path, out: Path, llama_cpp: Path, dtype: str) -> int:
    """Write a GGUF file; complete or not at all.

    Args:
        folder: what `altiplano convert to-hf` wrote.
        llama_cpp: checkout of llama.cpp, or the folder `vendor/llama.cpp` of llama-cpp-python's sources.
        dtype: data type of the weights, one of `TYPES`.

    Returns:
        Number of tokens up to which llama.cpp computes the model.

    Raises:
        ValueError: the folder is no export or the checkout cannot be used; llama.cpp does not compute the model; or
            the converter fails.
        FileExistsError: `out` is there already.
    """
    for name in (CONVERTER, REPLACED):
        if not (llama_cpp / name).is_file():
            raise ValueError(f"{llama_cpp / name}: no such file; give a checkout of llama.cpp of 2026 with --llama-cpp")
    if out.exists():
        raise FileExistsError(f"{out} exists already")
    model = exported_model(folder)
    if refused := refusals(model):
        raise ValueError(f"{folder}: {'; '.join(refused)}")
    length = longest_text(model)
    entries = {"max_position_embeddings": length} if length < model.maximum_positions else {}
    run_converter(folder, out, llama_cpp, dtype, entries)
    return length


def run_converter(folder: Path, out: Path, llama_cpp: Path, dtype: str, entries: Mapping[str, Any]) -> None:
    """Run llama.cpp's converter on a folder, whatever llama.cpp makes of it; see `to_gguf`."""
    tokenizer = _tokenizer(folder)
    with whole_file(out) as temporary:
        task: Task = {
            "llama_cpp": str(llama_cpp.absolute()),
            "folder": str(folder.absolute()),
            "out": str(temporary.absolute()),
            "type": TYPES[dtype],
            "entries": dict(entries),
            **tokenizer,  # type: ignore[typeddict-item]
        }
        command = [sys.executable, llama_cpp_converter.__file__, json.dumps(task)]
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if ended.returncode:
            last = "\n".join(ended.stdout.splitlines()[-5:])
            raise ValueError(f"{folder}: llama.cpp's converter failed:\n{last}")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano convert to-gguf",
        description="Convert an export to GGUF, the format of llama.cpp, with llama.cpp's own converter.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="what `altiplano convert to-hf` wrote")
    parser.add_argument("out", type=Path, help="file to write; must not exist")
    parser.add_argument("--llama-cpp", type=Path, required=True, help="checkout of llama.cpp")
    parser.add_argument("--dtype", choices=list(TYPES), default="float32", help="of the weights (default float32)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = make_parser().parse_args(arguments)
    try:
        length = to_gguf(given.folder, given.out, given.llama_cpp, given.dtype)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"exported to {given.out}, for texts of up to {length:,} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
