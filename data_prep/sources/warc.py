"""Web archives (`.warc`, `.warc.gz`, `.warc.zst`): the main text of each page, and text that was extracted before.

Documents are the `response` records with status 200 and a type of HTML or plain text, and `conversion` records of plain
text (Common Crawl's WET files). Other records are not documents: they are counted by type.

Source of the format: ISO 28500:2017 (WARC 1.1), section 5; for zstd, with or without a dictionary in the first frame:
IIPC, Zstandard Compression for WARC Files 1.0.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from data_prep.sources.compression import ByteStream, DamagedFileError, suffix_of
from data_prep.sources.content_codings import CodingError, undo_codings
from data_prep.sources.html import Extract, extract_blocks, extract_with, main_text
from data_prep.sources.packed_ranges import divide_packed
from data_prep.sources.ranges import FileRange, at_places
from data_prep.sources.reading import Document, Fault, Reader, excerpt_of, usable
from data_prep.sources.storage import open_input
from data_prep.sources.warc_records import LONGEST_HEADER, MAGIC, BadRecord, Record, headers_of, read_records
from data_prep.sources.web_encodings import decode_page

_HTML = ("text/html", "application/xhtml+xml")
_PLAIN = "text/plain"
_STATUS = re.compile(rb"HTTP/\d(?:\.\d)?\s+(\d{3})")
_END_OF_HEADER = re.compile(rb"\r?\n\r?\n")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s\"';,]+)", re.IGNORECASE)
_TYPES = ("application", "audio", "font", "image", "message", "model", "multipart", "text", "video")
_KINDS = ("warcinfo", "resource", "request", "metadata", "revisit", "conversion", "continuation")


def _accepts(path: str) -> bool:
    return path.lower().endswith((".warc", ".warc.gz", ".warc.zst"))


def _divide(path: str, size: int, shard_bytes: int) -> list[FileRange]:
    if suffix_of(path):
        return list(_at_records(divide_packed(path, size, shard_bytes, of_lines=False)))
    return at_places(path, size, shard_bytes, _starts(path, size))


def _at_records(ranges: list[FileRange]) -> Iterator[FileRange]:
    """Divide a file into ranges that begin at a record: one record may be many frames or members."""
    whole = ranges[0]
    for piece in ranges[1:]:
        if _begins_record(piece):
            yield whole
            whole = piece
        else:
            whole = replace(whole, end=piece.end)
    yield whole


def _begins_record(piece: FileRange) -> bool:
    with ByteStream(piece.path, piece.start, piece.end) as stream:
        try:
            return stream.read(len(MAGIC)) == MAGIC
        except DamagedFileError:
            return True  # the reader of the range reports it


def _starts(path: str, size: int) -> Iterator[int]:
    """Yield where the records of an uncompressed file start, by their lengths, up to the first wrong one."""
    start = 0
    with open_input(path) as file:
        while start < size:
            file.seek(start)
            if not file.readline(LONGEST_HEADER).startswith(MAGIC):
                return
            yield start
            length = None
            while (line := file.readline(LONGEST_HEADER)).strip():
                name, _, value = line.partition(b":")
                if length is None and name.strip().lower() == b"content-length" and value.strip().isdigit():
                    length = int(value)
            if length is None:
                return
            start = file.tell() + length + len(b"\r\n\r\n")


class _PassedOver(Exception):
    """A record is not a document, such as a picture."""


def read(
    piece: FileRange, maximum_document_bytes: int, extract: Extract = extract_blocks
) -> Generator[Document | Fault, None, Counter[str]]:
    """Yield the documents of the records that start in a range.

    Returns:
        The number of other records by type.
    """
    passed_over: Counter[str] = Counter()
    # limit of a record in memory: a page of the largest size, its header, and a byte to detect larger ones
    for record in read_records(piece, maximum_document_bytes + LONGEST_HEADER + 1):
        if isinstance(record, BadRecord):
            yield Fault(record.reason, record.detail, _place(piece, record.number))
        else:
            try:
                yield _document(record, piece, maximum_document_bytes, extract)
            except _PassedOver as error:
                passed_over[str(error)] += 1
    return passed_over


def _document(record: Record, piece: FileRange, maximum_bytes: int, extract: Extract) -> Document | Fault:
    headers = record.headers
    url = headers.get("warc-target-uri", "").strip("<>") or _place(piece, record.number)
    content = b""

    def fault(reason: str, detail: str) -> Fault:
        return Fault(reason, detail, f"{_place(piece, record.number)} ({url})", excerpt=excerpt_of(content))

    type_line, codings, content = _page(record)
    if not type_line:
        return fault("no_content_type", "a response without a Content-Type; whether it is a page is not guessed")
    kind = re.split(r"[;,\s]", type_line, maxsplit=1)[0].lower()
    if kind not in (*_HTML, _PLAIN):
        top = kind.partition("/")[0]
        raise _PassedOver(f"content type {top}" if top in _TYPES else "other content type")
    try:
        content = undo_codings(content, codings, maximum_bytes, "warc-truncated" in headers)
    except CodingError as error:
        return fault(error.reason, str(error))
    if record.is_longer or len(content) > maximum_bytes:
        return fault("too_large", f"more than maximum_document_bytes = {maximum_bytes:,} bytes")
    charset = _CHARSET.search(type_line)
    text = _text(content, kind, charset[1] if charset else None, fault, extract)
    if isinstance(text, Fault):
        return text
    metadata = {
        "warc_id": headers.get("warc-record-id"),
        "date": headers.get("warc-date"),
        "language": headers.get("warc-identified-content-language"),
    }
    return usable(text, url, {key: value for key, value in metadata.items() if value}, fault, maximum_bytes)


def _text(
    content: bytes, kind: str, charset: str | None, fault: Callable[[str, str], Fault], extract: Extract
) -> str | Fault:
    if kind in _HTML:
        text = main_text(content, charset, extract)
        if text is None:
            return fault("undecodable", "its bytes are no text in the encoding that it declares or looks like")
        return text
    text = decode_page(content, charset, is_html=False)
    if text is None:
        what = f"neither {charset}, which it declares, nor UTF-8" if charset else "not UTF-8, and it declares no other"
        return fault("undecodable" if charset else "invalid_utf8", f"its bytes are {what}")
    if "\0" in text:
        return fault("binary", f"a NUL at character {text.index(chr(0))}")
    return text


def _page(record: Record) -> tuple[str, str, bytes]:
    """Return Content-Type, content codings and content of a record that may be a document.

    Raises:
        _PassedOver: it is not a document.
    """
    kind = record.headers.get("warc-type", "").lower()
    if kind == "conversion":
        type_line = record.headers.get("content-type", "")
        if not type_line.lower().startswith(_PLAIN):
            raise _PassedOver("conversion record of another type")
        return type_line, "", record.content
    if kind != "response":
        raise _PassedOver(f"{kind if kind in _KINDS else 'other'} record")
    status = _STATUS.match(record.content)
    if status is None:
        raise _PassedOver("response that is not of HTTP")
    if status[1] != b"200":
        raise _PassedOver(f"status {status[1][:1].decode()}xx")
    end = _END_OF_HEADER.search(record.content, 0, LONGEST_HEADER)
    headers = headers_of(record.content[: end.end() if end else None])
    content = record.content[end.end() :] if end else b""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        content = _without_chunks(content)
    return headers.get("content-type", ""), headers.get("content-encoding", ""), content


def _without_chunks(content: bytes) -> bytes:
    """Join a body that was sent in chunks (RFC 9112, section 7.1); return any other as it is."""
    parts: list[bytes] = []
    place = 0
    while place < len(content):
        end = content.find(b"\n", place, place + 1000)
        size = content[place:end].partition(b";")[0].strip() if end >= 0 else b""
        try:
            length = int(size, 16)
        except ValueError:
            return content if not parts else b"".join([*parts, content[place:]])
        if length == 0:
            break
        parts.append(content[end + 1 : end + 1 + length])
        place = end + 1 + length
        if content[place : place + 2] == b"\r\n":
            place += 2
        elif content[place : place + 1] == b"\n":
            place += 1
    return b"".join(parts)


def _place(piece: FileRange, number: int) -> str:
    start = f" from byte {piece.start:,}" if piece.start else ""
    return f"{piece.path}{start} record {number}"


def reader_with(options: Mapping[str, Any]) -> Reader:
    """Return the reader of a source with these settings."""
    return Reader(_accepts, partial(read, extract=extract_with(**options)), _divide)


READER = Reader(_accepts, read, _divide)
