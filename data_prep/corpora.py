"""Documents that models beside a run are trained on: what a run keeps in a language, all pages of a run, or files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow.parquet as pq
from pydantic import ValidationError

from data_prep.config import DataConfig, SourceConfig
from data_prep.languages import meant_for
from data_prep.run.commit_records import committed_digest
from data_prep.run.directory import RunDirectory
from data_prep.run.inputs import find_inputs
from data_prep.run.manifest import divide, load_manifest
from data_prep.sources import Fault, reader_of
from data_prep.tokenizer.kept_documents import read_kept, read_kept_sizes

_RANGE_BYTES = 16_000_000
"""Bytes of a file that are read between two steps of the progress."""
_BATCH_ROWS = 256


@dataclass(frozen=True)
class Page:
    """A text and where it is from, such as its web address."""

    url: str
    text: str


class Corpus(Protocol):
    """Documents that can be read several times.

    Attributes:
        size: bytes of all of them, of their text or of their files.
        left_out: number of documents of the last reading that could not be used, by reason.
    """

    size: int
    left_out: Counter[str]

    def read(self, advance: Callable[[int], None]) -> Iterator[Page]:
        """Yield the documents; `advance` is called with the bytes read."""
        ...


class KeptDocuments:
    """Kept documents of a run in one language, edited as they will be trained on; each is called by its id.

    Raises:
        ValueError: the run is not complete up to `decide`, or keeps no document in the language.
    """

    def __init__(self, config: DataConfig, language: str) -> None:
        self._run = RunDirectory(config.output)
        self._language = language
        self._shards = load_manifest(self._run).shard_names
        self.left_out: Counter[str] = Counter()
        committed_digest(self._run, "decide", self._shards)
        sizes: Counter[str] = Counter()
        for shard in self._shards:
            sizes.update(read_kept_sizes(self._run, shard).by_language())
        self.size = sum(size for name, size in sizes.items() if self._is_meant(name))
        if not self.size:
            most = ", ".join(name for name, _ in sizes.most_common(10)) or "no language"
            raise ValueError(
                f"{config.output}: the run keeps no document in {language!r}; most text is in {most} (see `altiplano "
                "data ledger`)"
            )

    def read(self, advance: Callable[[int], None]) -> Iterator[Page]:
        for shard in self._shards:
            for document in read_kept(self._run, shard, lambda _, name: self._is_meant(name)):
                yield Page(document.id, document.text)
                advance(len(document.text.encode()))

    def _is_meant(self, name: str) -> bool:
        return meant_for(name, (self._language,)) is not None


class ExtractedDocuments:
    """All documents of a run, whatever becomes of them.

    Raises:
        ValueError: the run's `extract` is not complete.
    """

    def __init__(self, config: DataConfig) -> None:
        run = RunDirectory(config.output)
        shards = load_manifest(run).shard_names
        committed_digest(run, "extract", shards)
        self._paths = [run.corpus / f"{shard}.parquet" for shard in shards]
        self.size = sum(path.stat().st_size for path in self._paths)
        self.left_out: Counter[str] = Counter()

    def read(self, advance: Callable[[int], None]) -> Iterator[Page]:
        for path in self._paths:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_BATCH_ROWS, columns=["url", "text"], use_threads=False):
                    yield from map(Page, batch["url"].to_pylist(), batch["text"].to_pylist())
            advance(path.stat().st_size)


class Files:
    """Documents of files.

    Args:
        kind, paths, text_field: as of a source in the configuration of a run.

    Raises:
        ValueError: a path matches nothing, there is no file of this kind, or the kind needs or knows other settings.
    """

    def __init__(self, kind: str, paths: Sequence[str], text_field: str | None = None) -> None:
        try:
            source = SourceConfig(name="files", kind=kind, paths=tuple(paths), text_field=text_field)
        except ValidationError as error:
            faults = (fault["msg"].removeprefix("Value error, ") for fault in error.errors())
            raise ValueError("; ".join(faults)) from None
        found = find_inputs(source, seed=0)
        if found.missing:
            raise ValueError(f"{', '.join(found.missing)}: no such file or folder")
        if not found.files:
            raise ValueError(
                f"{', '.join(source.paths)}: no file that kind {source.kind!r} reads; --kind names another one"
            )
        self._source = source
        self._shards = divide(found, _RANGE_BYTES, options=source.options)
        self.size = found.raw_bytes
        self.left_out: Counter[str] = Counter()

    def read(self, advance: Callable[[int], None]) -> Iterator[Page]:
        self.left_out = Counter()
        reader = reader_of(self._source.kind, self._source.options)
        limit = DataConfig.model_fields["maximum_document_bytes"].default
        for shard in self._shards:
            for piece in shard.ranges:
                for found in reader.read(piece, limit):
                    if isinstance(found, Fault):
                        self.left_out[found.reason] += 1
                    else:
                        yield Page(found.url, found.text)
                advance(piece.end - piece.start if not piece.unpacked_start else 0)
