"""Records of a web archive, with recovery after a damaged one.

A record is as long as its Content-Length, and is followed by another one or the end. Otherwise its length is wrong. If
it is wrong by a few bytes only, as some crawlers count, the record is accepted; else it is set aside, and reading
continues at the next member, frame or line that begins with `WARC/`.

Source: ISO 28500:2017 (WARC 1.1), section 5 and annex A.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from data_prep.sources.compression import ByteStream, DamagedFileError, suffix_of
from data_prep.sources.ranges import FileRange
from data_prep.sources.storage import open_input, size_of

MAGIC = b"WARC/"
LONGEST_HEADER = 1 << 16
_VERSION_LINE = re.compile(rb"\n(?=WARC/[01]\.\d{1,2}\r?\n)")
_LONGEST_VERSION_LINE = 12
_END_OF_HEADER = re.compile(rb"\r?\n\r?\n")
_LINE_ENDS = b"\r\n\r\n"
_NEARLY = len(_LINE_ENDS)
"""Tolerated error of a length: that of the two line ends after a record, which it may include."""
_DROPPED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Record:
    """A record, truncated to a limit."""

    number: int
    """Number counted from 0 at the start of the range."""
    headers: Mapping[str, str]
    """Headers by lower-case name."""
    content: bytes
    is_longer: bool
    """The record has more content than is kept here."""


@dataclass(frozen=True)
class BadRecord:
    """A record to be set aside, or the rest of the file."""

    number: int
    reason: str
    """Either `damaged_record`, after which reading continues, or `damaged_file`."""
    detail: str


def read_records(piece: FileRange, held_bytes: int) -> Iterator[Record | BadRecord]:
    """Yield the records that start in a range, in order; at most `held_bytes` of each are kept in memory."""
    with ByteStream(piece.path, piece.start, piece.end) as stream:
        yield from _Records(stream, piece, held_bytes).read()


class _Records:
    def __init__(self, stream: ByteStream, piece: FileRange, held_bytes: int) -> None:
        self._stream, self._piece, self._held_bytes = stream, piece, held_bytes
        self._is_packed = bool(suffix_of(piece.path))
        self._buffer = bytearray()
        self._dropped = 0  # decompressed bytes before the buffer
        self._position = 0  # position in the buffer of the next bytes
        self._begins: deque[int] = deque()  # positions in the buffer where a member or frame begins with a record
        self._edges: set[int] = set()  # decompressed positions where members and frames begin
        self._is_ended = False
        self._damage: DamagedFileError | None = None
        self._is_last_damaged = False  # the damage is in the member or frame of the last bytes in the buffer
        self._last_piece = -1
        self._number = -1

    def read(self) -> Iterator[Record | BadRecord]:
        while self._skip_line_ends() or self._damage is not None:
            if self._position >= len(self._buffer):
                yield from self._behind_damage(str(self._damage))
                continue
            self._number += 1
            yield from self._one()

    # -- buffer

    def _more(self) -> bool:
        """Read another block into the buffer; return whether there was one."""
        if self._is_ended:
            return False
        try:
            block, is_first = self._stream.next_block()
        except DamagedFileError as error:
            self._damage, block, is_first = error, b"", False
            self._is_last_damaged = self._stream.piece_start == self._last_piece
        if not block:
            self._is_ended = True
            return False
        self._last_piece = self._stream.piece_start
        if is_first and self._is_packed:
            self._edges.add(self._dropped + len(self._buffer))
            if block.startswith(MAGIC):
                self._begins.append(len(self._buffer))
        self._buffer += block
        return True

    def _has(self, stop: int, begin: int | None = None) -> bool:
        """Read up to `stop`, but not past the start of a record after `begin`; return whether that was possible."""
        while len(self._buffer) < stop:
            if (begin is not None and self._next_begin(begin) is not None) or not self._more():
                return False
        return begin is None or (self._next_begin(begin) or stop) >= stop

    def _next_begin(self, behind: int) -> int | None:
        while self._begins and self._begins[0] <= behind:
            self._begins.popleft()
        return self._begins[0] if self._begins else None

    def _go_to(self, position: int) -> None:
        self._position = position
        if position > _DROPPED_AT_ONCE and position > len(self._buffer) // 2:
            del self._buffer[:position]
            self._begins = deque(begin - position for begin in self._begins if begin >= position)
            self._dropped += position
            self._edges = {edge for edge in self._edges if edge >= self._dropped}
            self._position = 0

    def _skip_line_ends(self) -> bool:
        """Return whether anything but line ends is left."""
        while self._has(self._position + 1):
            if self._buffer[self._position] not in b"\r\n":
                return True
            self._position += 1
        return False

    # -- one record

    def _one(self) -> Iterator[Record | BadRecord]:
        start = self._position
        end_of_header = self._end_of_header(start)
        if end_of_header is None:
            what = "its header does not end" if self._buffer.startswith(MAGIC, start) else "no record starts here"
            yield from self._go_on(start, what)
            return
        headers = headers_of(bytes(self._buffer[start:end_of_header]))
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            yield from self._go_on(end_of_header, f"its Content-Length is {length[:40]!r}, not a number of bytes")
            return
        yield from self._with_content(headers, start, end_of_header, int(length[:18]))

    def _end_of_header(self, start: int) -> int | None:
        """Return where the content begins; None if there is no header."""
        searched = start
        self._has(start + len(MAGIC))
        if not self._buffer.startswith(MAGIC, start):
            return None
        while True:
            found = _END_OF_HEADER.search(self._buffer, searched, start + LONGEST_HEADER)
            if found:
                return found.end()
            searched = max(start, len(self._buffer) - 3)
            if len(self._buffer) >= start + LONGEST_HEADER or not self._has(len(self._buffer) + 1, start):
                return None

    def _with_content(
        self, headers: Mapping[str, str], begin: int, start: int, length: int
    ) -> Iterator[Record | BadRecord]:
        message = f"its Content-Length is {length:,}"
        if length > self._held_bytes:
            yield from self._long(headers, begin, start, length)
            return
        is_whole = self._has(start + length, begin)
        if is_whole:
            place = self._behind_line_ends(start + length)
            if place is not None:
                has_wrong_checksum = self._is_last_damaged and "ends inside" not in str(self._damage)
                if has_wrong_checksum and place >= len(self._buffer):
                    self._go_to(place)  # reported with the damage of the file
                    return
                yield Record(self._number, headers, bytes(self._buffer[start : start + length]), False)
                self._go_to(place)
                return
        next_start = self._next_record(start, begin)
        if next_start is not None:
            stop = next_start
            while stop > start and stop > next_start - _NEARLY and self._buffer[stop - 1] in b"\r\n":
                stop -= 1
            if abs(stop - start - length) <= _NEARLY:
                yield Record(self._number, headers, bytes(self._buffer[start:stop]), False)
            else:
                detail = f"{message}, and the next record begins after {next_start - start:,} bytes"
                yield BadRecord(self._number, "damaged_record", detail)
            self._go_to(next_start)
            return
        found = len(self._buffer) - start
        yield from self._without_next(f"{message}, and the file ends after {found:,}")

    def _long(self, headers: Mapping[str, str], begin: int, start: int, length: int) -> Iterator[Record | BadRecord]:
        """Read a record larger than the limit."""
        message = f"its Content-Length is {length:,}"
        if not self._is_packed and not self._follows(self._piece.start + self._dropped + start + length):
            yield from self._go_on(start, f"{message}, and no record follows")
            return
        self._has(start + self._held_bytes, begin)
        content = bytes(self._buffer[start : start + self._held_bytes])
        left = length
        while left and (next_begin := self._next_begin(begin)) is None:
            step = min(left, len(self._buffer) - start)
            left -= step
            if left:
                del self._buffer[start : start + step]
                self._dropped += step
                if not self._more():
                    break
            else:
                start += step
        next_begin = self._next_begin(begin)
        if next_begin is not None and (left or next_begin < start):
            yield BadRecord(self._number, "damaged_record", f"{message}, and the next record begins before that")
            self._go_to(next_begin)
        elif left:
            # skipped bytes are lost; the buffer may contain records
            self._buffer[start:] = content
            yield from self._go_on(start, f"{message}, and the file ends before that")
        else:
            yield Record(self._number, headers, content, True)
            self._go_to(start)

    def _follows(self, place: int) -> bool:
        """Return whether a record, or the end, is at a byte of an uncompressed file."""
        size = min(self._piece.end, size_of(self._piece.path))
        if place > size:
            return False
        with open_input(self._piece.path) as file:
            file.seek(place)
            behind = file.read(min(size - place, 16)).lstrip(b"\r\n")
        return not behind or behind.startswith(MAGIC)

    def _behind_line_ends(self, place: int) -> int | None:
        """Return where the next record, member or frame begins, or the end, if only line ends are before it; or else
        the position after the two line ends of a record."""
        self._has(place + len(_LINE_ENDS) + 1)  # one more byte, which triggers the check of this record's checksum
        if self._buffer.startswith(_LINE_ENDS, place):
            return place + len(_LINE_ENDS)
        while self._has(place + 1):
            if self._dropped + place in self._edges:
                return place
            if self._buffer[place] not in b"\r\n":
                self._has(place + len(MAGIC))
                return place if self._buffer.startswith(MAGIC, place) else None
            place += 1
        return place

    # -- recovery

    def _go_on(self, start: int, why: str) -> Iterator[BadRecord]:
        next_start = self._next_record(start, self._position)
        if next_start is None:
            yield from self._without_next(why)
            return
        yield BadRecord(self._number, "damaged_record", f"{why}; reading continues at the next record")
        self._go_to(next_start)

    def _next_record(self, start: int, begin: int) -> int | None:
        """Find a member, frame or line that begins a record after `start`; the buffer before it may be discarded."""
        searched = max(start - 1, begin)
        while True:
            found = _VERSION_LINE.search(self._buffer, searched)
            next_begin = self._next_begin(begin)
            places = [found.end() if found else None, next_begin]
            if found or next_begin is not None:
                return min(place for place in places if place is not None)
            searched = max(searched, len(self._buffer) - _LONGEST_VERSION_LINE)
            if len(self._buffer) - start > self._held_bytes + LONGEST_HEADER:
                return self._far_record(begin)
            if not self._more():
                return None

    def _far_record(self, begin: int) -> int | None:
        """The same, if the bytes before it do not fit in the buffer."""
        while True:
            found = _VERSION_LINE.search(self._buffer, begin)
            next_begin = self._next_begin(begin)
            if found or next_begin is not None:
                return min(place for place in (found.end() if found else None, next_begin) if place is not None)
            step = max(0, len(self._buffer) - _LONGEST_VERSION_LINE - begin)
            del self._buffer[begin : begin + step]
            self._dropped += step
            if not self._more():
                return None

    def _without_next(self, why: str) -> Iterator[BadRecord]:
        yield from self._behind_damage(f"{self._damage}: {why}" if self._damage is not None else why)

    def _behind_damage(self, why: str) -> Iterator[BadRecord]:
        """Continue at the next member or frame that begins a record, if there is one."""
        is_found = self._damage is not None and self._stream.resume(MAGIC)
        detail = f"{why}; " + ("reading continues at the next record" if is_found else "what comes before is read")
        yield BadRecord(max(self._number, 0), "damaged_record" if is_found else "damaged_file", detail)
        self._buffer, self._position, self._damage = bytearray(), 0, None
        self._begins.clear()
        self._edges.clear()
        self._is_last_damaged = False
        self._is_ended = not is_found


def headers_of(content: bytes) -> dict[str, str]:
    """Return header lines by lower-case name, the first of each; lines that begin with a space continue the previous
    one."""
    headers: dict[str, str] = {}
    name = ""
    for line in content.decode("utf-8", "replace").splitlines()[1:]:
        if line[:1] in (" ", "\t") and name:
            headers[name] += " " + line.strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            headers.setdefault(name, value.strip())
    return headers
