"""Lines shared by many documents: menus, notices, templates.

A line is compared as CCNet does (Wenzek et al. 2020, arXiv:1911.00359, section 3.1; cc_net/text_normalizer.py): without
white space at its ends, in lower case, each digit as 0, without punctuation and symbols; a line that becomes empty is
never a repeat. Only kept documents are compared; otherwise a removed copy would cost a document its lines. With the
scope `site`, lines are equal only within one site: the host of the document's address, or its source if it has no web
address; lines that ten pages of a site share are its template.

Texts are read twice: 64-bit hashes are spread, and repeats are found in each range of them; then the repeated lines are
located in the texts, with one byte of memory for each line of a bundle.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from data_prep.dedup.evidence import document_id
from data_prep.dedup.left import left_texts
from data_prep.dedup.records import LINES, REPEATS
from data_prep.dedup.work import Unit, Work
from data_prep.kernels.characters import SPACE, WORD, character_flags, decode, lower_case
from data_prep.kernels.kernel import Bytes, Hashes, Places, Points, kernel, read_only
from data_prep.run.shuffle import Grouped, Records, grouped, hash_bounds

LINE_COLUMNS = pa.schema([("id", pa.string()), ("start", pa.int64()), ("end", pa.int64())])
"""Columns of the byte ranges of removed lines, in the order of the corpus."""


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


def site_of(url: str, source: str) -> str:
    """Return the site of a document: the host of its web address without `www.`, else its source."""
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:  # such as an unclosed [
        host = None
    return host.removeprefix("www.") if host else f"source {source}"


def spread_lines(unit: Unit) -> None:
    """Spread the hashes of the lines of the kept documents of a bundle."""
    with unit.spread("lines", LINES, hash_bounds(unit.work.plan.line_ranges)) as spread:
        before = 0
        for line_set in _of_bundle(unit):
            hashes = line_set.hashes
            numbers = np.arange(before, before + len(hashes), dtype=np.int64)
            before += len(hashes)
            is_line = hashes != 0
            keys = hashes[is_line] ^ line_set.site
            spread.add(keys, np.full(len(keys), line_set.document), numbers[is_line])


def find_repeats(unit: Unit) -> None:
    """Spread the lines to be cut, of a range of hashes."""
    work, settings = unit.work, unit.work.config.dedup
    blocks = work.collect([("lines", work.plan.bundle_count)], LINES, work.plan.line_ranges, unit.number)
    keeps_first = settings.lines == "keep_first"
    with unit.spread_by_bundle("repeats", REPEATS) as repeats:
        for lines in repeated(
            grouped(blocks, ("key",), work.most_in_group(LINES)), settings.line_documents, keeps_first
        ):
            repeats.add(lines["document"], lines["line"])


def repeated(blocks: Iterable[Grouped], minimum: int, keeps_first: bool) -> Iterator[Records]:
    """Yield the lines to be removed.

    Args:
        blocks: records of `LINES` by key, in the order of the corpus.
        minimum: number of documents that must contain a line; repeats within one document count once.
        keeps_first: keep the line in the first of these documents.
    """
    first, documents, last = np.int64(-1), 0, np.int64(-1)
    """Of the last line: first document, number of documents, and last one."""
    waiting: list[Records] = []
    """Pieces of the last line, of which there are not enough documents yet."""
    for block in blocks:
        owners = block.records["document"]
        firsts = owners[block.starts[:-1]]
        is_new = np.ones(len(owners), dtype=bool)
        is_new[1:] = owners[1:] != owners[:-1]
        is_new[block.starts[:-1]] = True
        if block.continues:
            firsts[0], is_new[0] = first, owners[0] != last
        else:
            waiting, documents = [], 0
        counts = np.add.reduceat(is_new, block.starts[:-1], dtype=np.int64)
        counts[0] += documents
        goes = np.repeat(counts >= minimum, block.sizes)
        if keeps_first:
            goes &= owners != np.repeat(firsts, block.sizes)
        if counts[0] >= minimum:
            for piece in waiting:
                yield piece[piece["document"] != first] if keeps_first else piece
            waiting = []
        yield block.records[goes]
        first, documents, last = firsts[-1], int(counts[-1]), owners[-1]
        if len(counts) > 1:
            waiting = []
        if block.is_open and documents < minimum:
            waiting.append(block.records[block.starts[-2] :])


def cut_lines(unit: Unit) -> None:
    """Write the ranges of removed lines of the documents of a bundle, a row group for each shard."""
    work, bundle = unit.work, unit.number
    goes = marked(work, "repeats", work.plan.line_ranges, bundle)
    before, written = 0, 0
    with (
        unit.output_file(work.part("lines", bundle)) as path,
        pq.ParquetWriter(path, LINE_COLUMNS, compression="zstd") as file,
    ):
        for shard, documents in itertools.groupby(_of_bundle(unit), key=lambda lines: lines.shard):
            ids: list[str] = []
            ranges: list[npt.NDArray[np.int64]] = []
            for lines in documents:
                cut = np.zeros(len(lines.hashes), dtype=bool)
                known = goes[before : before + len(cut)]
                cut[: len(known)] = known
                before += len(cut)
                if not cut.any():
                    continue
                if not (~cut & (lines.hashes != 0)).any():  # if no other line is left, blank ones are removed too
                    cut |= True
                ids += [document_id(shard, lines.row)] * int(cut.sum())
                ranges.append(np.stack((lines.starts[cut], lines.stops[cut]), axis=1))
            if ids:
                table = np.concatenate(ranges)
                file.write_table(pa.table({"id": ids, "start": table[:, 0], "end": table[:, 1]}, schema=LINE_COLUMNS))
                written += len(ids)
    unit.counts["lines"] = written


def marked(work: Work, kind: str, ranges: int, bundle: int) -> npt.NDArray[np.bool_]:
    """Return which lines (or spans) of a bundle are in `REPEATS`; those after the last one that is are left out.

    Args:
        kind: of the runs; ranges: number of the units that have spread them.
    """
    goes = np.zeros(0, dtype=bool)
    for records in work.by_bundle([(kind, ranges)], REPEATS, bundle):
        more = max(int(records["line"].max()) + 1 - len(goes), 0)
        goes = np.concatenate((goes, np.zeros(more, dtype=bool)))
        goes[records["line"]] = True
    return goes


@dataclass(frozen=True)
class _Lines:
    """Lines of a kept document.

    Attributes:
        site: hash of its site; 0 if lines are compared in the whole corpus.
        hashes, starts, stops: see `hash_lines`.
    """

    shard: str
    document: int
    row: int
    site: np.uint64
    hashes: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]


def _of_bundle(unit: Unit) -> Iterator[_Lines]:
    """Yield the lines of each document of a bundle that is left."""
    is_by_site = unit.work.config.dedup.line_scope == "site"
    for left in left_texts(unit.work, unit.number):
        data = np.frombuffer(left.text, dtype=np.uint8)
        site = xxhash.xxh3_64_intdigest(site_of(left.url, left.shard.source).encode()) if is_by_site else 0
        yield _Lines(left.shard.name, left.document, left.row, np.uint64(site), *hash_lines(data, 0, len(data)))
