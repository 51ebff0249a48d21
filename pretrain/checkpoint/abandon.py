"""Puts aside the checkpoints of an abandoned branch, so that no run resumes from them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from foundation.atomic_files import write_text
from pretrain.checkpoint.layout import LATEST_FILE, complete_checkpoints, step_folder

ABANDONED_PREFIX = "abandoned-"


def abandon_checkpoints(checkpoints: Path, steps: list[int], branch: str) -> None:
    """Move the checkpoints of these steps to a folder beside the kept ones.

    Those of an earlier rollback are removed, so that the disk has one abandoned branch at most. After a kill half-way,
    the next start calls it again.

    Args:
        branch: name of the folder, see `spikes.ledger.branch_name`.
    """
    folder = checkpoints / branch
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
