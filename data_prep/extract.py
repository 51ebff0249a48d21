"""The extract stage: raw files to document shards. No other stage reads the input."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.config import DataConfig
from data_prep.run.commit_records import Stage
from data_prep.run.directory import RunDirectory
from data_prep.run.documents import DOCUMENTS, PASSED_OVER
from data_prep.run.executors import run_units
from data_prep.run.inputs import current_tag
from data_prep.run.manifest import Manifest, Shard, freeze_manifest, manifest_at
from data_prep.sources import Document, Fault, Reader, reader_of
from data_prep.sources.compression import PACKED_BY
from data_prep.sources.storage import retries
from foundation.atomic_files import room_for

VERSION = 2

_ROW_GROUP_BYTES = 8_000_000
"""Bytes of text in memory before a row group is written; with one document, the memory of this stage."""
_SHOWN_FAULTS = 5


def extract_stage(config: DataConfig, run: RunDirectory, manifest: Manifest) -> Stage:
    return Stage(
        run, "extract", VERSION, {"maximum_document_bytes": config.maximum_document_bytes}, inputs=manifest.digest
    )


def extract(config: DataConfig, run: RunDirectory) -> None:
    """Write `corpus/<shard>.parquet`, and documents that cannot be used to `quarantine/<shard>.jsonl`.

    Raises:
        StaleOutputError: input or settings differ from those of the outputs on disk.
        ValueError: a source's files are not of its kind, or none of its documents can be used.
    """
    manifest = freeze_manifest(config, run)
    for source in manifest.sources:
        for path in source.missing:
            print(f"source {source.name}: nothing at {path} on this machine")
        packed = {suffix: count for suffix, count in source.skipped.items() if suffix in PACKED_BY}
        if packed:
            listed = ", ".join(f"{count:,} {suffix} files ({PACKED_BY[suffix]})" for suffix, count in packed.items())
            print(f"source {source.name}: not read: {listed}; only .gz, .zst and .bz2 are decompressed")
    stage = extract_stage(config, run, manifest)
    work = partial(extract_shard, stage=stage, maximum_document_bytes=config.maximum_document_bytes)
    run_units(work, manifest.shard_names, config.workers, "extract", stage, manifest.chains)
    _report(manifest, run, stage)


def extract_shard(name: str, stage: Stage, maximum_document_bytes: int) -> None:
    """Extract one shard: documents in the order of the manifest, numbered in that order."""
    run = stage.run
    manifest = manifest_at(run.manifest, stage.inputs)
    shard = manifest.shard(name)
    for piece in shard.ranges:
        _refuse_other_input(piece.path, manifest)
    repeated = retries.total()
    reader = reader_of(shard.kind, manifest.options(shard.source))
    corpus = run.corpus / f"{name}.parquet"
    quarantine = run.quarantine / f"{name}.jsonl"
    digests: dict[Path, str] = {}
    new_file = stage.new_file(digests)
    with new_file(corpus) as corpus_partial, new_file(quarantine) as quarantine_partial:
        counts = _write(shard, reader, maximum_document_bytes, corpus_partial, quarantine_partial)
    if retries.total() > repeated:  # not in the record, which is the same however the network was
        print(f"{name}: {retries.total() - repeated} requests to the store were repeated", file=sys.stderr)
    stage.commit(name, [corpus, quarantine], counts, digests=digests)


def _refuse_other_input(path: str, manifest: Manifest) -> None:
    """Refuse a file that is gone, and an object that is not the frozen one."""
    frozen = manifest.objects.get(path)
    if frozen is None:
        if not os.path.exists(path):
            raise ValueError(f"{path}: removed after it was frozen; restore it, or run with `--restart extract`")
        return
    tag = current_tag(frozen)
    if tag != frozen.sha256:
        what = "removed" if tag is None else "changed"
        raise ValueError(f"{path}: {what} after it was frozen; restore it, or run with `--restart extract`")


def _write(shard: Shard, reader: Reader, maximum_document_bytes: int, corpus: Path, quarantine: Path) -> Counter[str]:
    counts: Counter[str] = Counter(documents=0, bytes=0, quarantined=0, raw_bytes=shard.raw_bytes)
    with _Rows(corpus) as rows, open(quarantine, "w", encoding="utf-8") as aside:
        for result in _read(shard, reader, maximum_document_bytes, counts):
            if isinstance(result, Fault):
                counts["quarantined"] += 1
                counts[f"quarantine:{result.reason}"] += 1
                _set_aside(result, shard.source, aside)
                continue
            counts["bytes"] += rows.add(f"{shard.name}/{counts['documents']:07d}", shard.source, result)
            counts["documents"] += 1
    return counts


def _read(
    shard: Shard, reader: Reader, maximum_document_bytes: int, counts: Counter[str]
) -> Iterator[Document | Fault]:
    for piece in shard.ranges:
        try:
            passed_over: Any = yield from reader.read(piece, maximum_document_bytes)  # type: ignore[func-returns-value]
            for what, count in (passed_over or {}).items():
                counts[what if what.startswith("changed:") else f"{PASSED_OVER}{what}"] += count
        except OSError as error:
            raise ValueError(
                f"{piece.path}: cannot be read ({error.strerror or error}); repair it or its disk and run "
                "again: finished work is kept"
            ) from error


class _Rows:
    """Writer of a Parquet file of documents, in row groups of about the same number of bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: dict[str, list[str]] = {name: [] for name in DOCUMENTS.names}
        self._held_bytes = 0

    def __enter__(self) -> _Rows:
        self._writer = pq.ParquetWriter(self._path, DOCUMENTS, compression="zstd")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with room_for(self._path):
            try:
                if kind is None:
                    self._flush()
            finally:
                self._writer.close()

    def add(self, identity: str, source: str, document: Document) -> int:
        """Add a document; return the bytes of its text."""
        metadata = json.dumps(document.metadata, ensure_ascii=False, separators=(",", ":"), default=str)
        values = (identity, document.text, source, _storable(document.url), _storable(metadata))
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)
        size = len(document.text.encode("utf-8"))
        self._held_bytes += size
        if self._held_bytes >= _ROW_GROUP_BYTES:
            self._flush()
        return size

    def _flush(self) -> None:
        if self._columns["id"]:
            with room_for(self._path):
                self._writer.write_table(pa.table(dict(self._columns), schema=DOCUMENTS))
        self._columns = {name: [] for name in DOCUMENTS.names}
        self._held_bytes = 0


def _storable(text: str) -> str:
    """Escape what UTF-8 cannot represent: file names may contain arbitrary bytes, and metadata lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _set_aside(fault: Fault, source: str, file: IO[str]) -> None:
    record: dict[str, Any] = {"source": source, "path": _storable(fault.path)}
    if fault.line is not None:
        record["line"] = fault.line
    if fault.from_byte:
        record["from_byte"] = fault.from_byte
    if fault.row is not None:
        record["row"] = fault.row
    record |= {"reason": fault.reason, "detail": _storable(fault.detail), "excerpt": _storable(fault.excerpt)}
    file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _report(manifest: Manifest, run: RunDirectory, stage: Stage) -> None:
    """Report what was set aside, with the first damaged files, and refuse a source without any document."""
    records = stage.records()
    for source in manifest.sources:
        names = [shard.name for shard in manifest.shards if shard.source == source.name]
        total: Counter[str] = Counter()
        for name in names:
            total.update(records[name].counts)
        reasons = {
            key.removeprefix("quarantine:"): total[key] for key in sorted(total) if key.startswith("quarantine:")
        }
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        skipped = ", ".join(
            f"{total[key]:,} {key.removeprefix(PASSED_OVER)}" for key in sorted(total) if key.startswith(PASSED_OVER)
        )
        changed = ", ".join(
            f"{total[key]:,} by {key.removeprefix('changed:')}" for key in sorted(total) if key.startswith("changed:")
        )
        if changed:
            print(f"source {source.name}: conversations changed by cleaning: {changed}")
        if skipped:
            print(f"source {source.name}: no documents, and passed over: {skipped}")
        if names and not total["documents"]:
            first = next(quarantined(run, names), None)
            example = f"; the first: {place_of(first)}: {first['detail']}" if first else ""
            raise ValueError(
                f"source {source.name}: none of its {total['quarantined']} documents can be used ({listed or skipped})"
                f"{example}. "
                f"Is kind {source.kind!r} right for its files? Records of what was read are in {run.quarantine}"
            )
        if reasons:
            print(f"source {source.name}: {total['documents']:,} documents; set aside in {run.quarantine}: {listed}")
        if reasons.get("damaged_file"):
            damaged = (record for record in quarantined(run, names) if record["reason"] == "damaged_file")
            for record, _ in zip(damaged, range(_SHOWN_FAULTS), strict=False):
                print(f"  DAMAGED {place_of(record)}: {record['detail']}", file=sys.stderr)


def quarantined(run: RunDirectory, shards: tuple[str, ...] | list[str]) -> Iterator[dict[str, Any]]:
    """Yield the records of what was set aside, in the order of the shards."""
    for name in shards:
        with contextlib.suppress(FileNotFoundError), open(run.quarantine / f"{name}.jsonl", encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def place_of(record: dict[str, Any]) -> str:
    """Format a place as `file:line`, `file row 3` or `file`; far into a large file, lines are counted from a byte."""
    if "from_byte" in record:
        return f"{record['path']} line {record['line']} from byte {record['from_byte'] + 1}"
    if "line" in record:
        return f"{record['path']}:{record['line']}"
    return f"{record['path']} row {record['row']}" if "row" in record else str(record["path"])
