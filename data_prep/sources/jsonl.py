"""JSON Lines: one object per line with a string `text`; also `.gz` and `.zst`.

C4, mC4 and Dolma name such files `.json.gz`.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any

from data_prep.sources.compression import DamagedFileError, suffix_of, without_compression
from data_prep.sources.lines import Line, read_lines
from data_prep.sources.packed_ranges import divide_packed
from data_prep.sources.ranges import FileRange, at_any_byte
from data_prep.sources.reading import Document, Fault, Reader, excerpt_of, usable

_LINES_BEFORE_GIVING_UP = 100


def _accepts(path: str) -> bool:
    return without_compression(path).lower().endswith((".jsonl", ".ndjson", ".json"))


def _divide(path: str, size: int, shard_bytes: int) -> list[FileRange]:
    if suffix_of(path):
        return divide_packed(path, size, shard_bytes, of_lines=True)
    return at_any_byte(path, size, shard_bytes)


def read(piece: FileRange, maximum_document_bytes: int) -> Iterator[Document | Fault]:
    """Yield the documents of a range. `url` is the object's own or the file and byte; all other keys are metadata.

    Raises:
        ValueError: none of the first 100 lines has a string `text`: then the wrong field is configured.
    """
    held: list[Fault] = []  # faults of the first lines, until a line with a text shows that the field is right
    is_right_field = False
    seen, last = 0, 0
    try:
        for line in read_lines(piece, maximum_document_bytes):
            result = _parse(line, piece, maximum_document_bytes)
            if line.is_cut and not isinstance(result, Document):
                continue  # reported as damage of the file; a line with a complete object is kept
            seen, last = seen + 1, line.number
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
        detail = f"{error}; the {seen} complete lines before it are read"
        yield Fault("damaged_file", detail, piece.path, line=last + 1, from_byte=piece.start)
    yield from held


def _parse(line: Line, piece: FileRange, maximum_bytes: int) -> Document | Fault | None:
    def fault(reason: str, detail: str) -> Fault:
        head = excerpt_of(line.head)
        return Fault(reason, detail, piece.path, line=line.number, from_byte=piece.start, excerpt=head)

    if line.content is None:
        return fault("too_large", f"a line of {line.size:,} bytes, maximum_document_bytes is {maximum_bytes:,}")
    content = line.content.removeprefix(codecs.BOM_UTF8)  # of the file, or of a concatenated one
    if not content.strip():
        return None  # empty lines are ignored
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return fault(
            "invalid_utf8",
            f"byte {content[error.start]:#04x} at offset {error.start} of the line ({error.reason})",
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
        url = place_of(piece, line)
    metadata = {key: item for key, item in value.items() if key not in ("text", "url")}
    return usable(value["text"], url, metadata, fault, maximum_bytes)


def place_of(piece: FileRange, line: Line) -> str:
    """Return a URL for a document without one: the file and the byte after decompression."""
    if suffix_of(piece.path) and piece.start:
        return f"{piece.path}#from={piece.start}&byte={line.offset}"
    return f"{piece.path}#byte={piece.start + line.offset}"


def _kind_of(value: object) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


READER = Reader(_accepts, read, _divide)
