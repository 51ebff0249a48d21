"""Weights mean what their tokenizer's ids mean: on token files of another one a model would learn nonsense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pretrain.checkpoint.layout import CheckpointError
from pretrain.checkpoint.read import CheckpointReader
from pretrain.data.mixture import MixtureFile


def check_same_tokenizer(reader: CheckpointReader, mixture: MixtureFile) -> None:
    """Hold the tokenizer that came with a checkpoint to that of the token files, where both are there.

    Raises:
        CheckpointError: an id stands for something else in one than in the other.
    """
    theirs, ours = _entries(reader.path / "tokenizer"), _entries(mixture.tokenizer)
    if theirs is None or ours is None or theirs == ours:
        return
    identity = min(i for i in theirs.keys() | ours.keys() if theirs.get(i) != ours.get(i))
    raise CheckpointError(
        f"initial_weights: {reader.path}: token {identity} is {theirs.get(identity)!r} for its tokenizer, and "
        f"{ours.get(identity)!r} in data.mixture {mixture.path}; make the token files with the model's own tokenizer, "
        f"by tokenizer.path={reader.path / 'tokenizer'} for data_prep"
    )


def _entries(folder: Path) -> dict[int, str] | None:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram's: name and score, in the order of the ids
        vocabulary = {name: identity for identity, (name, _) in enumerate(vocabulary)}
    entries = {identity: name for name, identity in vocabulary.items()}
    return entries | {token["id"]: token["content"] for token in content["added_tokens"]}
