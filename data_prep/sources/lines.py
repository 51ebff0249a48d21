"""Lines of bounded length, or records that end with another separator, from any range of a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from data_prep.sources.compression import ByteStream, DamagedFileError
from data_prep.sources.ranges import FileRange
from data_prep.sources.reading import EXCERPT_CHARACTERS

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Line:
    """A line without its end, or another record without its separator; `content` is None if it is longer than allowed,
    `size` is its number of bytes in any case."""

    content: bytes | None
    size: int
    offset: int
    """Offset in decompressed bytes from the start of the range [start, end)."""
    number: int
    """Number counted from 1 at the start of the range, where another range's line may end. Counting from the start of
    the file would require reading everything before the range."""
    head: bytes
    is_cut: bool = False
    """The file is damaged after these bytes, so the line may be incomplete."""


class _Lines:
    """Reader of the lines that belong to bytes [start, end) of a file, which can pause at a position and continue from
    it."""

    def __init__(self, piece: FileRange, maximum_bytes: int, separator: bytes) -> None:
        self.piece = piece
        self.maximum_bytes = maximum_bytes
        self.separator = separator
        self._stream = ByteStream(piece.path, piece.start, piece.end)
        self._body_bytes: int | None = None  # decompressed size of [start, end), once it is all read
        self._read_bytes = 0
        self._buffer = b""
        self._position = 0  # position of the next line in the buffer
        self._offset = 0  # position of the next line in the decompressed bytes
        self._number = 1
        self._found = False
        self._damage: DamagedFileError | None = None
        self._is_damage_ours = False  # and not relative to the range or part that contains it
        self.stopped_at = 0
        if piece.start > 0:
            self._skip_line()

    def close(self) -> None:
        self._stream.close()

    def skip_to(self, place: int) -> None:
        """Skip lines whose first byte is before `place`."""
        while self._offset < place:
            if not self._skip_line():
                break
        if place > 0:
            self._is_damage_ours = False  # the line across the boundary begins in an earlier part
        self.stopped_at = place

    def until(self, place: int | None) -> Iterator[Line]:
        """Yield lines whose first byte is before `place`, or all.

        Raises:
            DamagedFileError: after the last line, if the file is damaged there; only in the part with the damage.
        """
        self.stopped_at = -1  # a reader that stops halfway cannot be continued
        while (place is None or self._offset < place) and self._is_ours():
            newline = self._buffer.find(self.separator, self._position)
            if newline >= 0:
                content = self._buffer[self._position : newline]
                yield self._line(content if len(content) <= self.maximum_bytes else None, len(content), content)
                self._position = newline + len(self.separator)
                continue
            self._buffer = self._buffer[self._position :]
            self._position = 0
            if len(self._buffer) > self.maximum_bytes:
                head, self._buffer = self._split_separator(self._buffer)
                yield self._line(None, len(head) + self._find_newline(), head)
                continue
            block = self._more(max(_BLOCK_BYTES, len(self._buffer)))  # doubling avoids quadratic copying
            if not block:
                if self._buffer:
                    content, self._buffer = self._buffer, b""
                    yield self._line(content, len(content), content, is_cut=self._damage is not None)
                break
            self._buffer += block
        if place is not None:
            self.stopped_at = place
        if self._damage is not None and self._is_damage_ours:
            self._is_damage_ours = False
            raise self._damage

    def _line(self, content: bytes | None, size: int, head: bytes, is_cut: bool = False) -> Line:
        line = Line(content, size, self._offset, self._number, head[:EXCERPT_CHARACTERS], is_cut)
        self._offset += size + len(self.separator)
        self._number += 1
        return line

    def _is_ours(self) -> bool:
        """Return whether the separator before the next line begins in [start, end)."""
        return self._body_bytes is None or self._offset < self._body_bytes + len(self.separator)

    def _split_separator(self, content: bytes) -> tuple[bytes, bytes]:
        """Divide the end of a block from what may be the first bytes of a separator."""
        place = len(content) - (len(self.separator) - 1)
        return content[:place], content[place:]

    def _skip_line(self) -> bool:
        """Skip the next line, whatever its length; return whether there is one after it."""
        newline = self._buffer.find(self.separator, self._position)
        if newline >= 0:
            self._offset += newline + len(self.separator) - self._position
            self._position = newline + len(self.separator)
        else:
            head, self._buffer = self._split_separator(self._buffer[self._position :])
            self._offset += len(head)
            self._position = 0
            size = self._find_newline()
            if not self._found:
                self._offset += size
                return False
            self._offset += size + len(self.separator)
        self._number += 1
        return True

    def _find_newline(self) -> int:
        """From a buffer with at most a part of a separator, read past the next one; return the number of bytes before
        it."""
        size, rest = 0, self._buffer
        self._buffer = b""
        while block := self._more(_BLOCK_BYTES):
            block = rest + block
            newline = block.find(self.separator)
            if newline >= 0:
                self._buffer, self._position, self._found = block, newline + len(self.separator), True
                return size + newline
            head, rest = self._split_separator(block)
            size += len(head)
        self._found = False
        return size + len(rest)

    def _more(self, size: int) -> bytes:
        """Return more decompressed bytes: of the range, then after it up to the end of its last line."""
        if self._damage is not None:
            return b""
        try:
            block = self._stream.read(size)
        except DamagedFileError as error:
            self._damage = error
            self._is_damage_ours = self._body_bytes is None
            if self._body_bytes is None:
                self._body_bytes = self._read_bytes
            return b""
        if self._body_bytes is None:
            self._read_bytes += len(block)
            if not block:
                self._body_bytes = self._read_bytes
                if self.piece.end < self.piece.size:
                    self._stream.close()
                    self._stream = ByteStream(self.piece.path, self.piece.end)
                    return self._more(size)
        return block


_left_open: list[_Lines] = []
"""Reader that this process paused in a range that several shards share: the next shard continues from it, instead of
decompressing the range again from its start."""


def read_lines(piece: FileRange, maximum_bytes: int, separator: bytes = b"\n") -> Iterator[Line]:
    """Yield the lines that belong to a range; memory is bounded by `maximum_bytes`.

    Args:
        separator: bytes after each record, in place of a line feed. A record belongs to the range that contains the
            first byte of the separator before it.

    Raises:
        DamagedFileError: after the last line, if the file is damaged in this part of the range.
    """
    lines = _left_open.pop() if _left_open else None
    if lines is not None and not _goes_on(lines, piece, maximum_bytes, separator):
        lines.close()
        lines = None
    if lines is None:
        lines = _Lines(piece, maximum_bytes, separator)
        lines.skip_to(piece.unpacked_start)
    try:
        yield from lines.until(piece.unpacked_end)
    finally:
        if piece.unpacked_end is None:
            lines.close()
        else:
            _left_open.append(lines)


def _goes_on(lines: _Lines, piece: FileRange, maximum_bytes: int, separator: bytes) -> bool:
    before = lines.piece
    same_range = (before.path, before.start, before.end) == (piece.path, piece.start, piece.end)
    same_records = (lines.maximum_bytes, lines.separator) == (maximum_bytes, separator)
    return same_range and same_records and lines.stopped_at == piece.unpacked_start > 0
