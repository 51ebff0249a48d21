"""Token files with loss masks, such as those of conversations: many windows have little to learn or nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from data_prep.indexed_dataset.writer import IndexedDatasetWriter

END = 2
Documents = list[tuple[list[int], list[bool]]]
"""Tokens of each document, and which of them are learnt."""


def write_masked(folder: Path, **sources: Documents) -> Path:
    """The `mixture.yaml` of these sources, whose held-out part is the same text."""
    entries = []
    for name, documents in sources.items():
        with IndexedDatasetWriter(folder / name, 300, with_loss_mask=True) as writer:
            for tokens, learnt in documents:
                writer.add_documents(np.array(tokens), np.array([len(tokens)]), np.array(learnt))
        digests = {path.suffix[1:]: digest for path, digest in writer.digests.items()}
        entry = {"documents": writer.documents, "tokens": writer.tokens, "sha256": digests}
        held_out = {"heldout": name, **{f"heldout_{key}": value for key, value in entry.items()}}  # the same text
        entries.append({"name": name, "path": name, "weight": 1, **entry, **held_out})
    description = {
        "version": 1,
        "vocabulary_size": 300,
        "tokenizer": "none",
        "end_of_document": END,
        "datasets": entries,
    }
    (folder / "mixture.yaml").write_text(yaml.safe_dump(description))
    return folder / "mixture.yaml"


def conversations(seed: int, count: int) -> Documents:
    """Documents of 10 to 60 tokens whose turns end with END, of which a few tokens are learnt, in many of them none."""
    random = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        size = int(random.integers(10, 60))
        tokens = random.integers(3, 300, size)
        tokens[random.random(size) < 0.1] = END
        learnt = (random.random(size) < 0.2) & (random.random() < 0.3)
        documents.append(([*tokens.tolist(), END], [*learnt.tolist(), False]))
    return documents
