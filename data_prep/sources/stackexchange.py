"""Stack Exchange's dumps (`Posts.xml` of a site, decompressed): a question and its answers, the best first, are a
document.

As for LLaMA (Touvron et al. 2023, arXiv:2302.13971, section 2), answers are sorted by score and HTML is removed. The
answers of a question may be anywhere in the file, so each process reads a file once to locate them all, and then the
questions of its ranges, each with its answers. This takes 32 bytes of memory for each answer and 8 for each question:
1.4 GB for Stack Overflow, a few MB for most sites. An answer without its question is set aside.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from data_prep.sources.lines import Line, read_lines
from data_prep.sources.ranges import FileRange, at_any_byte
from data_prep.sources.reading import Document, Fault, Reader, excerpt_of, usable
from data_prep.sources.storage import open_input

_QUESTION, _ANSWER = "1", "2"
_PARENT = re.compile(rb' ParentId="(\d+)"')
_ID = re.compile(rb' Id="(\d+)"')
_IS_QUESTION = re.compile(rb' PostTypeId="1"')
_SCORE = re.compile(rb' Score="(-?\d+)"')


def _accepts(path: str) -> bool:
    return os.path.basename(path).lower() == "posts.xml"


def read(piece: FileRange, maximum_document_bytes: int) -> Iterator[Document | Fault]:
    """Yield the questions of a range."""
    answers = _answers_of(piece.path, piece.size, maximum_document_bytes)
    site = os.path.basename(os.path.dirname(piece.path))
    with open_input(piece.path) as file:
        for line in read_lines(piece, maximum_document_bytes):
            row = _row(line, piece)
            if isinstance(row, Fault):
                yield row
                question = _question_of(line)
                lost = answers.places_of(question) if question is not None else range(0)
                yield from (_without_question(piece.path, *answers.place(place), file) for place in lost)
            elif row is not None and row.get("PostTypeId") == _QUESTION:
                found = answers.of(int(row["Id"]), file)
                yield _document(row, found, line, piece, site, maximum_document_bytes)
        for offset, size in answers.without_question(piece.start, piece.end):
            yield _without_question(piece.path, offset, size, file)


def _without_question(path: str, offset: int, size: int, file: Any) -> Fault:
    file.seek(offset)
    detail = "an answer whose question is not in the file"
    return Fault("no_question", detail, path, excerpt=excerpt_of(file.read(size)))


def _question_of(line: Line) -> int | None:
    """Return the id of a question's row, which need not be XML; None: it is another row."""
    head = line.content if line.content is not None else line.head
    identity = _ID.search(head) if _IS_QUESTION.search(head) else None
    return int(identity[1]) if identity else None


class _Answers:
    """Positions of the answers of each question in a file."""

    def __init__(self, whole: FileRange, maximum_bytes: int) -> None:
        columns = [array("q") for _ in range(4)]
        questions = array("q")
        for line in read_lines(whole, maximum_bytes):
            # `Id`, `PostTypeId` and `ParentId` come before a row's text
            parent = _PARENT.search(line.content) if line.content else None
            if parent is not None and line.content is not None:
                score = _SCORE.search(line.content)
                values = (int(parent[1]), -int(score[1]) if score else 0, line.offset, line.size)
                for column, value in zip(columns, values, strict=True):
                    column.append(value)
            elif (question := _question_of(line)) is not None:
                questions.append(question)
        parents, negated_scores, offsets, sizes = (np.frombuffer(column, np.int64) for column in columns)
        # by score as a number, older ones first at equal scores: rows are in the order of their ids
        order = np.lexsort((offsets, negated_scores, parents))
        self._parents: npt.NDArray[np.int64] = parents[order]
        self._offsets: npt.NDArray[np.int64] = offsets[order]
        self._sizes: npt.NDArray[np.int64] = sizes[order]
        known = np.isin(self._parents, np.frombuffer(questions, np.int64))
        self._strangers: npt.NDArray[np.int64] = np.flatnonzero(~known)

    def places_of(self, question: int) -> range:
        """Return where the answers of a question are, by descending score."""
        start, stop = np.searchsorted(self._parents, (question, question + 1))
        return range(int(start), int(stop))

    def place(self, place: int) -> tuple[int, int]:
        """Return offset and size of an answer."""
        return int(self._offsets[place]), int(self._sizes[place])

    def of(self, question: int, file: Any) -> list[dict[str, str]]:
        """Return the answers of a question by descending score, without those that are not XML."""
        found = []
        for place in self.places_of(question):
            offset, size = self.place(place)
            file.seek(offset)
            row = _attributes(file.read(size))
            if row is not None and row.get("PostTypeId") == _ANSWER:
                found.append(row)
        return found

    def without_question(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield offset and size of answers in a range that have no question, in the order of the file."""
        for place in self._strangers[np.argsort(self._offsets[self._strangers])].tolist():
            offset, size = self.place(place)
            # a line belongs to the range with the line feed before it
            if start < offset <= end or offset == start == 0:
                yield offset, size


@lru_cache(maxsize=1)
def _answers_of(path: str, size: int, maximum_bytes: int) -> _Answers:
    """Locate the answers of a file once in each process: its ranges follow one another."""
    return _Answers(FileRange(path, 0, size, size), maximum_bytes)


def _row(line: Line, piece: FileRange) -> dict[str, str] | Fault | None:
    def fault(reason: str, detail: str) -> Fault:
        head = excerpt_of(line.head)
        return Fault(reason, detail, piece.path, line=line.number, from_byte=piece.start, excerpt=head)

    if line.content is None:
        return fault("too_large", f"a row of {line.size:,} bytes")
    if not line.content.lstrip().startswith(b"<row"):
        return None  # the declaration, and the element around the rows
    return _attributes(line.content) or fault("invalid_xml", "a row that is no XML")


def _attributes(content: bytes) -> dict[str, str] | None:
    try:
        return dict(ElementTree.fromstring(content).attrib)
    except ElementTree.ParseError:
        return None


def _document(
    question: dict[str, str], answers: list[dict[str, str]], line: Line, piece: FileRange, site: str, maximum_bytes: int
) -> Document | Fault:
    def fault(reason: str, detail: str) -> Fault:
        head = excerpt_of(line.head)
        return Fault(reason, detail, piece.path, line=line.number, from_byte=piece.start, excerpt=head)

    parts = [question.get("Title", ""), _plain(question.get("Body", ""))]
    parts += [_plain(answer.get("Body", "")) for answer in answers]
    metadata = {
        "id": int(question["Id"]),
        "score": int(question.get("Score") or 0),
        "answer_scores": [int(answer.get("Score") or 0) for answer in answers],
        "tags": [tag for tag in re.split(r"[<>|]+", question.get("Tags", "")) if tag],
    }
    url = f"https://{site}/q/{question['Id']}" if "." in site else f"{piece.path}#question={question['Id']}"
    return usable("\n\n".join(part for part in parts if part), url, metadata, fault, maximum_bytes)


def _plain(body: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    text: str = extract_plain_text(body, preserve_formatting=True, alt_texts=False)
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


READER = Reader(_accepts, read, at_any_byte)
