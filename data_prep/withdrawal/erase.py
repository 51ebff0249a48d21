"""Withdrawn documents in token files: their tokens are overwritten, and everything else keeps its place.

A new `.bin` replaces the old one under its name, so that a training run that has it open reads on in the old one, and
hard links of other runs stay what they are. A kill leaves the old files, or those of the next step:

1. the commit record without the list of an earlier call, by which the next call sees what is left to do
2. `<prefix>.withdrawn.json`, with the digests of the original
3. `<prefix>.bin`
4. the commit record with both
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from data_prep.indexed_dataset.format import bin_path
from data_prep.indexed_dataset.origins import Origins, pack
from data_prep.indexed_dataset.reader import IndexedDataset
from data_prep.indexed_dataset.withdrawn import Withdrawn, WithdrawnDocument, withdrawn_path
from data_prep.run.commit_records import Record, Stage
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from foundation.atomic_files import fingerprint, sha256_file, whole_file
from foundation.progress import Progress

_COPIED = 1 << 24


def erase_listed(stage: Stage, listed: Mapping[str, Sequence[str]]) -> int:
    """Overwrite the documents on the list in the token files of a finished tokenize stage.

    Args:
        listed: ids by source; those that are in no token file have no effect.

    Returns:
        Number of documents, or sequences of them, that were there until now.

    Raises:
        ValueError: a document is not on the list any more, and its tokens are gone.
    """
    erased = 0
    for source, ids in listed.items():
        prefixes = [stage.run.tokens / source, stage.run.tokens / f"{source}.heldout"]
        record = stage.record(source)
        if record is None or not (ids or any(withdrawn_path(prefix).is_file() for prefix in prefixes)):
            continue
        end, wanted = ReferenceEncoder(stage.run.tokenizer).end_of_document, pack(ids)
        digests: dict[Path, str] = {}
        for prefix in prefixes:
            if bin_path(prefix).is_file():
                erased += _erase(prefix, source, wanted, end, stage, record, digests)
        if digests:
            stage.amend(source, digests)
    return erased


def _erase(
    prefix: Path,
    source: str,
    wanted: npt.NDArray[np.int64],
    end_of_document: int,
    stage: Stage,
    record: Record,
    digests: dict[Path, str],
) -> int:
    """Overwrite documents of one token file; returns their number."""
    tokens, listing = bin_path(prefix), withdrawn_path(prefix)
    dataset = IndexedDataset(prefix)
    origins = Origins(prefix, source, len(dataset.sequence_sizes))
    found = np.flatnonzero(np.isin(origins.packed, wanted)).tolist()
    starts = dataset.starts_of_sequences(np.array(found, np.int64)).tolist()
    documents = [
        WithdrawnDocument(origins.identity(row) or "", start, start + int(dataset.sequence_sizes[row]))
        for row, start in zip(found, starts, strict=True)
        if dataset.sequence_sizes[row]
    ]
    before = dataset.withdrawn
    if before is None:
        original = record.checksums[str(tokens.relative_to(stage.run.root))], fingerprint(tokens)
    else:
        _refuse_return(listing, before, documents)
        original = before.original_sha256, before.original_fingerprint
    is_done = before is not None and str(listing.relative_to(stage.run.root)) in record.outputs
    if not documents or (before is not None and is_done and before.documents == documents):
        return 0
    if is_done:
        stage.amend(source, {listing: None})
    with whole_file(tokens, digests=digests) as partial:
        _copy_without(tokens, partial, documents, end_of_document, dataset.dtype)
        Withdrawn(*original, fingerprint(partial), documents).write(prefix)
    digests[listing] = sha256_file(listing)
    return len(documents) - (len(before.documents) if before is not None and is_done else 0)


def _refuse_return(path: Path, before: Withdrawn, documents: Sequence[WithdrawnDocument]) -> None:
    stays = {document.id for document in documents}
    for document in before.documents:
        if document.id not in stays:
            raise ValueError(
                f"{path}: {document.id} was taken out and is not on the list `withdrawn` any more. Its tokens are "
                "gone: put it back on the list, or make the token files again with `--restart tokenize`"
            )


def _copy_without(
    source: Path, goal: Path, documents: Sequence[WithdrawnDocument], end_of_document: int, dtype: np.dtype[np.generic]
) -> None:
    """Copy a token file, with the end-of-document token in place of those of some documents."""
    with open(source, "rb") as old, open(goal, "wb") as new:
        with Progress(f"take documents out of {source.name}", source.stat().st_size, "bytes") as progress:
            while block := old.read(_COPIED):
                new.write(block)
                progress.advance(len(block))
        for document in documents:
            _overwrite(new, document, np.array([end_of_document], dtype).tobytes())


def _overwrite(file: BinaryIO, document: WithdrawnDocument, token: bytes) -> None:
    file.seek(document.start * len(token))
    file.write(token * (document.stop - document.start))
