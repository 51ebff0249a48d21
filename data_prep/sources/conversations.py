"""Conversations for instruction tuning: JSON Lines or a JSON array, in one of several forms; also `.gz` and `.zst`.

A document is a conversation, see `data_prep/conversations/turns.py`. Arrays are read element by element. A file of
lines is divided into shards, an array and OpenAssistant's flat messages are not.
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from data_prep.conversations.cleaning import Cleaning
from data_prep.conversations.forms import FIELDS, FormError, Record, conversations_of, tree_of
from data_prep.conversations.turns import TURNS, Conversation, disorder, joined
from data_prep.sources import jsonl
from data_prep.sources.compression import DamagedFileError
from data_prep.sources.json_arrays import is_array, read_elements
from data_prep.sources.lines import Line, read_lines
from data_prep.sources.ranges import FileRange, undivided
from data_prep.sources.reading import Document, Fault, Reader, excerpt_of, usable

_RECORDS_BEFORE_GIVING_UP = 100


@dataclass(frozen=True)
class _Place:
    """A record and its place, from which faults and URLs are made."""

    piece: FileRange
    line: Line

    def fault(self, reason: str, detail: str) -> Fault:
        head = excerpt_of(self.line.head)
        return Fault(reason, detail, self.piece.path, self.line.number, self.piece.start, excerpt=head)

    @property
    def url(self) -> str:
        return jsonl.place_of(self.piece, self.line)


def _divide(path: str, size: int, shard_bytes: int) -> list[FileRange]:
    return undivided(path, size, shard_bytes) if is_array(path) else jsonl.READER.divide(path, size, shard_bytes)


def read(
    piece: FileRange, maximum_document_bytes: int, options: Mapping[str, Any]
) -> Generator[Document | Fault, None, Counter[str]]:
    """Yield the conversations of a range.

    Returns:
        Number of conversations that each cleaning rule has changed, by its name.

    Raises:
        ValueError: none of the first 100 records is of the form: then the wrong form is configured.
    """
    cleaning = Cleaning(options.get("clean", ()))
    held: list[Fault] = []
    is_right_form = False
    last, seen = 0, 0
    is_whole = not piece.start and not piece.is_part_of_packed
    lines = read_elements if is_whole and is_array(piece.path) else None
    records = lines(piece.path, maximum_document_bytes) if lines else read_lines(piece, maximum_document_bytes)
    parsed = (found for line in records if (found := _record(line, piece, maximum_document_bytes)) is not None)
    try:
        for place, record in _trees(parsed) if options["form"] == "oasst" else parsed:
            seen, last = seen + 1, place.line.number
            if isinstance(record, Fault):
                results: list[Document | Fault] = [record]
            else:
                results = list(_documents(record, place, options, cleaning, maximum_document_bytes))
            if is_right_form:
                yield from results
                continue
            is_right_form = any(isinstance(one, Document) for one in results)
            held += (one for one in results if isinstance(one, Fault))
            if is_right_form:
                yield from held
                yield from (one for one in results if isinstance(one, Document))
                held = []
            elif len(held) >= _RECORDS_BEFORE_GIVING_UP:
                raise ValueError(
                    f"{piece.path}:{held[0].line}: none of the first {len(held)} records is a conversation of the form "
                    f"{options['form']!r} ({held[0].detail}); name the right `form` of this source"
                )
    except DamagedFileError as error:
        yield from held
        held = []
        detail = f"{error}; the {seen} complete records before it are read"
        yield Fault("damaged_file", detail, piece.path, line=last + 1, from_byte=piece.start)
    yield from held
    return cleaning.changed


def _record(line: Line, piece: FileRange, maximum_bytes: int) -> tuple[_Place, Record | Fault] | None:
    place = _Place(piece, line)
    if line.content is None:
        detail = f"a record of {line.size:,} bytes, maximum_document_bytes is {maximum_bytes:,}"
        return place, place.fault("too_large", detail)
    content = line.content.removeprefix(codecs.BOM_UTF8)
    if not content.strip():
        return None
    try:
        value = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        detail = f"byte {content[error.start]:#04x} at offset {error.start} of the record ({error.reason})"
        found = place.fault("invalid_utf8", detail)
    except (ValueError, RecursionError) as error:
        if line.is_cut:
            return None  # reported as damage of the file
        found = place.fault("invalid_json", "nested too deeply" if isinstance(error, RecursionError) else str(error))
    else:
        if isinstance(value, dict):
            return place, value
        found = place.fault("wrong_field", f"the record is {excerpt_of(repr(value))[:60]}; it must be an object")
    return place, found


def _trees(
    records: Iterator[tuple[_Place, Record | Fault]],
) -> Iterator[tuple[_Place, Record | Fault]]:
    """Join the flat messages of each tree of OpenAssistant that follow one another; trees are passed on."""

    def tree(found: tuple[_Place, Record | Fault]) -> object:
        place, record = found
        is_flat = not isinstance(record, Fault) and "parent_id" in record
        return ("tree", record.get("message_tree_id")) if is_flat else place  # type: ignore[union-attr]

    for key, group in groupby(records, tree):
        if isinstance(key, _Place):
            yield from group
            continue
        found = list(group)
        place = found[0][0]
        try:
            yield place, tree_of([record for _, record in found])  # type: ignore[misc]
        except FormError as error:
            yield place, place.fault(error.reason, str(error))


def _documents(
    record: Record, place: _Place, options: Mapping[str, Any], cleaning: Cleaning, maximum_bytes: int
) -> Iterator[Document | Fault]:
    form, given = options["form"], (options.get("question_field"), options.get("answer_field"))
    used = {*FIELDS[form], *given}
    metadata = {name: value for name, value in record.items() if name not in used}
    try:
        conversations = list(conversations_of(record, form, *given, options.get("oasst_paths", "best")))
    except FormError as error:
        yield place.fault(error.reason, str(error))
        return
    for number, conversation in enumerate(conversations):
        try:
            cleaned = cleaning(conversation)
            _check(cleaned)
        except FormError as error:
            yield place.fault(error.reason, str(error))
            continue
        text, turns = joined(cleaned)
        url = place.url + (f"&conversation={number}" if len(conversations) > 1 else "")
        yield usable(text, url, {**metadata, TURNS: turns}, place.fault, maximum_bytes)


def _check(conversation: Conversation) -> None:
    """Check the turns of a conversation.

    Raises:
        FormError: they are out of order, or one of them is empty.
    """
    if fault := disorder([turn.role for turn in conversation]):
        remedy = "" if "nobody answers" not in fault else "; `clean: [last_question]` removes such a turn"
        raise FormError("turn_order", fault + remedy)
    for place, turn in enumerate(conversation):
        if not turn.content.strip():
            raise FormError("empty_turn", f"turn {place}, of role {turn.role!r}, is {turn.content!r}")


def reader_with(options: Mapping[str, Any]) -> Reader:
    """Return the reader of a source with these settings.

    Raises:
        ValueError: a cleaning rule needs a library that is not installed.
    """
    Cleaning(options.get("clean", ()))
    divide = undivided if options["form"] == "oasst" else _divide
    return Reader(jsonl.READER.accepts, partial(read, options=options), divide)


READER = Reader(jsonl.READER.accepts, partial(read, options={"form": "messages"}), _divide)
