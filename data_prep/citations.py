"""Web addresses that the articles of a wiki cite as references, from its dump: LLaMA's classifier prefers such pages.

Those inside of `<ref>` count, in templates for citations (`url=`) and as links, in articles of any language. Copies in
archives and pages of Wikimedia's own wikis do not. Source: Touvron et al. 2023, arXiv:2302.13971, section 2.1, "pages
used as references in Wikipedia".
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import xxhash

from data_prep.config import DataConfig
from data_prep.sources.compression import DamagedFileError
from data_prep.sources.lines import read_lines
from data_prep.sources.ranges import FileRange
from data_prep.sources.wikipedia import END_OF_PAGE, PAGE, READER, PassedOverError, last_revision
from foundation.atomic_files import whole_file
from foundation.progress import Progress

Keys = npt.NDArray[np.uint64]
"""Hashes of addresses, sorted."""

_RANGE_BYTES = 16_000_000
_TWICE = "addresses: cited before"
_LONGEST_LINE = 1 << 20
_HIDDEN = re.compile(r"<!--.*?(?:-->|\Z)|<nowiki>.*?(?:</nowiki>|\Z)", re.DOTALL | re.IGNORECASE)
_REFERENCE_TAG = re.compile(r"<(/?)ref\b([^<>]*)>", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:\bhttps?://|(?<=\[)//)[^\s\[\]<>\"|{}]+", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|\w+);")
_AFTER_A_LINK = ",.;:!?'"
"""Characters that end a sentence rather than an address that is not in brackets, as in MediaWiki's links."""

_ARCHIVES = (
    "archive.org", "archive.today", "archive.is", "archive.ph", "archive.li", "archive.vn", "archive.fo", "archive.md",
    "archive-it.org", "webarchive.org.uk", "webcitation.org", "ghostarchive.org", "perma.cc",
    "webcache.googleusercontent.com",
)  # fmt: skip
_WIKIS = (
    "wikipedia.org", "wikimedia.org", "wikidata.org", "wiktionary.org", "wikisource.org", "wikibooks.org",
    "wikinews.org", "wikiquote.org", "wikiversity.org", "wikivoyage.org", "mediawiki.org", "toolforge.org",
    "wmflabs.org",
)  # fmt: skip


@dataclass
class Citations:
    """What some articles cite.

    Attributes:
        counts: articles, and by reason other pages and addresses that are left out.
        addresses: by their keys, each once.
    """

    counts: Counter[str] = field(default_factory=Counter)
    addresses: dict[str, str] = field(default_factory=dict)


def address_key(url: str) -> str:
    """Return host without `www.`, path without a final slash, and query of a web address; empty for anything else.

    So http and https, and what follows #, make no difference.
    """
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").removeprefix("www.").rstrip(".")
    except ValueError:  # such as half a bracket
        return ""
    if parts.scheme.lower() not in ("http", "https") or "." not in host:
        return ""
    return f"{host}{parts.path.rstrip('/')}{'?' + parts.query if parts.query else ''}"


def cited_addresses(wikitext: str) -> Iterator[str]:
    """Yield the addresses inside of the references of an article, as they are written there."""
    text = _HIDDEN.sub("", wikitext)
    start: int | None = None
    for tag in _REFERENCE_TAG.finditer(text):
        is_end, attributes = tag[1], tag[2]
        if not is_end:
            start = None if attributes.endswith("/") else tag.end()
            continue
        if start is not None:
            for found in _ADDRESS.finditer(text, start, tag.start()):
                yield _without_rest(found[0])
        start = None


def _without_rest(found: str) -> str:
    """Remove what follows an address in wikitext: the mark of italics, and punctuation."""
    address = _ENTITY.sub(lambda entity: html.unescape(entity[0]), found.split("''")[0])
    address = address.rstrip(_AFTER_A_LINK if "(" in address else f"{_AFTER_A_LINK})")
    return f"https:{address}" if address.startswith("//") else address


def reason_against(key: str) -> str | None:
    """Return why an address is no page that may be in a crawl; None: it may be."""
    if not key:
        return "addresses: not of the web"
    host = key.partition("/")[0].partition("?")[0]
    for reason, domains in (("in archives", _ARCHIVES), ("of wikis", _WIKIS)):
        if any(host == domain or host.endswith(f".{domain}") for domain in domains):
            return f"addresses: {reason}"
    return None


def read_citations(piece: FileRange) -> Citations:
    """Read the articles of a range of a dump."""
    cited = Citations()
    limit = DataConfig.model_fields["maximum_document_bytes"].default
    try:
        for record in read_lines(piece, limit, END_OF_PAGE):
            if record.content is None:
                cited.counts["pages: too_large"] += 1
                continue
            start = record.content.find(PAGE)
            if record.is_cut or start < 0:
                continue
            try:
                revision = last_revision(ElementTree.fromstring(record.content[start:] + END_OF_PAGE))
            except ElementTree.ParseError:
                cited.counts["pages: invalid_xml"] += 1
                continue
            except PassedOverError as error:
                cited.counts[f"pages: {error}"] += 1
                continue
            cited.counts["articles"] += 1
            if revision is not None:
                _add(cited, revision.findtext("text") or "")
    except DamagedFileError:
        cited.counts["pages: damaged_file"] += 1
    return cited


def _add(cited: Citations, wikitext: str) -> None:
    for address in cited_addresses(wikitext):
        key = address_key(address)
        reason = reason_against(key)
        if reason is None and key in cited.addresses:
            reason = _TWICE
        if reason is not None:
            cited.counts[reason] += 1
        else:
            cited.addresses[key] = address


def is_dump(path: Path) -> bool:
    """Return whether a file is a dump, by its name; otherwise it is a list of addresses."""
    return READER.accepts(str(path))


def list_citations(dump: Path, listed: Path, workers: int) -> tuple[Keys, Counter[str]]:
    """Write the addresses that a dump cites, each once, one a line; return their keys, and what was counted.

    Args:
        workers: number of processes; the list is the same for any.

    Raises:
        ValueError: no article cites an address.
    """
    size = dump.stat().st_size
    ranges = READER.divide(str(dump), size, _RANGE_BYTES)
    counts: Counter[str] = Counter()
    keys: Keys = np.empty(0, np.uint64)
    with (
        Progress("train-quality: read citations", size, "bytes") as progress,
        whole_file(listed) as partial_file,
        open(partial_file, "w", encoding="utf-8") as file,
        _mapping(ranges, workers) as map_ranges,
    ):
        for piece, cited in zip(ranges, map_ranges(read_citations, ranges), strict=True):
            counts.update(cited.counts)
            hashes = hashed(cited.addresses)
            places = np.searchsorted(keys, hashes)
            is_new = keys[np.minimum(places, len(keys) - 1)] != hashes if len(keys) else np.ones(len(hashes), np.bool_)
            counts[_TWICE] += int((~is_new).sum())
            file.writelines(
                f"{address}\n" for address, new in zip(cited.addresses.values(), is_new.tolist(), strict=True) if new
            )
            keys = np.sort(np.concatenate([keys, np.sort(hashes[is_new])]), kind="stable")  # merges two sorted parts
            progress.advance(piece.end - piece.start if not piece.unpacked_start else 0)
        counts["addresses"] = len(keys)
        if not len(keys):
            raise ValueError(f"{dump}: none of its {counts['articles']:,} articles cites an address inside of <ref>")
    return keys, +counts


@contextmanager
def _mapping(ranges: Sequence[FileRange], workers: int) -> Iterator[Callable[..., Iterator[Citations]]]:
    """Yield `map`, or that of several processes if they can read the ranges independently of each other."""
    if workers == 1 or len(ranges) == 1 or any(piece.is_part_of_packed for piece in ranges):
        yield map
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield partial(pool.map, chunksize=1)


def read_list(path: Path) -> Keys:
    """Return the keys of a list of addresses, one a line, which may be compressed.

    Raises:
        ValueError: a line is no web address, or there is none.
    """
    size = path.stat().st_size
    keys = []
    for line in read_lines(FileRange(str(path), 0, size, size), _LONGEST_LINE):
        address = (line.content or b"").decode("utf-8", "replace").strip()
        if not address:
            continue
        key = address_key(address)
        if not key:
            raise ValueError(f"{path}:{line.number}: {address[:80]!r} is no web address, such as https://example.com/a")
        keys.append(key)
    if not keys:
        raise ValueError(f"{path}: has no address; one per line")
    found: Keys = np.unique(hashed(keys))
    return found


def hashed(keys: Sequence[str] | dict[str, str]) -> Keys:
    """Return a hash of each key."""
    return np.array([xxhash.xxh3_64_intdigest(key.encode("utf-8", "replace")) for key in keys], np.uint64)


def is_cited(keys: Keys, url: str) -> bool:
    """Return whether an address is among those with the keys."""
    key = address_key(url)
    if not key:
        return False
    wanted = hashed([key])[0]
    place = int(np.searchsorted(keys, wanted))
    return place < len(keys) and bool(keys[place] == wanted)
