"""Run llama.cpp's own converter with what it cannot find out by itself; a script, in a process of its own.

Its only argument is JSON, see `Task`. What is replaced in the converter, and why:

- The vocabulary is written by the kind of the tokenizer. The converter chooses by the model's family, and recognises
  the pre-tokenizer of byte-level BPE by a digest of the tokens of one text, which every new vocabulary changes.
- Entries of `config.json` that transformers 5 renames are there under both names: parts of the converter read the old
  ones.
- `entries` replace those of `config.json`.

Source: `convert_hf_to_gguf.py` and `conversion/base.py` of llama.cpp, as in llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any, Literal, TypedDict

CONVERTER = "convert_hf_to_gguf.py"
"""The converter in a checkout of llama.cpp."""
REPLACED = "conversion/base.py"
"""File of the converter with what is replaced; older checkouts do not have it."""


class Task(TypedDict):
    """What is converted.

    Attributes:
        llama_cpp: checkout of llama.cpp.
        folder: the exported model.
        out: file to write.
        type: one of the converter's `--outtype`.
        tokenizer: kind of a tokenizer that the converter may not recognise; None: it is left to the converter.
        space_prefix: whether SentencePiece puts a space before a text.
        begins: whether a text begins with the tokenizer's first token; None: it is left to the converter.
        entries: entries of `config.json` with other values.
    """

    llama_cpp: str
    folder: str
    out: str
    type: str
    tokenizer: Literal["byte_level", "sentencepiece"] | None
    space_prefix: bool
    begins: bool | None
    entries: dict[str, Any]


def _write_vocabulary(model: Any, task: Task) -> None:
    """What the converter's class of a model does in `set_vocab`."""
    if task["tokenizer"] == "byte_level":
        model.get_vocab_base_pre = lambda _: "bloom"
        model._set_vocab_gpt2()
    else:
        model._set_vocab_sentencepiece()
        model.gguf_writer.add_add_space_prefix(task["space_prefix"])
    if task["begins"] is not None:
        model.gguf_writer.add_add_bos_token(task["begins"])


def convert(task: Task) -> None:
    """Write the GGUF file."""
    sys.path[0] = task["llama_cpp"]  # instead of this script's folder
    converter: Any = importlib.import_module("convert_hf_to_gguf")
    base: Any = importlib.import_module("conversion.base").ModelBase
    load_entries, find_class = base.load_hparams, converter.get_model_class
    written = json.loads((Path(task["folder"]) / "config.json").read_text(encoding="utf-8"))

    def entries(*arguments: Any, **settings: Any) -> dict[str, Any]:
        found = {**written, **load_entries(*arguments, **settings), **task["entries"]}
        if "padded_vocab_size" in found:  # ChatGLM's name, which only some of the converter's functions know
            found.setdefault("vocab_size", found["padded_vocab_size"])
        return found

    def model_class(*arguments: Any, **settings: Any) -> Any:
        found = find_class(*arguments, **settings)
        if task["tokenizer"] is not None:
            found.set_vocab = lambda model: _write_vocabulary(model, task)
        return found

    base.load_hparams = staticmethod(entries)
    converter.get_model_class = model_class
    sys.argv = [CONVERTER, task["folder"], "--outfile", task["out"], "--outtype", task["type"]]
    converter.main()


if __name__ == "__main__":
    convert(json.loads(sys.argv[1]))
