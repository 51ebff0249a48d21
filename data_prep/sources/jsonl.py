"""JSON Lines: one object per line with its text in a field, by default `text`; also `.gz` and `.zst`.

C4, mC4 and Dolma name such files `.json.gz`.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from data_prep.sources.compression import DamagedFileError, suffix_of, without_compression
from data_prep.sources.fields import USUAL_FIELDS, FieldError, Fields, field_of, kind_of
from data_prep.sources.lines import Line, read_lines
from data_prep.sources.packed_ranges import divide_lines
from data_prep.sources.ranges import FileRange
from data_prep.sources.reading import Document, Fault, Reader, excerpt_of, usable

_LINES_BEFORE_GIVING_UP = 100


def _accepts(path: str) -> bool:
    return without_compression(path).lower().endswith((".jsonl", ".ndjson", ".json"))


def read(piece: FileRange, maximum_document_bytes: int, fields: Fields = USUAL_FIELDS) -> Iterator[Document | Fault]:
    """Yield the documents of a range. `url` is the object's own or the file and byte; all other keys are metadata.

    Raises:
        ValueError: none of the first 100 lines has a text: then the wrong field is configured.
    """
    held: list[Fault] = []  # faults of the first lines, until a line with a text shows that the field is right
    is_right_field = False
    seen, last = 0, 0
    try:
        for line in read_lines(piece, maximum_document_bytes):
            result = _parse(line, piece, maximum_document_bytes, fields)
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
                        f"{piece.path}:{held[0].line}: none of the first {len(held)} lines has a string "
                        f"{' and '.join(f'`{name}`' for name in fields.texts)} ({held[0].detail}); name the field with "
                        "`text_field`, or several with `text_template`"
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


def _parse(line: Line, piece: FileRange, maximum_bytes: int, fields: Fields) -> Document | Fault | None:
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
        return fault("missing_text", f"a JSON {kind_of(value)}, not an object")
    try:
        text, origin, metadata = fields.take(value, partial(field_of, value))
    except FieldError as error:
        return fault(error.reason, str(error))
    return usable(text, origin or place_of(piece, line), metadata, fault, maximum_bytes)


def place_of(piece: FileRange, line: Line) -> str:
    """Return a URL for a document without one: the file and the byte after decompression."""
    if suffix_of(piece.path) and piece.start:
        return f"{piece.path}#from={piece.start}&byte={line.offset}"
    return f"{piece.path}#byte={piece.start + line.offset}"


def reader_with(options: Mapping[str, Any]) -> Reader:
    """Return the reader of a source with these settings."""
    return Reader(_accepts, partial(read, fields=Fields.of(options)), divide_lines)


READER = Reader(_accepts, read, divide_lines)
