"""Puts checkpoints out of the way that a rollback has left behind, so that no resume takes them up."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from foundation.atomic_files import write_text
from pretrain.checkpoint.layout import LATEST_FILE, complete_checkpoints, step_folder

ABANDONED_PREFIX = "abandoned-"


def abandon_checkpoints(checkpoints: Path, steps: list[int], name: str) -> Path:
    """Move the checkpoints of these steps to the folder `abandoned-<name>` beside the kept ones.

    Those of an earlier rollback are removed, so that the disk holds one abandoned branch at most. Killed half-way, it
    is called again at the next start.
    """
    folder = checkpoints / f"{ABANDONED_PREFIX}{name}"
    for old in checkpoints.glob(f"{ABANDONED_PREFIX}*"):
        if old != folder:
            shutil.rmtree(old)
    if steps:
        folder.mkdir(parents=True, exist_ok=True)
    for step in steps:
        shutil.rmtree(folder / step_folder(checkpoints, step).name, ignore_errors=True)
        os.rename(step_folder(checkpoints, step), folder / step_folder(checkpoints, step).name)
    kept = complete_checkpoints(checkpoints)
    if kept:
        write_text(checkpoints / LATEST_FILE, kept[0].name + "\n")
    return folder
