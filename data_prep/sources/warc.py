"""Web archives (`.warc`, `.warc.gz`, `.warc.zst`): the main text of each page, and text that was extracted before.

Documents are the `response` records with status 200 and a type of HTML or plain text, and `conversion` records of plain
text (Common Crawl's WET files). Other records are no documents.

Source of the format: ISO 28500:2017 (WARC 1.1), section 5; packed by zstd, with a dictionary in the first frame or
without one: IIPC, Zstandard Compression for WARC Files 1.0.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from data_prep.sources.compression import (
    ByteStream,
    DamagedFileError,
    suffix_of,
)
from data_prep.sources.html import main_text
from data_prep.sources.packed_ranges import divide_packed
from data_prep.sources.ranges import FileRange, at_places
from data_prep.sources.reading import Document, Fault, Reader, decode, excerpt_of, usable

_HTML = ("text/html", "application/xhtml+xml")
_MAGIC = b"WARC/"
_LONGEST_HEADER = 1 << 16
_BLOCK_BYTES = 1 << 16


def _accepts(path: str) -> bool:
    return path.lower().endswith((".warc", ".warc.gz", ".warc.zst"))


def _divide(path: str, size: int, shard_bytes: int) -> list[FileRange]:
    if suffix_of(path):
        return list(_at_records(divide_packed(path, size, shard_bytes, of_lines=False)))
    starts: list[int] = []
    try:
        for start, _ in _records(path, 0, size):
            starts.append(start)
    except DamagedFileError:
        pass  # whoever reads the last range meets the damage and reports it
    return at_places(path, size, shard_bytes, starts)


def _at_records(ranges: list[FileRange]) -> Iterator[FileRange]:
    """The ranges, each with those behind it that begin inside of a record: one may be many frames or members."""
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
            return stream.read(len(_MAGIC)) == _MAGIC
        except DamagedFileError:
            return True  # whoever reads it reports it


def _records(path: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where the records of bytes [start, end) of a file that is not packed start and end, by their lengths.

    Raises:
        DamagedFileError: a record ends early or is none, after those before it.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        while start < end:
            file.seek(start)
            if not file.readline(_LONGEST_HEADER).startswith(_MAGIC):
                raise DamagedFileError(f"no record starts at byte {start:,}")
            length = None
            while (line := file.readline(_LONGEST_HEADER)).strip():
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length" and value.strip().isdigit():
                    length = int(value)
            after = file.tell() + (length or 0) + len(b"\r\n\r\n")
            if length is None or after > min(end, size):
                raise DamagedFileError(f"the record that starts at byte {start:,} is not whole")
            yield start, after
            start = after


class _Stream:
    """As much of a file as warcio asks of one."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)


def read(piece: FileRange, maximum_document_bytes: int) -> Iterator[Document | Fault]:
    """Documents of the records that start in a range."""
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    number, end = -1, piece.end
    damage: Exception | None = None
    if not suffix_of(piece.path):  # warcio takes a header that is cut off for a whole one
        end, damage = _whole(piece)
    with ByteStream(piece.path, piece.start, end) as stream:
        try:
            for record in ArchiveIterator(_Stream(stream)) if end > piece.start else ():
                number += 1
                result = _document(record, piece, number, maximum_document_bytes)
                while record.raw_stream.read(_BLOCK_BYTES):
                    pass
                if getattr(record.raw_stream, "limit", 1) > 0:  # or it does not say how long it is
                    raise DamagedFileError(f"record {number} is not whole")
                if result is not None:
                    yield result
        # the last one: what warcio meets in a response that does not say of what
        except (DamagedFileError, ArchiveLoadFailed, EOFError, AttributeError) as error:
            damage = error
    if damage is not None:
        detail = f"{str(damage).strip() or 'damaged web archive'}; what comes before is read"
        yield Fault("damaged_file", detail, _place(piece, max(number, 0)))


def _whole(piece: FileRange) -> tuple[int, DamagedFileError | None]:
    """Where the whole records of a range end, and what is behind them."""
    end = piece.start
    try:
        for _, after in _records(piece.path, piece.start, piece.end):
            end = after
    except DamagedFileError as error:
        return end, error
    return end, None


def _document(record: Any, piece: FileRange, number: int, maximum_bytes: int) -> Document | Fault | None:
    headers = record.rec_headers
    url = headers.get_header("WARC-Target-URI") or _place(piece, number)
    kind = _content_type(record)
    if kind is None:
        return None
    content = b""

    def fault(reason: str, detail: str) -> Fault:
        return Fault(reason, detail, f"{_place(piece, number)} ({url})", excerpt=excerpt_of(content))

    # of what is unpacked too: a page of a few kilobytes may unpack to gigabytes
    content = record.content_stream().read(maximum_bytes + 1)
    if len(content) > maximum_bytes:
        return fault("too_large", f"more than maximum_document_bytes = {maximum_bytes:,} bytes")
    name, _, parameters = kind.partition(";")
    charset = parameters.lower().partition("charset=")[2].split(";")[0].strip(" \"'") or None
    if name in _HTML:
        text: str | Fault | None = main_text(content, charset)
        if text is None:
            return fault("undecodable", "its bytes are no text in the encoding that it declares or looks like")
    else:
        text = decode(content, f"{_place(piece, number)} ({url})")
    if isinstance(text, Fault):
        return text
    metadata = {
        "warc_id": headers.get_header("WARC-Record-ID"),
        "date": headers.get_header("WARC-Date"),
        "language": headers.get_header("WARC-Identified-Content-Language"),
    }
    return usable(text or "", url, {key: value for key, value in metadata.items() if value}, fault, maximum_bytes)


def _content_type(record: Any) -> str | None:
    """The type of a record that is a document, with its parameters; None for others."""
    if record.rec_type == "conversion":
        kind = record.rec_headers.get_header("Content-Type") or ""
        return kind if kind.lower().startswith("text/plain") else None
    if record.rec_type != "response" or record.http_headers is None:
        return None
    if record.http_headers.get_statuscode() != "200":
        return None
    kind = (record.http_headers.get_header("Content-Type") or "").strip().lower()
    return kind if kind.split(";")[0].strip() in (*_HTML, "text/plain") else None


def _place(piece: FileRange, number: int) -> str:
    start = f" from byte {piece.start:,}" if piece.start else ""
    return f"{piece.path}{start} record {number}"


READER = Reader(_accepts, read, _divide)
