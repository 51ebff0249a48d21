"""Check that initial weights and token files belong to the same tokenizer: with another one, a model would learn
nonsense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pretrain.checkpoint.layout import CheckpointError
from pretrain.checkpoint.read import CheckpointReader
from pretrain.data.mixture import MixtureFile


def check_same_tokenizer(reader: CheckpointReader, mixture: MixtureFile) -> None:
    """Compare the tokenizer that came with a checkpoint with that of the token files, in whatever format they are.

    A run's own checkpoints have no tokenizer: then there is nothing to compare.

    Raises:
        CheckpointError: an id is another token in one than in the other; or one of them cannot be read.
    """
    folder = reader.path / "tokenizer"
    if not folder.is_dir():
        return
    try:
        theirs, ours = _entries(folder), _entries(mixture.tokenizer)
    except ValueError as error:
        raise CheckpointError(
            f"initial_weights: {reader.path}: its tokenizer cannot be compared with that of data.mixture "
            f"{mixture.path}: {error}"
        ) from None
    if theirs == ours:
        return
    different = [i for i in theirs.keys() | ours.keys() if theirs.get(i) != ours.get(i)]
    raise CheckpointError(
        f"initial_weights: {reader.path}: token {min(different)} is {theirs.get(min(different))!r} for its tokenizer, "
        f"and {ours.get(min(different))!r} in data.mixture {mixture.path} ({len(different):,} tokens differ); make the "
        f"token files with the model's own tokenizer: set tokenizer.path={folder} in the settings of data_prep"
    )


def _entries(folder: Path) -> dict[int, str]:
    """Token of each id.

    Raises:
        ValueError: there is no file of a tokenizer, or the package to read it is not installed.
    """
    for name, read in (
        ("tokenizer.json", _read_tokenizers),
        ("tokenizer.model", _read_sentencepiece),
        ("vocab.json", _read_vocabulary),
    ):
        if (folder / name).is_file():
            return read(folder / name)
    raise ValueError(f"{folder} has neither tokenizer.json nor tokenizer.model nor vocab.json")


def _read_tokenizers(path: Path) -> dict[int, str]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: name and score, in the order of the ids
        vocabulary = {name: identity for identity, (name, _) in enumerate(vocabulary)}
    entries = {identity: name for name, identity in vocabulary.items()}
    return entries | {token["id"]: token["content"] for token in content["added_tokens"]}


def _read_sentencepiece(path: Path) -> dict[int, str]:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise ValueError(f"{path} needs the package sentencepiece to be read: pip install sentencepiece") from None
    model = SentencePieceProcessor(model_file=str(path))
    entries = {identity: str(model.id_to_piece(identity)) for identity in range(model.get_piece_size())}
    return entries | _read_added(path.parent)


def _read_vocabulary(path: Path) -> dict[int, str]:
    vocabulary: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
    return {identity: name for name, identity in vocabulary.items()} | _read_added(path.parent)


def _read_added(folder: Path) -> dict[int, str]:
    path = folder / "added_tokens.json"
    added: dict[str, int] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {identity: name for name, identity in added.items()}
