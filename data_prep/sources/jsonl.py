"""JSON Lines: one object per line with a string `text`; also `.gz` and `.zst`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from data_prep.sources.reading import (
    DamagedFileError,
    Document,
    Fault,
    Line,
    Reader,
    excerpt_of,
    read_lines,
    usable,
    without_compression,
)

if TYPE_CHECKING:
    from data_prep.shards import FileRange

_LINES_BEFORE_GIVING_UP = 100


def _accepts(path: str) -> bool:
    return without_compression(path).lower().endswith((".jsonl", ".ndjson"))


def _is_splittable(path: str) -> bool:
    return without_compression(path) == path


def read(piece: FileRange, maximum_document_bytes: int) -> Iterator[Document | Fault]:
    """Documents of one range of bytes. `url` is the object's own or the file and byte; all other keys are metadata.

    Raises:
        ValueError: none of the first 100 lines has a string `text`: then the field is wrong, not the documents.
    """
    # A packed file is one range, whose end counts packed bytes.
    end = piece.end if _is_splittable(piece.path) else 1 << 62
    lines = _LineNumbers(piece)
    held: list[Fault] = []  # faults of the start, until one line with a text shows that the field is right
    is_right_field = False
    try:
        for line in read_lines(piece.path, piece.start, end, maximum_document_bytes):
            lines.seen += 1
            result = _parse(line, piece.path, lines, maximum_document_bytes)
            if result is None:
                continue
            if is_right_field:
                yield result
                continue
            if isinstance(result, Fault) and result.reason == "missing_text":
                held.append(result)
                if len(held) == _LINES_BEFORE_GIVING_UP:
                    raise ValueError(
                        f"{piece.path}:{held[0].line}: none of the first {len(held)} lines has a string `text` "
                        f"({held[0].detail}); a JSONL source needs one object per line with the field `text`"
                    )
                continue
            is_right_field = is_right_field or isinstance(result, Document)
            if is_right_field:
                yield from held
                held = []
            yield result
    except DamagedFileError as error:
        yield from held
        held = []
        yield Fault(
            "damaged_file", f"{error}; the {lines.seen} whole lines before it are read", piece.path, line=lines.seen + 1
        )
    yield from held


def _parse(line: Line, path: str, numbers: _LineNumbers, maximum_bytes: int) -> Document | Fault | None:
    def fault(reason: str, detail: str) -> Fault:
        return Fault(reason, detail, path, line=numbers.current(), excerpt=excerpt_of(line.head))

    if line.content is None:
        return fault("too_large", f"a line of {line.size:,} bytes, maximum_document_bytes is {maximum_bytes:,}")
    if not line.content.strip():
        return None  # an empty line between documents is no document
    try:
        text = line.content.decode("utf-8")
    except UnicodeDecodeError as error:
        return fault(
            "invalid_utf8",
            f"byte {line.content[error.start]:#04x} at offset {error.start} of the line ({error.reason})",
        )
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        return fault("invalid_json", str(error))
    except RecursionError:
        return fault("invalid_json", "nested too deeply")
    if not isinstance(value, dict):
        return fault("missing_text", f"a JSON {_kind_of(value)}, not an object")
    if not isinstance(value.get("text"), str):
        detail = (
            f"`text` is {_kind_of(value['text'])}"
            if "text" in value
            else f"its fields are {', '.join(map(repr, value)) or '(none)'}"
        )
        return fault("missing_text", detail)
    url = value.get("url")
    if not isinstance(url, str) or not url:
        url = f"{path}#byte={line.offset}"
    metadata = {key: item for key, item in value.items() if key not in ("text", "url")}
    return usable(value["text"], url, metadata, fault, maximum_bytes)


class _LineNumbers:
    """Number of the current line in the whole file; the lines before the range are counted only when a fault asks."""

    def __init__(self, piece: FileRange) -> None:
        self._piece = piece
        self._before: int | None = None if piece.start else 0
        self.seen = 0

    def current(self) -> int:
        if self._before is None:
            self._before = _newlines_before_first_line(self._piece)
        return self._before + self.seen


def _newlines_before_first_line(piece: FileRange) -> int:
    with open(piece.path, "rb") as file:
        count = 0
        left = piece.start
        for block in iter(partial(file.read, 1 << 20), b""):
            count += block[:left].count(b"\n")
            last = block[left - 1 : left] if left <= len(block) else b""
            left -= len(block)
            if left <= 0:
                # the range may start inside of a line, which the range before reads
                return count if last == b"\n" else count + 1
    return count


def _kind_of(value: object) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


READER = Reader(_accepts, _is_splittable, read)
