"""Token files from elsewhere: verification, and conversion to our rules.

Our rules: a document is one sequence, it ends with the end-of-document token, which occurs nowhere else in it, and
every id is in the vocabulary. Megatron's files may violate each of them; datatrove's and nanotron's have another
format, `<prefix>.ds` with the bare tokens and `<prefix>.ds.index` with the end of each document, uint64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.indexed_dataset.format import TokenFileError, bin_path
from data_prep.indexed_dataset.reader import IndexedDataset
from data_prep.indexed_dataset.writer import IndexedDatasetWriter

_EXAMPLES = 5


@dataclass
class Findings:
    """Counts of `verify`, with the numbers of the first few documents for each fault."""

    documents: int = 0
    tokens: int = 0
    highest_id: int = -1
    empty: int = 0
    """Documents without a token; a copy omits them."""
    without_end: int = 0
    """Documents that do not end with the end-of-document token; a copy appends it."""
    end_inside: int = 0
    """Documents with an end-of-document token before their end, which are several in one; a copy divides them."""
    outside_vocabulary: int = 0
    """Documents with an id outside the vocabulary; these cannot be copied."""
    several_sequences: int = 0
    """Documents of more than one sequence; a copy joins them."""
    wrong_pack: int = 0
    """Packs of another length than they should have."""
    examples: dict[str, list[int]] | None = None

    @property
    def is_clean(self) -> bool:
        """Whether the files can be used as they are."""
        return not (self.empty or self.without_end or self.end_inside or self.outside_vocabulary or self.wrong_pack)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "is_clean": self.is_clean}


def verify(prefix: Path, vocabulary_size: int, end_of_document: int, packed: int | None = None) -> Findings:
    """Read every token once, a document at a time.

    Args:
        prefix: without `.bin` or `.ds`.
        packed: tokens of a pack, where the documents are packs of conversations: each must have that many tokens, the
            last one more, and end-of-document tokens may be anywhere.

    Raises:
        TokenFileError: missing or damaged files.
    """
    findings = Findings(examples={})
    last = len(IndexedDataset(prefix)) - 1 if packed is not None else -1
    for number, (tokens, sequences) in enumerate(documents_of(prefix)):
        findings.documents += 1
        findings.tokens += len(tokens)
        faults = []
        if len(tokens):
            findings.highest_id = max(findings.highest_id, int(tokens.max()))
        if not len(tokens):
            faults.append("empty")
        else:
            if packed is not None:
                faults += ["wrong_pack"] * (len(tokens) != packed + (number == last))
            else:
                faults += ["without_end"] * bool(tokens[-1] != end_of_document)
                faults += ["end_inside"] * bool(np.any(tokens[:-1] == end_of_document))
            if int(tokens.min()) < 0 or int(tokens.max()) >= vocabulary_size:
                faults.append("outside_vocabulary")
        if sequences > 1 and packed is None:
            faults.append("several_sequences")
        for fault in faults:
            setattr(findings, fault, getattr(findings, fault) + 1)
            assert findings.examples is not None
            examples = findings.examples.setdefault(fault, [])
            if len(examples) < _EXAMPLES:
                examples.append(number)
    return findings


def convert(prefix: Path, output: Path, vocabulary_size: int, end_of_document: int) -> dict[str, Any]:
    """Write a copy that follows our rules, with documents in the same order.

    Returns:
        Counts: documents and tokens read and written, ends appended, documents divided, empty ones omitted; checksums.

    Raises:
        TokenFileError: damaged files, an id outside the vocabulary, or the output is the input.
    """
    if bin_path(output).resolve() == bin_path(prefix).resolve():
        raise TokenFileError(f"{bin_path(output)} is the input; give another output")
    counts = {"documents_read": 0, "tokens_read": 0, "ends_appended": 0, "divided": 0, "empty": 0}
    with IndexedDatasetWriter(output, vocabulary_size) as writer:
        for tokens, _ in documents_of(prefix):
            counts["documents_read"] += 1
            counts["tokens_read"] += len(tokens)
            if not len(tokens):
                counts["empty"] += 1
                continue
            if tokens[-1] != end_of_document:
                counts["ends_appended"] += 1
                tokens = np.append(tokens, tokens.dtype.type(end_of_document))
            sizes = np.diff(np.flatnonzero(tokens == end_of_document), prepend=-1)
            counts["divided"] += len(sizes) > 1
            writer.add_documents(tokens, sizes)
    return {
        **counts,
        "documents": writer.documents,
        "tokens": writer.tokens,
        "sha256": {path.suffix[1:]: digest for path, digest in writer.digests.items()},
    }


def documents_of(prefix: Path) -> Iterator[tuple[npt.NDArray[Any], int]]:
    """Yield the tokens of each document and its number of sequences.

    Raises:
        TokenFileError: missing or damaged files.
    """
    flat, index = Path(f"{prefix}.ds"), Path(f"{prefix}.ds.index")
    if not flat.is_file():
        dataset = IndexedDataset(prefix)
        dataset.check_index()
        for i in range(len(dataset)):
            yield dataset.document(i), int(dataset.document_bounds[i + 1] - dataset.document_bounds[i])
        return
    if not index.is_file():
        raise TokenFileError(f"{index}: no such file; it should have the ends of the documents of {flat.name}")
    ends = np.fromfile(index, "<u8").astype(np.int64)
    item, rest = divmod(flat.stat().st_size, int(ends[-1])) if len(ends) and ends[-1] else (0, 1)
    if rest or item not in (2, 4) or np.any(np.diff(ends) < 0):
        raise TokenFileError(
            f"{flat}: {flat.stat().st_size} bytes are not the {int(ends[-1]) if len(ends) else 0} tokens of 2 or 4 "
            f"bytes that {index.name} ends with, or the ends do not ascend"
        )
    tokens = np.asarray(np.memmap(flat, f"<u{item}", "r"))
    start = 0
    for end in ends.tolist():
        yield tokens[start:end], 1
        start = end
