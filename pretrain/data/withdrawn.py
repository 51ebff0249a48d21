"""What a run knows of documents that were taken out of its token files (`altiplano data remove`).

A run that is started again trains on without them. `withdrawn.json` in its output folder keeps for each the finished
steps of the run when it was first started without it, so that `altiplano seen` can tell which steps had its text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from foundation.atomic_files import write_json
from pretrain.data.loader import SampleReader

WITHDRAWN_FILE = "withdrawn.json"


def read_withdrawn(output: Path) -> dict[str, int]:
    """Finished steps after which a run was without each document, by id; a document that is not in it was there in all
    steps.

    Raises:
        ValueError: the file is damaged.
    """
    path = output / WITHDRAWN_FILE
    if not path.is_file():
        return {}
    try:
        return {str(identity): int(step) for identity, step in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: damaged ({error}); without it, all steps count as having seen the documents"
        ) from None


def record_withdrawn(output: Path, reader: SampleReader, step: int) -> Mapping[str, tuple[int, int]]:
    """Record that steps after `step` are without the documents that are taken out now.

    Returns:
        Number of documents that are taken out, and of their tokens, by dataset.
    """
    before = read_withdrawn(output)
    now = dict(before)
    for dataset in reader.datasets:
        for document in dataset.withdrawn.documents if dataset.withdrawn else ():
            now[document.id] = min(step, now.get(document.id, step))  # less after a return to an earlier checkpoint
    if now != before:
        write_json(output / WITHDRAWN_FILE, dict(sorted(now.items())))
    return reader.withdrawn
