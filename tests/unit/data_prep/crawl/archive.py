"""A small archive in Common Crawl's layout, and a server of it with faults on demand."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.signals.urls import keys_of
from tests.unit.data_prep.sources.object_server import Answer, ObjectServer

SNAPSHOT = "CC-MAIN-2024-10"
WARC = f"crawl-data/{SNAPSHOT}/segments/1/warc/CC-MAIN-20240220-{{:05d}}.warc.gz"
ROBOTS = f"crawl-data/{SNAPSHOT}/segments/1/robotstxt/CC-MAIN-20240220-00000.warc.gz"
INDEXES = f"cc-index/collections/{SNAPSHOT}/indexes"
LINES_PER_BLOCK = 3
LINES_PER_PAGE = 5


def key_of(url: str) -> str:
    """The sort key of an address, as far as these tests need it."""
    parts = urlsplit(url)
    host = (parts.hostname or "").removeprefix("www.")
    port = f":{parts.port}" if parts.port else ""
    query = f"?{parts.query}" if parts.query else ""
    return f"{','.join(reversed(host.split('.')))}{port}){parts.path.lower()}{query}"


def record(url: str, text: str) -> bytes:
    """One response of HTML as a gzip member."""
    page = f"<html><body><article><p>{text}</p></article></body></html>".encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
    return gzip.compress(
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: %s\r\nWARC-Record-ID: <urn:uuid:%d>\r\n"
        b"Content-Type: application/http; msgtype=response\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n"
        % (url.encode(), abs(hash(text)) % 10**9, len(head + page), head + page),
        mtime=0,
    )


class Archive(ObjectServer):
    """The archive, and its server.

    Attributes:
        lines: of the index, each (sort key, time, values), sorted.
        change: called with the number of each request for content, the request and the faultless answer; returns the
            answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str, dict[str, Any]]] = []
        self.change: Callable[[int, BaseHTTPRequestHandler, Answer], Answer] = lambda number, request, answer: answer
        self.asked: list[tuple[str, str]] = []
        self._warcs: dict[str, bytearray] = {}

    def add(self, url: str, text: str = "", warc: int = 0, file: str | None = None, **values: Any) -> None:
        """Add a page to a web archive and to the index."""
        name = file or WARC.format(warc)
        member = record(url, text or f"The page at {url} has one sentence that is long enough to be kept. " * 4)
        content = self._warcs.setdefault(name, bytearray())
        about = {
            "url": url,
            "mime": "text/html",
            "mime-detected": "text/html",
            "status": "200",
            "digest": f"D{abs(hash(member))}",
            "length": str(len(member)),
            "offset": str(len(content)),
            "languages": "eng",
            "filename": name,
        }
        content += member
        self.lines.append((key_of(url), "20240220000000", {**about, **values}))

    def finish(self) -> None:
        """Put web archives and files of the index where the server finds them."""
        self.lines.sort(key=lambda line: (line[0], line[1]))
        self.files |= {name: bytes(content) for name, content in self._warcs.items()}
        blocks, cluster = bytearray(), []
        for start in range(0, len(self.lines), LINES_PER_BLOCK):
            some = self.lines[start : start + LINES_PER_BLOCK]
            block = gzip.compress("".join(map(self.as_cdxj, some)).encode(), mtime=0)
            cluster.append(
                f"{some[0][0]} {some[0][1]}\tcdx-00000.gz\t{len(blocks)}\t{len(block)}\t{len(cluster) + 1}\n"
            )
            blocks += block
        self.files[f"{INDEXES}/cdx-00000.gz"] = bytes(blocks)
        self.files[f"{INDEXES}/cluster.idx"] = "".join(cluster).encode()
        paths = "".join(f"{name}\n" for name in self._warcs if "/warc/" in name)
        self.files[f"crawl-data/{SNAPSHOT}/warc.paths.gz"] = gzip.compress(paths.encode())

    @staticmethod
    def as_cdxj(line: tuple[str, str, dict[str, Any]]) -> str:
        return f"{line[0]} {line[1]} {json.dumps(line[2])}\n"

    def as_json(self) -> bytes:
        return "".join(
            json.dumps({"urlkey": key, "timestamp": time, **v}) + "\n" for key, time, v in self.lines
        ).encode()

    def as_cdx(self) -> bytes:
        names = {
            "N": None,
            "b": None,
            "a": "url",
            "m": "mime",
            "s": "status",
            "k": "digest",
            "S": "length",
            "V": "offset",
        }
        out = [f" CDX {' '.join([*names, 'g'])}"]
        for key, time, values in self.lines:
            out.append(" ".join([key, time, *(values[n] for n in names.values() if n), values["filename"]]))
        return "\n".join(out).encode() + b"\n"

    def as_table(self) -> bytes:
        values = [(key, value) for key, _, value in self.lines]
        table = pa.table(
            {
                "url_surtkey": [key for key, _ in values],
                "url": [value["url"] for _, value in values],
                "fetch_status": pa.array([int(value["status"]) for _, value in values], pa.int16()),
                "content_digest": [value["digest"] for _, value in values],
                "content_mime_type": [value["mime"] for _, value in values],
                "content_mime_detected": [value["mime-detected"] for _, value in values],
                "content_languages": [value.get("languages") for _, value in values],
                "warc_filename": [value["filename"] for _, value in values],
                "warc_record_offset": pa.array([int(value["offset"]) for _, value in values], pa.int32()),
                "warc_record_length": pa.array([int(value["length"]) for _, value in values], pa.int32()),
            }
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer, row_group_size=6)
        return buffer.getvalue()

    def answer(self, request: BaseHTTPRequestHandler) -> Answer:
        parts = urlsplit(request.path)
        with self.lock:
            number = len(self.asked)
            self.asked.append((parts.path, request.headers.get("Range", "")))
        answer = self._asked(parse_qs(parts.query)) if parts.path == f"/{SNAPSHOT}-index" else super().answer(request)
        return self.change(number, request, answer)

    def _asked(self, query: dict[str, list[str]]) -> Answer:
        """An answer of the index server."""
        entry, kind = query["url"][0], query["matchType"][0]
        prefix = key_of(f"http://{entry}")

        def matches(key: str, url: str) -> bool:
            if kind == "prefix":
                return key.startswith(prefix)
            return entry.encode() in keys_of(url)

        found = [line for line in self.lines if matches(line[0], line[2]["url"])]
        if not found:
            return 404, {}, b'{"message": "No Captures found for: %s"}' % entry.encode()
        if "showNumPages" in query:
            pages = -(-len(found) // LINES_PER_PAGE)
            return 200, {}, json.dumps({"pages": pages, "pageSize": 5, "blocks": pages}).encode()
        start = int(query["page"][0]) * LINES_PER_PAGE
        some = found[start : start + LINES_PER_PAGE]
        lines = (json.dumps({"urlkey": key, "timestamp": time, **values}) + "\n" for key, time, values in some)
        return 200, {}, "".join(lines).encode()
