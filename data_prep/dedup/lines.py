"""Lines shared by many documents: menus, notices, templates.

A line is compared as CCNet does (Wenzek et al. 2020, arXiv:1911.00359, section 3.1; cc_net/text_normalizer.py): without
white space at its ends, in lower case, each digit as 0, without punctuation and symbols; a line that becomes empty is
never a repeat. Only kept documents are compared; otherwise a removed copy would cost a document its lines. With the
scope `site`, lines are equal only within one site: the host of the document's address, or its source if it has no web
address; lines that ten pages of a site share are its template.

Texts are read twice: 64-bit hashes are written to the parts of a file, in which repeats are found part by part; then
the repeated lines are located in the texts. A memory-mapped file has one byte for each line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from data_prep.config import DedupConfig
from data_prep.dedup.evidence import document_id
from data_prep.dedup.spill import Spill, mapped_zeros, part_of, parts_for
from data_prep.dedup.texts import read_texts
from data_prep.kernels.characters import SPACE, WORD, character_flags, decode, lower_case
from data_prep.kernels.kernel import Bytes, Hashes, Places, Points, kernel, read_only
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import Shard
from foundation.atomic_files import whole_file
from foundation.progress import Progress

LINES = pa.schema([("id", pa.string()), ("start", pa.int64()), ("end", pa.int64())])
"""Columns of the byte ranges of removed lines, in the order of the corpus."""
LINE_FIELDS = (("key", "<u8"), ("line", "<i8"), ("document", "<i8"))
"""Fields of a record: hash of a line, its number among all lines, and its document."""
_BYTES_PER_LINE = 40
"""Estimated bytes of a line; affects the number of parts only."""


@kernel
def _hash_lines(
    data: Bytes,
    begin: int,
    end: int,
    flags: Bytes,
    lower: Points,
    hashes: Hashes,
    starts: Places,
    stops: Places,
) -> int:
    lines = 0
    start = begin
    while start < end:
        value = np.uint64(0xCBF29CE484222325)
        pending, is_empty = False, True
        i = start
        while i < end and data[i] != 0x0A:
            if data[i] < 0x80:
                point = np.int64(data[i])
                i += 1
            else:
                point, size = decode(data, i, end)
                i += size
            flag = flags[point] if point < flags.shape[0] else np.uint8(0)
            if flag & SPACE:
                pending = not is_empty
                continue
            if not flag & WORD:
                continue
            if pending:  # white space in a row is one blank
                value = (value ^ np.uint64(0x20)) * np.uint64(0x00000100000001B3)
                pending = False
            folded = np.uint64(lower[point]) if point < lower.shape[0] else np.uint64(point)
            if 0x30 <= point <= 0x39:
                folded = np.uint64(0x30)
            value = (value ^ folded) * np.uint64(0x00000100000001B3)
            is_empty = False
        value ^= value >> np.uint64(32)
        value *= np.uint64(0xD6E8FEB86659FD93)
        value ^= value >> np.uint64(32)
        hashes[lines] = np.uint64(0) if is_empty else value | np.uint64(1)
        starts[lines] = start - begin
        stops[lines] = min(i + 1, end) - begin
        lines += 1
        start = i + 1
    return lines


def hash_lines(
    data: npt.NDArray[np.uint8], start: int, stop: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the hash of each line of the text at bytes [start, stop), 0 for an empty one, and where it starts and
    ends."""
    most = int(np.count_nonzero(data[start:stop] == 0x0A)) + 1
    hashes = np.empty(most, dtype=np.uint64)
    starts, stops = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    lines = _hash_lines(read_only(data), start, stop, character_flags(), lower_case(), hashes, starts, stops)
    return hashes[:lines], starts[:lines], stops[:lines]


def mark_repeats(spill: Spill, goes: npt.NDArray[np.uint8], minimum: int, keeps_first: bool) -> None:
    """Set `goes` to 1 for each line to be removed.

    Args:
        spill: records of `LINE_FIELDS` in the order of the corpus, equal keys in one part.
        minimum: number of documents that must contain a line; repeats within one document count once.
        keeps_first: keep the line in the first of these documents.
    """
    for records in spill.read():
        records = records[np.argsort(records["key"], kind="stable")]  # equal ones in the order of the corpus
        values, owners = records["key"], records["document"]
        begins = np.ones(len(records), dtype=bool)
        begins[1:] = values[1:] != values[:-1]
        run = np.cumsum(begins) - 1
        is_new_document = begins.copy()
        is_new_document[1:] |= owners[1:] != owners[:-1]
        documents = np.bincount(run, weights=is_new_document)
        repeated = documents[run] >= minimum
        if keeps_first:
            repeated &= owners != owners[begins][run]
        goes[records["line"][repeated]] = 1


def site_of(url: str, source: str) -> str:
    """Return the site of a document: the host of its web address without `www.`, else its source."""
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:  # such as an unclosed [
        host = None
    return host.removeprefix("www.") if host else f"source {source}"


def write_line_cuts(
    path: Path,
    settings: DedupConfig,
    run: RunDirectory,
    shards: Sequence[Shard],
    shard_bounds: npt.NDArray[np.int64],
    stays: Callable[[int, int], npt.NDArray[np.bool_]],
    scratch: Path,
) -> int:
    """Write the ranges of removed lines of kept documents; return their number.

    Args:
        shard_bounds: documents of shard s are [shard_bounds[s], shard_bounds[s + 1]).
        stays: returns which of the documents [start, stop) are kept.
        scratch: folder for temporary files.
    """
    text_bytes = sum(shard.raw_bytes for shard in shards)
    record_bytes = np.dtype(list(LINE_FIELDS)).itemsize
    parts = parts_for(text_bytes // _BYTES_PER_LINE, record_bytes, settings.memory_bytes)
    spill = Spill(scratch, "lines", LINE_FIELDS, parts, settings.memory_bytes)
    total = 0
    with Progress("dedup: hash lines", len(shards), "shards") as progress:
        for s, shard in enumerate(shards):
            for document, _, site, hashes, _, _ in _lines(settings, run, shard, shard_bounds[s : s + 2], stays):
                numbers = np.arange(total, total + len(hashes), dtype=np.int64)
                total += len(hashes)
                is_line = hashes != 0
                keys = hashes[is_line] ^ site
                spill.add(part_of(keys, parts), keys, numbers[is_line], np.full(len(keys), document))
            progress.advance()
    goes = mapped_zeros(scratch / "repeated_lines", np.uint8, total)
    mark_repeats(spill, goes, settings.line_documents, settings.lines == "keep_first")
    written, seen = 0, 0
    with (
        whole_file(path) as partial_file,
        pq.ParquetWriter(partial_file, LINES, compression="zstd") as file,
        Progress("dedup: cut lines", len(shards), "shards") as progress,
    ):
        for s, shard in enumerate(shards):
            ids: list[str] = []
            ranges: list[npt.NDArray[np.int64]] = []
            for _, row, _, hashes, starts, stops in _lines(settings, run, shard, shard_bounds[s : s + 2], stays):
                cut = goes[seen : seen + len(hashes)] == 1
                seen += len(hashes)
                if not cut.any():
                    continue
                if not (~cut & (hashes != 0)).any():  # if no other line is left, blank ones are removed too
                    cut |= True
                ids += [document_id(shard.name, row)] * int(cut.sum())
                ranges.append(np.stack((starts[cut], stops[cut]), axis=1))
            if ids:
                table = np.concatenate(ranges)
                file.write_table(pa.table({"id": ids, "start": table[:, 0], "end": table[:, 1]}, schema=LINES))
                written += len(ids)
            progress.advance()
    return written


def _lines(
    settings: DedupConfig,
    run: RunDirectory,
    shard: Shard,
    bounds: npt.NDArray[np.int64],
    stays: Callable[[int, int], npt.NDArray[np.bool_]],
) -> Iterator[tuple[int, int, np.uint64, npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield number, row, hash of the site and lines of each kept document of a shard."""
    start, stop = bounds.tolist()
    rows = np.flatnonzero(stays(start, stop))
    for row, (text, url) in zip(rows.tolist(), read_texts(run, shard, rows), strict=True):
        data = np.frombuffer(text, dtype=np.uint8)
        site = 0 if settings.line_scope == "corpus" else xxhash.xxh3_64_intdigest(site_of(url, shard.source).encode())
        yield start + row, row, np.uint64(site), *hash_lines(data, 0, len(data))
