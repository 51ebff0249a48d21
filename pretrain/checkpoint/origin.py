"""What an imported model has beside its weights, which a run that starts from it keeps for its exports."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from pretrain.checkpoint.layout import CheckpointError
from pretrain.checkpoint.read import CheckpointReader

STARTED_FROM = "started_from"
"""Entry of a checkpoint's index: special tokens, generation settings, and the texts of `KEPT_FILES`."""
KEPT_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
"""Patterns of a tokenizer's files that say how it is used, not what it encodes to."""


def origin_of(reader: CheckpointReader) -> dict[str, Any] | None:
    """Of an imported checkpoint, or of a run that started from one; None of a run that started from nothing.

    A run's checkpoints hold it themselves, since the imported one may be gone when they are exported.

    Raises:
        CheckpointError: a file has another name than those that are kept; it would be written anywhere.
    """
    imported = reader.index.get("imported")
    if imported is None:
        started_from: dict[str, Any] | None = reader.index.get(STARTED_FROM)
        for name in (started_from or {}).get("files", ()):
            if not any(_is_at(PurePosixPath(name), PurePosixPath(kept)) for kept in KEPT_FILES):
                raise CheckpointError(f"{reader.path}: {STARTED_FROM}: files: {name!r} is no file of a tokenizer's use")
        return started_from
    folder = reader.path / "tokenizer"
    files = [path for pattern in KEPT_FILES for path in sorted(folder.glob(pattern))]
    return {
        "special_tokens": imported["special_tokens"],
        "generation_config": imported["generation_config"],
        "files": {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files},
    }


def _is_at(path: PurePosixPath, pattern: PurePosixPath) -> bool:
    """Whether a path is where the pattern says, and not somewhere else under the same name."""
    return len(path.parts) == len(pattern.parts) and ".." not in path.parts and path.match(str(pattern))
