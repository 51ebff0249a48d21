"""Kept documents, edited as they will be trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.conversations.turns import TURNS, Conversation, Turn, turns_of
from data_prep.edits import edit_marked, no_loss_of
from data_prep.run.directory import RunDirectory
from data_prep.run.documents import read_columns, text_bytes
from data_prep.sources.reading import NO_LOSS
from data_prep.tokenizer.encoding.encoded import Texts

_BATCH_BYTES = 2_000_000
"""Approximate bytes of text in memory: the number of documents is estimated from the mean of their row group."""


@dataclass(frozen=True)
class KeptDocument:
    """An edited document.

    Attributes:
        language: ISO 639 code.
        no_loss: half-open ranges in bytes of the text that the loss excludes, see `data_prep.edits`.
    """

    id: str
    text: str
    language: str
    no_loss: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class KeptBatch:
    """Some edited documents, with the attributes of `KeptDocument` for each."""

    identities: list[str]
    texts: Texts
    languages: list[str]
    no_loss: list[tuple[tuple[int, int], ...]]
    turns: list[Conversation] = field(default_factory=list)
    """Turns of each conversation; empty for documents of other kinds."""


@dataclass(frozen=True)
class KeptSizes:
    """Languages and bytes (before redaction) of the kept documents of a shard, in its order."""

    languages: tuple[str, ...]
    byte_counts: npt.NDArray[np.int64]

    def by_language(self) -> dict[str, int]:
        """Sum the bytes of kept documents by language."""
        sums: dict[str, int] = {}
        for language, size in zip(self.languages, self.byte_counts.tolist(), strict=True):
            sums[language] = sums.get(language, 0) + size
        return sums


def read_kept_sizes(run: RunDirectory, shard: str) -> KeptSizes:
    """Read languages and sizes of the kept documents of a shard, without its text."""
    verdicts, signals = _aligned(run, shard, ["byte_count"])
    kept = verdicts["kept"].to_numpy()
    languages = verdicts["language"].filter(verdicts["kept"]).to_pylist()
    return KeptSizes(tuple(languages), signals["byte_count"].to_numpy()[kept])


def read_kept(
    run: RunDirectory, shard: str, chosen: Callable[[str, str], bool] | None = None
) -> Iterator[KeptDocument]:
    """Yield the kept documents of a shard in its order, or those `chosen` by id and language, a few at a time.

    Raises:
        ValueError: text, signals and verdicts of the shard are of different documents, or it cannot be read.
    """
    for batch in KeptShard(run, shard).batches(chosen):
        yield from map(KeptDocument, batch.identities, batch.texts, batch.languages, batch.no_loss)


class KeptShard:
    """Kept documents of a shard, in batches. Unedited text is not copied from Arrow's buffers.

    Args:
        with_turns: the documents are conversations, whose turns are read.

    Raises:
        ValueError: signals and verdicts of the shard are of different documents.
    """

    def __init__(self, run: RunDirectory, shard: str, *, with_turns: bool = False) -> None:
        self._corpus = run.corpus / f"{shard}.parquet"
        self._verdicts_path = run.verdicts / self._corpus.name
        verdicts, signals = _aligned(run, shard, ["pii_spans"])
        known = verdicts.append_column("pii_spans", signals["pii_spans"])
        self._known = pa.RecordBatch.from_arrays(
            [column.combine_chunks() for column in known.columns], known.column_names
        )
        with pq.ParquetFile(self._corpus) as file:
            self._no_loss = dict(_metadata_with(NO_LOSS, file)) if not with_turns else {}
            self._turns = dict(_metadata_with(TURNS, file)) if with_turns else {}

    @property
    def has_no_loss(self) -> bool:
        """Whether some document of the shard, kept or not, has parts that the loss excludes."""
        return bool(self._no_loss)

    def batches(self, chosen: Callable[[str, str], bool] | None = None) -> Iterator[KeptBatch]:
        """Yield kept documents in the order of the shard, about 2 MB of text at a time; see `read_kept`."""
        known, corpus = self._known, self._corpus
        wanted = known["kept"].to_numpy(zero_copy_only=False)
        if chosen is not None:
            pairs = zip(known["id"].to_pylist(), known["language"].to_pylist(), strict=True)
            wanted = wanted & np.fromiter((chosen(*pair) for pair in pairs), bool, len(wanted))
        with pq.ParquetFile(corpus) as file:
            if file.metadata.num_rows != len(wanted):
                raise ValueError(
                    f"{corpus}: {file.metadata.num_rows} documents, but {len(wanted)} verdicts in "
                    f"{self._verdicts_path}; run `altiplano data decide` again"
                )
            first = 0
            for read in _some_rows(file):
                last = first + len(read)
                rows = first + np.flatnonzero(wanted[first:last])
                if len(rows):
                    mask = pa.array(wanted[first:last])
                    kept, about = read.filter(mask), known.slice(first, len(read)).filter(mask)
                    if not kept["id"].equals(about["id"]):
                        raise ValueError(f"{corpus}: its ids are not those of {self._verdicts_path}")
                    yield self._edited(_texts_of(kept["text"], corpus), rows, about)
                first = last

    def _edited(self, texts: Texts, rows: npt.NDArray[np.int64], about: pa.RecordBatch) -> KeptBatch:
        """Edit some documents."""
        if self._turns:
            return self._edited_conversations(texts, rows, about)
        marked = [i for i, row in enumerate(rows.tolist()) if row in self._no_loss] if self._no_loss else []
        changed = np.zeros(len(texts), np.bool_)
        changed[marked] = True
        for name in ("pii_spans", "cuts"):
            changed |= pc.list_value_length(about[name]).to_numpy(zero_copy_only=False) > 0
        no_loss: list[tuple[tuple[int, int], ...]] = [()] * len(texts)
        places = np.flatnonzero(changed)
        if len(places):
            data, offsets, sizes = texts.data.data, texts.offsets.tolist(), texts.sizes
            parts: list[bytes | memoryview] = []
            done = offsets[0]
            found, cut = (about[name].take(places).to_pylist() for name in ("pii_spans", "cuts"))
            for i, spans, ranges in zip(places.tolist(), found, cut, strict=True):
                text = bytes(data[offsets[i] : offsets[i + 1]])
                personal, left_out = _edits(spans, ranges)
                metadata = self._no_loss.get(int(rows[i]))
                marks = no_loss_of(metadata, text) if metadata else []
                edited, no_loss[i] = edit_marked(text, personal, left_out, marks)
                parts += (data[done : offsets[i]], edited)
                sizes[i] = len(edited)
                done = offsets[i + 1]
            parts.append(data[done : offsets[-1]])
            texts = Texts(np.frombuffer(b"".join(parts), np.uint8), np.concatenate(([0], np.cumsum(sizes))))
        return KeptBatch(about["id"].to_pylist(), texts, about["language"].to_pylist(), no_loss)

    def _edited_conversations(self, texts: Texts, rows: npt.NDArray[np.int64], about: pa.RecordBatch) -> KeptBatch:
        identities: list[str] = about["id"].to_pylist()
        edited: list[bytes] = []
        conversations: list[Conversation] = []
        found, cut = about["pii_spans"].to_pylist(), about["cuts"].to_pylist()
        for row, identity, view, spans, ranges in zip(
            rows.tolist(), identities, texts.as_bytes(), found, cut, strict=True
        ):
            text = bytes(view)
            try:
                places, roles = turns_of(self._turns.get(row, "{}"), text)
            except ValueError as error:
                raise ValueError(f"{self._corpus}: document {identity}: {error}; `--restart extract`") from None
            if spans or ranges:
                text, moved = edit_marked(text, *_edits(spans, ranges), places, keep_empty=True)
                places = list(moved)
            edited.append(text)
            turns = zip(roles, places, strict=True)
            conversations.append(tuple(Turn(role, text[start:stop].decode()) for role, (start, stop) in turns))
        nothing: list[tuple[tuple[int, int], ...]] = [()] * len(rows)
        return KeptBatch(identities, Texts.of_bytes(edited), about["language"].to_pylist(), nothing, conversations)


def _edits(
    spans: Sequence[dict[str, Any]], cuts: Sequence[dict[str, int]]
) -> tuple[list[tuple[str, int, int]], list[tuple[int, int]]]:
    """Return personal data and cuts as `edit` takes them."""
    personal = [(span["kind"], span["start"], span["end"]) for span in spans]
    return personal, [(one["start"], one["end"]) for one in cuts]


def _some_rows(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """Yield ids and texts of all rows, at most a row group at a time, however documents differ in size."""
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        at_once = max(1, about.num_rows * _BATCH_BYTES // max(1, about.total_byte_size))
        yield from file.iter_batches(at_once, [group], ["id", "text"], use_threads=False)


def _metadata_with(key: str, file: pq.ParquetFile) -> Iterator[tuple[int, str]]:
    """Yield row and metadata of documents that have a key in it, such as parts that the loss excludes."""
    first = 0
    for batch in file.iter_batches(columns=["metadata"], use_threads=False):
        for row in np.flatnonzero(pc.match_substring(batch["metadata"], f'"{key}"')).tolist():
            yield first + row, batch["metadata"][row].as_py()
        first += len(batch)


def _texts_of(column: pa.LargeStringArray, corpus: Path) -> Texts:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{corpus}: damaged ({error}); `--restart extract` writes it again") from error
    return Texts(*text_bytes(column))


def id_fraction(seed: int, purpose: str, identity: str) -> float:
    """Return a number in [0, 1) that depends only on seed, purpose and document: the same for any order of work."""
    hashed = hashlib.blake2b(f"{seed}/{purpose}/{identity}".encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "little") / 2**64


def mixture_weights(names: Sequence[str], given: Sequence[float | None], sizes: Sequence[int]) -> tuple[float, ...]:
    """Return the weights of non-empty sources: the configured ones, or else their sizes.

    Raises:
        ValueError: some sources have a configured weight and some have not.
    """
    configured = [weight for weight in given if weight is not None]
    if not configured:
        return tuple(float(size) for size in sizes)
    if len(configured) < len(given):
        without = [name for name, weight in zip(names, given, strict=True) if weight is None]
        raise ValueError(
            f"sources: weight is given for some sources and not for {', '.join(without)}; give it for all of them, "
            "or for none, so that every source counts by its size"
        )
    return tuple(configured)


def _aligned(run: RunDirectory, shard: str, signals: list[str]) -> tuple[pa.Table, pa.Table]:
    verdicts_path, signals_path = run.verdicts / f"{shard}.parquet", run.signals / f"{shard}.parquet"
    verdicts = read_columns(verdicts_path, ["id", "language", "kept", "cuts"])
    measured = read_columns(signals_path, ["id", *signals])
    if not verdicts["id"].equals(measured["id"]):
        raise ValueError(f"{verdicts_path}: its ids are not those of {signals_path}; run `data_prep decide` again")
    return verdicts.combine_chunks(), measured.combine_chunks()
