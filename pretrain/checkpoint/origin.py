"""The origin of imported weights: what a run that starts from them keeps for its exports, such as special tokens."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from pretrain.checkpoint.layout import CheckpointError
from pretrain.checkpoint.read import CheckpointReader

STARTED_FROM = "started_from"
"""Key in a checkpoint's index of special tokens, generation settings, and the texts of `KEPT_FILES`."""
KEPT_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
"""Patterns of a tokenizer's files that affect how it is used, not what it encodes to."""


def origin_of(reader: CheckpointReader) -> dict[str, Any] | None:
    """Origin of an imported checkpoint, or of a run that started from one; None for a run from random weights.

    A run's checkpoints contain it themselves, because the imported checkpoint may be gone when they are exported.

    Raises:
        CheckpointError: a file does not have one of the names that are kept, so that it could be written anywhere.
    """
    imported = reader.index.get("imported")
    if imported is None:
        started_from: dict[str, Any] | None = reader.index.get(STARTED_FROM)
        for name in (started_from or {}).get("files", ()):
            if not any(_is_at(PurePosixPath(name), PurePosixPath(kept)) for kept in KEPT_FILES):
                raise CheckpointError(
                    f"{reader.path}: {STARTED_FROM}: files: {name!r} is not one of {', '.join(KEPT_FILES)}"
                )
        return started_from
    folder = reader.path / "tokenizer"
    files = [path for pattern in KEPT_FILES for path in sorted(folder.glob(pattern))]
    return {
        "special_tokens": imported["special_tokens"],
        "generation_config": imported["generation_config"],
        "files": {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files},
    }


def _is_at(path: PurePosixPath, pattern: PurePosixPath) -> bool:
    """Whether the whole path matches the pattern, not only its end."""
    return len(path.parts) == len(pattern.parts) and ".." not in path.parts and path.match(str(pattern))
