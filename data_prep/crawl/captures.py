"""Captures: lines of an index, each of which says where in which archive a page is; and which of them are fetched."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_prep.crawl.config import CrawlConfig
from data_prep.domains import registered_domain, smallest_by_domain
from data_prep.languages import UnknownLanguageError, canonical, is_one_of
from data_prep.rules.urls import PAGES_PER_DOMAIN, list_rules, reason_against
from data_prep.signals.urls import UrlLists, host_of

TYPES = ("text/html", "application/xhtml+xml", "text/plain")
"""Types that are fetched: those that the kind `warc` reads."""
_NO_PAGES = ("/robotstxt/", "/crawldiagnostics/")
"""Folders of the archives with other captures than pages."""

CAPTURES = pa.schema(
    [
        pa.field("url", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("status", pa.int64()),
        pa.field("type", pa.string()),
        pa.field("languages", pa.string()),
        pa.field("digest", pa.string()),
    ]
)
"""Columns of what an index says of some captures."""
_JSON_NAMES = {
    "url": ("url",),
    "file": ("filename",),
    "offset": ("offset",),
    "length": ("length",),
    "status": ("status",),
    "type": ("mime-detected", "mime"),
    "languages": ("languages",),
    "digest": ("digest",),
}
_TABLE_NAMES = {
    "url": ("url",),
    "file": ("warc_filename",),
    "offset": ("warc_record_offset",),
    "length": ("warc_record_length",),
    "status": ("fetch_status",),
    "type": ("content_mime_detected", "content_mime_type"),
    "languages": ("content_languages",),
    "digest": ("content_digest",),
}
_CDX_LETTERS = {"a": "url", "m": "mime", "s": "status", "k": "digest", "S": "length", "V": "offset", "g": "filename"}
"""Letters of the fields of a classic index, whose first line names them (archive.org, CDX File Format)."""
_LONGEST_RECORD = 1 << 30


@dataclass(frozen=True)
class Capture:
    """A line of an index; what it does not say is None."""

    url: str
    file: str
    offset: int
    length: int
    status: int | None = None
    type: str | None = None
    languages: str | None = None
    digest: str | None = None


class BadLineError(ValueError):
    """A line of an index does not say where a capture is."""


class LineParser:
    """Parser of the lines of an index: JSON objects, alone or after key and time (CDXJ), or fields that the first line
    names (CDX)."""

    def __init__(self) -> None:
        self._letters: list[str] | None = None

    def parse(self, line: str) -> Capture | None:
        """Return the capture of a line; None: an empty line, or one that names the fields.

        Raises:
            BadLineError: see above.
        """
        line = line.strip("\r\n")
        if not line.strip():
            return None
        if line.startswith(" CDX "):
            self._letters = line.split()[1:]
            return None
        begin = line.find("{")
        if begin >= 0 and self._letters is None:
            try:
                values = json.loads(line[begin:])
            except ValueError as error:
                raise BadLineError(f"no JSON: {error}") from None
        elif self._letters is not None:
            fields = line.split()
            if len(fields) != len(self._letters):
                raise BadLineError(f"{len(fields)} fields instead of {len(self._letters)}")
            named = zip(self._letters, fields, strict=True)
            values = {_CDX_LETTERS[letter]: value for letter, value in named if letter in _CDX_LETTERS and value != "-"}
        else:
            raise BadLineError("neither JSON nor fields that a first line ` CDX …` names")
        return capture_of(values, _JSON_NAMES)


def capture_of(values: Any, names: dict[str, tuple[str, ...]] = _TABLE_NAMES) -> Capture:
    """Return the capture that some named values describe.

    Raises:
        BadLineError: one of address, file, offset and length is missing or wrong.
    """
    if not isinstance(values, dict):
        raise BadLineError("no JSON object")
    found = {
        name: next((values[key] for key in keys if values.get(key) is not None), None) for name, keys in names.items()
    }
    url, file = found["url"], found["file"]
    if not (isinstance(url, str) and url and isinstance(file, str) and file):
        missing = "url" if not (isinstance(url, str) and url) else "file"
        raise BadLineError(f"no {names[missing][0]}")
    offset, length = _number(found["offset"]), _number(found["length"])
    if offset is None or length is None or not 0 < length <= _LONGEST_RECORD:
        wrong = "offset" if offset is None else "length"
        raise BadLineError(f"{names[wrong][0]} is {str(found[wrong])[:40]!r}")
    texts = {name: None if found[name] is None else str(found[name]) for name in ("type", "languages", "digest")}
    return Capture(url, file.lstrip("/"), offset, length, _number(found["status"]), **texts)


def _number(value: Any) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def select(captures: Iterable[Capture], config: CrawlConfig) -> tuple[list[Capture], Counter[str]]:
    """Choose the captures to fetch, each place once.

    Returns:
        The captures in the order of their places, and the number of others by reason, in the order of the checks.
    """
    left_out: Counter[str] = Counter()
    lists = UrlLists(config.urls) if config.urls.has_lists else None
    rules = list_rules(config.urls)
    places: dict[tuple[str, int], Capture] = {}
    contents: set[tuple[str, str]] = set()
    for capture in captures:
        reason = _reason_against(capture, config)
        if reason is None and lists is not None:
            reason = reason_against(lists.match(capture.url), rules)
        if reason is None and (capture.file, capture.offset) in places:
            reason = "named_twice"
        if reason is None and capture.digest and (capture.url, capture.digest) in contents:
            reason = "same_page_and_content"  # of another snapshot
        if reason is not None:
            left_out[reason] += 1
            continue
        if capture.digest:
            contents.add((capture.url, capture.digest))
        places[capture.file, capture.offset] = capture
    chosen = [places[place] for place in sorted(places)]
    if config.urls.pages_per_domain is not None:
        domains = [registered_domain(host_of(capture.url) or "") for capture in chosen]
        rows = smallest_by_domain(
            domains, [capture.url for capture in chosen], config.urls.pages_per_domain, config.seed
        )
        left_out[PAGES_PER_DOMAIN] = len(chosen) - len(rows)
        chosen = [chosen[row] for row in rows]
    return chosen, +left_out


def _reason_against(capture: Capture, config: CrawlConfig) -> str | None:
    if any(folder in capture.file for folder in _NO_PAGES):
        return "no_page"
    if capture.status is not None and capture.status != 200:
        return f"status_{capture.status}"
    if capture.type is not None and capture.type.partition(";")[0].strip().lower() not in TYPES:
        return "other_type"
    if config.languages:
        if not capture.languages:
            return "no_language"
        try:
            if not is_one_of(canonical(capture.languages.split(",")[0]), config.languages):
                return "other_language"
        except UnknownLanguageError:
            return "other_language"
    return None


def as_table(captures: Iterable[Capture]) -> pa.Table:
    """Return captures as rows, see `CAPTURES`."""
    rows = list(captures)
    return pa.table({name: [getattr(row, name) for row in rows] for name in CAPTURES.names}, schema=CAPTURES)


def from_table(table: pa.Table) -> Iterator[Capture]:
    """Yield the captures of some rows."""
    for batch in table.to_batches(max_chunksize=10_000):
        yield from (Capture(*row.values()) for row in batch.to_pylist())
