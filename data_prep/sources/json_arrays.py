"""Elements of a JSON array, one at a time: a file of any size takes the memory of its largest element."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from data_prep.sources.compression import ByteStream, DamagedFileError
from data_prep.sources.lines import Line
from data_prep.sources.reading import EXCERPT_CHARACTERS

_BLOCK_BYTES = 1 << 20
_MARK = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{},]', re.DOTALL)
"""A whole string, the beginning of one that is not complete yet, or a mark outside strings."""


def is_array(path: str) -> bool:
    """Return whether a file, decompressed, begins with `[`."""
    with ByteStream(path) as stream:
        try:
            while block := stream.read(1 << 12):
                head = block.removeprefix(codecs.BOM_UTF8).lstrip()
                if head:
                    return head.startswith(b"[")
        except DamagedFileError:
            pass
    return False


class _Elements:
    """Reader of a file that is a JSON array."""

    def __init__(self, path: str, maximum_bytes: int) -> None:
        self._maximum_bytes = maximum_bytes
        self._stream = ByteStream(path)
        self._buffer = bytearray()  # from the beginning of the current element on
        self._scanned = 0  # bytes of the buffer that are scanned
        self._dropped = 0  # bytes of an element that is too large, which are gone
        self._head = b""  # beginning of such an element
        self._offset = 0  # of the buffer in the decompressed file
        self._line = 1  # of the buffer's beginning
        self._depth = 0
        self._damage: DamagedFileError | None = None
        self._is_over = False  # the array has ended

    def __iter__(self) -> Iterator[Line]:
        with self._stream:
            while True:
                for mark in iter(self._next_mark, None):
                    if (line := self._at(*mark)) is not None:
                        yield line
                if (self._is_over and self._buffer.strip()) or not self._more():
                    break
        if self._damage is not None:
            raise self._damage
        rest = bytes(self._buffer).strip()
        if self._depth > 0 or self._dropped:
            raise DamagedFileError("the JSON array has no end")
        if rest:
            raise DamagedFileError(f"after the end of the JSON array follows {rest[:20]!r}")

    def _next_mark(self) -> tuple[int, int] | None:
        """Return the start of the next mark in the buffer and its end; None: more bytes are needed."""
        if self._is_over:
            return None
        match = _MARK.search(self._buffer, self._scanned)
        if match is None:
            self._scanned = len(self._buffer)
            return None
        if match[0] == b'"':
            self._scanned = match.start()
            return None
        self._scanned = match.end()
        return match.span()

    def _at(self, start: int, stop: int) -> Line | None:
        """Follow a mark; return the element that ends at it."""
        mark = self._buffer[start]
        if mark in b"[{":
            self._depth += 1
            if self._depth == 1:
                self._pass(stop)
        elif mark in b"]}":
            self._depth -= 1
            if self._depth == 0:
                self._is_over = True
                return self._element(start, stop)
        elif mark == ord(",") and self._depth == 1:
            return self._element(start, stop)
        return None

    def _element(self, end: int, after: int) -> Line | None:
        content = bytes(self._buffer[:end])
        blank = len(content) - len(content.lstrip()) if not self._dropped else 0
        line = self._line + content.count(b"\n", 0, blank)
        size = self._dropped + len(content)
        head = (self._head or content[blank:])[:EXCERPT_CHARACTERS]
        is_large = self._dropped > 0 or len(content) > self._maximum_bytes
        found = Line(None if is_large else content.strip(), size, self._offset + blank, line, head)
        self._pass(after)
        self._dropped, self._head = 0, b""
        return found if is_large or found.content else None

    def _pass(self, count: int) -> None:
        """Leave bytes of the buffer behind."""
        self._line += self._buffer.count(b"\n", 0, count)
        self._offset += count
        del self._buffer[:count]
        self._scanned -= count

    def _more(self) -> bool:
        if len(self._buffer) > self._maximum_bytes and self._scanned:
            # The element is too large: only its end matters.
            self._head = self._head or bytes(self._buffer[:EXCERPT_CHARACTERS])
            self._dropped += self._scanned
            self._pass(self._scanned)
        try:
            block = self._stream.read(max(_BLOCK_BYTES, len(self._buffer)))
        except DamagedFileError as error:
            self._damage = error
            return False
        self._buffer += block
        return bool(block)


def read_elements(path: str, maximum_bytes: int) -> Iterator[Line]:
    """Yield the elements of a file that is a JSON array, as `read_lines` yields lines; `number` is the line at which an
    element begins.

    Raises:
        DamagedFileError: after the last complete element, if the file is damaged, has no end or goes on after it.
    """
    return iter(_Elements(path, maximum_bytes))
