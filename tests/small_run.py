"""A training run small enough for a test: token files in which something can be learnt, and its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data_prep.indexed_dataset.writer import IndexedDatasetWriter
from foundation.atomic_files import sha256_file

LENGTH = 32
MODEL = {
    "vocabulary_size": 300,
    "hidden_size": 32,
    "layers": 2,
    "attention_heads": 2,
    "key_value_heads": 2,
    "feed_forward_size": 64,
    "maximum_positions": LENGTH,
}


def write_tokens(prefix: Path, documents: int, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    with IndexedDatasetWriter(prefix, MODEL["vocabulary_size"]) as writer:
        sizes = random.integers(5, 90, documents)
        for size in sizes:
            # Each token is the one before plus one: something that a model can learn.
            tokens = (random.integers(3, 290) + np.arange(size)) % 290 + 3
            writer.add_document(np.append(tokens, 2))
    checksums = {kind: sha256_file(prefix.with_name(prefix.name + f".{kind}")) for kind in ("bin", "idx")}
    return {"documents": documents, "tokens": int(sizes.sum()) + documents, "sha256": checksums}


def write_small_run(folder: Path) -> Path:
    """Token files and a `train.yaml`, which is returned, for six steps of eight samples with outputs in `train/`."""
    train, held_out = write_tokens(folder / "text", 300, 1), write_tokens(folder / "text.heldout", 40, 2)
    dataset = {
        "name": "text",
        "path": "text",
        "heldout": "text.heldout",
        **train,
        "heldout_documents": held_out["documents"],
        "heldout_tokens": held_out["tokens"],
        "heldout_sha256": held_out["sha256"],
        "weight": 1.0,
    }
    mixture = {
        "version": 1,
        "tokenizer": "tokenizer",
        "vocabulary_size": MODEL["vocabulary_size"],
        "end_of_document": 2,
        "datasets": [dataset],
    }
    (folder / "mixture.yaml").write_text(yaml.safe_dump(mixture))
    config = {
        "output": str(folder / "train"),
        "model": MODEL,
        "data": {"mixture": str(folder / "mixture.yaml"), "sequence_length": LENGTH},
        "batch": {"global_batch_size": 8, "micro_batch_size": 2},
        "optimizer": {"learning_rate": 3e-3},
        "schedule": {"total_steps": 6, "warmup_steps": 2},
        "evaluation": {"every_steps": 3, "batches": 2},
        "checkpoint": {"every_steps": 2},
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    return folder / "train.yaml"
