"""Look-ups: the captures of sites in an index.

Three forms of an index are read. A server of Common Crawl answers questions in pages of JSON lines. The same index is
in files that are sorted by address: `cluster.idx` says where each block of about 3,000 lines begins (the ZipNum format
of pywb, https://github.com/webrecorder/pywb), so that a few blocks are fetched for each site. And files of your own:
lines of these kinds, or rows of Common Crawl's table in Parquet.
"""

from __future__ import annotations

import glob
import json
import mmap
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlencode

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.crawl.captures import BadLineError, Capture, LineParser, capture_of
from data_prep.crawl.config import CrawlConfig
from data_prep.crawl.download import download
from data_prep.crawl.polite_client import CrawlError, NotThereError, PoliteClient
from data_prep.signals.urls import entry_of, keys_of, list_files
from data_prep.sources.compression import DamagedFileError
from data_prep.sources.lines import read_lines
from data_prep.sources.ranges import FileRange
from data_prep.sources.storage import open_input, scheme_of, size_of

_BLOCKS_PER_LOOKUP = 200
_LONGEST_LINE = 1 << 20
_INDEX_FOLDER = "cc-index/collections/{}/indexes"
_TABLE_COLUMNS = ("url", "warc_filename", "warc_record_offset", "warc_record_length")
_MORE_COLUMNS = ("fetch_status", "content_mime_detected", "content_mime_type", "content_languages", "content_digest")
_KEY_COLUMN = "url_surtkey"

Found = Capture | BadLineError


@dataclass(frozen=True)
class Lookup:
    """A part of the index that is read at a time.

    Attributes:
        read: yields the captures of the sites, and lines that cannot be used.
    """

    name: str
    read: Callable[[], Iterator[Found]]


class Sites:
    """Domains and addresses whose pages are wanted.

    Raises:
        ValueError: a list cannot be read, an entry is wrong, or there is none.
    """

    def __init__(self, config: CrawlConfig) -> None:
        entries: set[bytes] = set()
        for _, path, setting in list_files(config.sites, "sites", ()):
            found = {
                entry for line in path.read_bytes().splitlines() if (entry := _checked(line, f"{setting}: {path}"))
            }
            if not found:
                raise ValueError(f"{setting}: {path}: has no entry; one domain or address per line")
            entries |= found
        entries |= {_checked(domain.encode(), "domains") for domain in config.domains} - {b""}
        if config.domains and not entries:
            raise ValueError("domains: has no entry")
        self.entries = tuple(sorted(entries))
        self._wanted = frozenset(entries)

    def has(self, url: str) -> bool:
        """Return whether a page is wanted; all are if no site is named."""
        return not self._wanted or not self._wanted.isdisjoint(keys_of(url))


def _checked(line: bytes, where: str) -> bytes:
    entry = entry_of(line)
    if len(entry.split()) > 1:
        raise ValueError(f"{where}: {line[:80].decode('utf-8', 'backslashreplace')!r} is no domain and no address")
    return entry


def lookups(config: CrawlConfig, sites: Sites, client: PoliteClient, folder: Path) -> list[Lookup]:
    """Return the look-ups of a crawl, in an order that depends on the settings alone.

    Args:
        folder: where files of the index are kept.

    Raises:
        ValueError: a file of the index cannot be used.
        CrawlError: the server of the index cannot be reached.
    """
    if isinstance(config.index, tuple):
        paths = [path for pattern in config.index for path in _paths_of(pattern)]
        return [Lookup(path, partial(_read_own, path, sites)) for path in paths]
    if config.index == "server":
        return [
            Lookup(f"{snapshot} {entry.decode()}", partial(_ask_server, config, client, snapshot, entry))
            for snapshot in config.snapshots
            for entry in sites.entries
        ]
    found = []
    for snapshot in config.snapshots:
        base = f"{config.data_address}/{_INDEX_FOLDER.format(snapshot)}"
        path = folder / f"{snapshot}-cluster.idx"
        try:
            download(client, f"{base}/cluster.idx", path)
        except NotThereError as error:
            raise CrawlError(f"snapshots: {snapshot}: {error}; is this the name of a snapshot?") from None
        blocks = _blocks_of(path, sites.entries)
        for start in range(0, len(blocks), _BLOCKS_PER_LOOKUP):
            some = blocks[start : start + _BLOCKS_PER_LOOKUP]
            name = f"{snapshot} blocks {some[0].number:,} to {some[-1].number:,}"
            found.append(Lookup(name, partial(_read_blocks, client, base, some, sites)))
    return found


# -- the server


def _ask_server(config: CrawlConfig, client: PoliteClient, snapshot: str, entry: bytes) -> Iterator[Found]:
    kind = "prefix" if b"/" in entry else "domain"
    query = urlencode({"url": entry.decode("utf-8", "replace"), "matchType": kind, "output": "json"})
    address = f"{config.index_address}/{quote(snapshot)}-index?{query}"
    try:
        told = client.get(f"{address}&showNumPages=true")
    except NotThereError as error:
        if b"no captures" in error.told.lower():
            return
        raise CrawlError(f"snapshots: {snapshot}: {error}; is this the name of a snapshot?") from None
    try:
        pages = int(json.loads(told)["pages"])
    except (ValueError, KeyError, TypeError):
        raise CrawlError(f"{address}&showNumPages=true: {told[:80]!r} does not name a number of pages") from None
    for page in range(pages):
        try:
            lines = client.get(f"{address}&page={page}").decode("utf-8", "replace").splitlines()
        except NotThereError:
            continue
        parser = LineParser()
        for line in lines:
            if line.startswith('{"message"'):
                continue
            found = _parsed(parser, line)
            if isinstance(found, BadLineError) or (found is not None and entry in keys_of(found.url)):
                yield found


def _parsed(parser: LineParser, line: str) -> Found | None:
    try:
        return parser.parse(line)
    except BadLineError as error:
        return error


# -- files of the index


@dataclass(frozen=True)
class _Block:
    number: int
    file: str
    offset: int
    length: int


def key_ranges(entry: bytes) -> list[tuple[bytes, bytes]]:
    """Return the ranges of sort keys that pages of a domain or address have: `com,example)/blog` for
    `example.com/blog`."""
    host, slash, rest = entry.partition(b"/")
    name = b",".join(reversed(host.split(b".")))
    if slash:
        key = name + b")/" + rest.partition(b"?")[0]
        return [(key, key + b"\xff"), (name + b":", name + b";")]
    # domain; hosts in it; ports. A hyphen sorts between the first two.
    return [(name + b")", name + b"*"), (name + b",", name + b"-"), (name + b":", name + b";")]


def _blocks_of(path: Path, entries: Sequence[bytes]) -> list[_Block]:
    """Return the blocks that may have lines of some entries, in order."""
    if not path.stat().st_size:
        raise ValueError(f"{path}: empty; remove it, and run again")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        starts = {
            start for entry in entries for low, high in key_ranges(entry) for start in _lines_of(content, low, high)
        }
        return [_block_at(content, start, number, path) for number, start in enumerate(sorted(starts))]


def _lines_of(content: mmap.mmap, low: bytes, high: bytes) -> Iterator[int]:
    """Yield where the lines of blocks begin that may have keys in [low, high): from the last block that begins before
    `low`."""
    left, right = 0, len(content)
    while left < right:  # lines that begin in [0, left) have smaller keys, those at `right` and later have not
        middle = content.rfind(b"\n", 0, (left + right) // 2) + 1
        if middle < left:
            middle = left
        stop = content.find(b"\n", middle)
        stop = len(content) if stop < 0 else stop + 1
        if content[middle:stop] < low:
            left = stop
        else:
            right = middle
    place = content.rfind(b"\n", 0, max(left - 1, 0)) + 1
    while place < len(content):
        stop = content.find(b"\n", place)
        stop = len(content) if stop < 0 else stop + 1
        if content[place:stop] >= high:
            return
        yield place
        place = stop


def _block_at(content: mmap.mmap, start: int, number: int, path: Path) -> _Block:
    stop = content.find(b"\n", start)
    line = content[start : stop if stop >= 0 else len(content)]
    fields = line.decode("utf-8", "replace").split("\t")
    try:
        return _Block(number, fields[1], int(fields[2]), int(fields[3]))
    except (IndexError, ValueError):
        raise ValueError(
            f"{path}: byte {start}: {line[:80]!r} is no line of a cluster.idx; remove the file, and run again"
        ) from None


def _read_blocks(client: PoliteClient, base: str, blocks: Sequence[_Block], sites: Sites) -> Iterator[Found]:
    for block in blocks:
        address = f"{base}/{block.file}"
        content, _, _ = client.get_range(address, block.offset, block.offset + block.length)
        try:
            lines = zlib.decompress(content, 31).decode("utf-8", "replace").splitlines()
        except zlib.error as error:
            yield BadLineError(f"{address}: the block at byte {block.offset:,} is damaged: {error}")
            continue
        yield from _of_sites(lines, sites)


def _of_sites(lines: Iterable[str], sites: Sites) -> Iterator[Found]:
    parser = LineParser()
    for line in lines:
        found = _parsed(parser, line)
        if isinstance(found, BadLineError) or (found is not None and sites.has(found.url)):
            yield found


# -- files of your own


def _paths_of(pattern: str) -> list[str]:
    if scheme_of(pattern) is not None:
        return [pattern]
    resolved = os.path.expanduser(pattern)
    found = sorted(path for path in glob.glob(resolved, recursive=True) if os.path.isfile(path))
    if os.path.isdir(resolved):
        found = sorted(str(path) for path in Path(resolved).rglob("*") if path.is_file())
    if not found:
        raise ValueError(f"index: {pattern}: no such file")
    return found


def _read_own(path: str, sites: Sites) -> Iterator[Found]:
    if path.lower().endswith((".parquet", ".pq")):
        yield from _read_table(path, sites)
        return
    size = size_of(path)
    try:
        lines = (line.content for line in read_lines(FileRange(path, 0, size, size), _LONGEST_LINE))
        yield from _of_sites((line.decode("utf-8", "replace") for line in lines if line is not None), sites)
    except DamagedFileError as error:
        raise ValueError(f"index: {path}: damaged ({error}); an index must be whole") from None


def _read_table(path: str, sites: Sites) -> Iterator[Found]:
    """Yield the captures of a table; of its row groups, only those are read that may have pages of the sites."""
    try:
        with open_input(path) as raw, pq.ParquetFile(raw) as file:
            names = file.schema_arrow.names
            missing = [name for name in _TABLE_COLUMNS if name not in names]
            if missing:
                raise ValueError(
                    f"index: {path}: no column {', '.join(missing)}; it must have those of Common Crawl's table: "
                    f"{', '.join(_TABLE_COLUMNS)}"
                )
            columns = [name for name in (*_TABLE_COLUMNS, *_MORE_COLUMNS) if name in names]
            ranges = [bounds for entry in sites.entries for bounds in key_ranges(entry)]
            groups = [
                group for group in range(file.num_row_groups) if _may_have(file.metadata.row_group(group), ranges)
            ]
            for batch in file.iter_batches(10_000, row_groups=groups, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    try:
                        capture = capture_of(row)
                    except BadLineError as error:
                        yield error
                        continue
                    if sites.has(capture.url):
                        yield capture
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"index: {path}: cannot be read ({error})") from None


def _may_have(group: pq.RowGroupMetaData, ranges: Sequence[tuple[bytes, bytes]]) -> bool:
    """Return whether a row group may have a key in one of the ranges, by its statistics."""
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema == _KEY_COLUMN and column.is_stats_set and column.statistics.has_min_max and ranges:
            least, largest = (str(value).encode() for value in (column.statistics.min, column.statistics.max))
            return any(low <= largest and least < high for low, high in ranges)
    return True
