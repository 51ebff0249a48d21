"""New control tokens for a tokenizer, such as ChatML's. Ids of its other entries do not change.

They take the places of entries that are reserved for later use, whose rows a model has already; those that find no
place are appended.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from data_prep.tokenizer.encoding.encode import MODEL_FILE, ReferenceEncoder
from data_prep.tokenizer.encoding.encoded import TokenizerError, reserved_names
from data_prep.tokenizer.sentence_piece import CONTROL, parse, save_sentencepiece_bpe
from foundation.atomic_files import write_text


@dataclass(frozen=True)
class ControlTokens:
    """Control tokens that were added.

    Attributes:
        ids: by name.
        appended: number of those that are new entries; the others were reserved ones.
        size: entries of the vocabulary now.
    """

    ids: dict[str, int]
    appended: int
    size: int


def add_control_tokens(old: Path, names: Sequence[str], out: Path) -> ControlTokens:
    """Write the tokenizer of `old` with control tokens to `out`.

    Raises:
        TokenizerError: a name is empty, given twice or an entry already; there is no tokenizer; or `out` is `old`.
    """
    if out.resolve() == old.resolve():
        raise TokenizerError(f"{out}: is the old tokenizer; give another folder")
    before = ReferenceEncoder(old)
    known = {**before.content["model"]["vocab"], **{token.content: i for i, token in before.added_tokens.items()}}
    for place, name in enumerate(names):
        if not name.strip():
            raise TokenizerError(f"{name!r}: a control token needs a name")
        if name in known or name in names[:place]:
            what = f"entry {known[name]} of {before.path}" if name in known else "given twice"
            raise TokenizerError(f"{name!r} is {what}; leave it out")
    reserved = [name for name in reserved_names(before.vocabulary_size) if name in known]
    renamed = dict(zip(reserved, names, strict=False))
    appended = names[len(renamed) :]
    out.mkdir(parents=True, exist_ok=True)
    if (old / MODEL_FILE).is_file():
        _write_sentencepiece((old / MODEL_FILE).read_bytes(), renamed, appended, out)
    else:
        for path in (*old.glob("tokenizer_config.json"), *old.glob("special_tokens_map.json")):
            shutil.copyfile(path, out / path.name)
        write_text(out / "tokenizer.json", _with_names(before.content, renamed, appended))
    after = ReferenceEncoder(out)
    ids = {token.content: identity for identity, token in after.added_tokens.items() if token.content in names}
    return ControlTokens({name: ids[name] for name in names}, len(appended), after.vocabulary_size)


def _write_sentencepiece(content: bytes, renamed: dict[str, str], appended: Sequence[str], out: Path) -> None:
    model = parse(content)
    for piece in model.pieces:
        piece.piece = renamed.get(piece.piece, piece.piece)
    for name in appended:
        piece = model.pieces.add()
        piece.piece, piece.score, piece.type = name, 0.0, CONTROL
    model.trainer_spec.vocab_size = len(model.pieces)
    symbols = model.trainer_spec.control_symbols
    symbols[:] = [renamed.get(name, name) for name in symbols] + list(appended)
    save_sentencepiece_bpe(model.SerializeToString(), out)


def _with_names(content: dict[str, Any], renamed: dict[str, str], appended: Sequence[str]) -> str:
    """Content of `tokenizer.json` with other names of some entries, and with more of them."""
    model = content["model"]
    changed = {
        **content,
        "added_tokens": [
            {**token, "content": renamed.get(token["content"], token["content"])} for token in content["added_tokens"]
        ],
        "model": {**model, "vocab": {renamed.get(name, name): i for name, i in model["vocab"].items()}},
    }
    tokenizer = Tokenizer.from_str(json.dumps(changed))
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in appended])
    return tokenizer.to_str(pretty=True)
