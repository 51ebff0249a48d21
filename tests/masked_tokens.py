"""Token files with loss masks, as conversations have them: many windows have few targets or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from data_prep.conversations.packing import pack_of_each
from data_prep.indexed_dataset.writer import IndexedDatasetWriter

END = 2
Documents = list[tuple[list[int], list[bool]]]
"""Tokens of each document, and which of them are targets."""


def write_masked(folder: Path, pack: int | None = None, **sources: Documents) -> Path:
    """The `mixture.yaml` of these sources, whose held-out part is the same text.

    Args:
        pack: tokens of a pack; None: documents follow one another.
    """
    entries = []
    for name, documents in sources.items():
        with IndexedDatasetWriter(folder / name, 300, with_loss_mask=True) as writer:
            if pack is not None:
                _add_packs(writer, documents, pack)
            for tokens, learnt in documents if pack is None else ():
                writer.add_documents(np.array(tokens), np.array([len(tokens)]), np.array(learnt))
        digests = {path.suffix[1:]: digest for path, digest in writer.digests.items()}
        entry = {"documents": writer.documents, "tokens": writer.tokens, "sha256": digests}
        if pack is not None:
            entry["conversations"] = len(documents)
        held_out = {"heldout": name, **{f"heldout_{key}": value for key, value in entry.items()}}  # the same text
        entries.append({"name": name, "path": name, "weight": 1, "packed": pack, **entry, **held_out})
    description = {
        "version": 1,
        "vocabulary_size": 300,
        "tokenizer": "none",
        "end_of_document": END,
        "datasets": entries,
    }
    (folder / "mixture.yaml").write_text(yaml.safe_dump(description))
    return folder / "mixture.yaml"


def _add_packs(writer: IndexedDatasetWriter, documents: Documents, length: int) -> None:
    """Packs as `data_prep.gathering` makes them; their padding is a token that conversations have too."""
    packs, count = pack_of_each(np.array([len(tokens) for tokens, _ in documents]), length)
    for pack in range(count):
        inside = [documents[place] for place in np.flatnonzero(packs == pack).tolist()]
        room = length + (pack + 1 == count) - sum(len(tokens) for tokens, _ in inside)
        inside += [([3] * room, [False] * room)] if room else []
        tokens, learnt = (np.concatenate([one[side] for one in inside]) for side in (0, 1))
        sizes = np.array([len(one[0]) for one in inside])
        writer.add_documents(tokens.astype(np.int64), sizes, learnt.astype(bool), np.array([len(inside)]))


def chats(seed: int, count: int, longest: int, head: tuple[int, ...] = ()) -> Documents:
    """Conversations of one to three rounds whose answers are learnt, each with END behind it.

    Args:
        longest: most tokens of a conversation.
        head: tokens before each answer.
    """
    random = np.random.default_rng(seed)
    made: Documents = []
    while len(made) < count:
        tokens: list[int] = []
        learnt: list[bool] = []
        for _ in range(int(random.integers(1, 4)) if not head else 1):
            question, answer = (random.integers(10, 300, int(random.integers(2, 9))).tolist() for _ in range(2))
            tokens += [*question, *head, *answer, END]
            learnt += [False] * (len(question) + len(head)) + [True] * (len(answer) + 1)
        if len(tokens) <= longest:
            made.append((tokens, learnt))
    return made


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
