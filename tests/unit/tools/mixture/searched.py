"""A search over two sources that is small enough for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.small_run import write_small_run, write_tokens


def write_search(folder: Path, steps: int = 40, **settings: Any) -> Path:
    """Token files of two sources, `train.yaml`, and `search.yaml`, which is returned."""
    train = write_small_run(folder)
    mixture = yaml.safe_load((folder / "mixture.yaml").read_text())
    first = mixture["datasets"][0]
    other, held_out = write_tokens(folder / "other", 500, 3), write_tokens(folder / "other.heldout", 40, 4)
    second = {**first, "name": "other", "path": "other", "heldout": "other.heldout", **other, "weight": 3.0}
    second |= {
        "heldout_documents": held_out["documents"],
        "heldout_tokens": held_out["tokens"],
        "heldout_sha256": held_out["sha256"],
    }
    mixture["datasets"] = [first, second]
    (folder / "mixture.yaml").write_text(yaml.safe_dump(mixture))
    values = yaml.safe_load(train.read_text())
    values["schedule"] = {"total_steps": steps, "warmup_steps": 2}
    values["checkpoint"] = {"every_steps": steps, "keep_last": 1}
    values |= {"spikes": {"enabled": False}, "precision": "fp32"}
    train.write_text(yaml.safe_dump(values))
    search = {"output": str(folder / "search"), "train": str(train), "runs": 6, **settings}
    (folder / "search.yaml").write_text(yaml.safe_dump(search))
    return folder / "search.yaml"
