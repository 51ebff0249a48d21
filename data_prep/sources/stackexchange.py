"""Stack Exchange's dumps (`Posts.xml` of a site, decompressed): a question and its answers, the best first, are a
document.

As for LLaMA (Touvron et al. 2023, arXiv:2302.13971, section 2), answers are sorted by score and HTML is removed. The
answers of a question may be anywhere after it, so a file is read twice: first to locate the answers, then for the
questions in their order, each with its answers. This takes 32 bytes of memory for each answer. An answer without its
question is set aside.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from data_prep.sources.lines import Line, read_lines
from data_prep.sources.ranges import FileRange
from data_prep.sources.reading import Document, Fault, Reader, excerpt_of, usable
from data_prep.sources.storage import open_input

_QUESTION, _ANSWER = "1", "2"
_PARENT = re.compile(rb' ParentId="(\d+)"')
_SCORE = re.compile(rb' Score="(-?\d+)"')


def _accepts(path: str) -> bool:
    return os.path.basename(path).lower() == "posts.xml"


def read(piece: FileRange, maximum_document_bytes: int) -> Iterator[Document | Fault]:
    """Yield the questions of a site."""
    answers = _Answers(piece, maximum_document_bytes)
    site = os.path.basename(os.path.dirname(piece.path))
    with open_input(piece.path) as file:
        for line in read_lines(piece, maximum_document_bytes):
            row = _row(line, piece.path)
            if isinstance(row, Fault):
                yield row
            elif row is not None and row.get("PostTypeId") == _QUESTION:
                yield _document(row, answers.of(int(row["Id"]), file), line, piece.path, site, maximum_document_bytes)
        for offset, size in answers.left():
            file.seek(offset)
            detail = "an answer whose question is not in the file"
            yield Fault("no_question", detail, piece.path, excerpt=excerpt_of(file.read(size)))


class _Answers:
    """Positions of the answers of each question in the file."""

    def __init__(self, piece: FileRange, maximum_bytes: int) -> None:
        columns = [array("q") for _ in range(4)]
        for line in read_lines(piece, maximum_bytes):
            parent = _PARENT.search(line.content) if line.content else None
            if parent is not None and line.content is not None:
                score = _SCORE.search(line.content)
                values = (int(parent[1]), -int(score[1]) if score else 0, line.offset, line.size)
                for column, value in zip(columns, values, strict=True):
                    column.append(value)
        parents, negated_scores, offsets, sizes = (np.frombuffer(column, np.int64) for column in columns)
        # by score as a number, older ones first at equal scores: rows are in the order of their ids
        order = np.lexsort((offsets, negated_scores, parents))
        self._parents: npt.NDArray[np.int64] = parents[order]
        self._offsets: npt.NDArray[np.int64] = offsets[order]
        self._sizes: npt.NDArray[np.int64] = sizes[order]
        self._is_taken = np.zeros(len(order), dtype=bool)

    def of(self, question: int, file: Any) -> list[dict[str, str]]:
        """Return the answers of a question by descending score, without those that are not XML."""
        start, stop = np.searchsorted(self._parents, (question, question + 1))
        found = []
        for place in range(int(start), int(stop)):
            self._is_taken[place] = True
            file.seek(int(self._offsets[place]))
            row = _attributes(file.read(int(self._sizes[place])))
            if row is not None and row.get("PostTypeId") == _ANSWER:
                found.append(row)
        return found

    def left(self) -> Iterator[tuple[int, int]]:
        """Yield offset and size of answers without a question."""
        for place in np.flatnonzero(~self._is_taken):
            yield int(self._offsets[place]), int(self._sizes[place])


def _row(line: Line, path: str) -> dict[str, str] | Fault | None:
    def fault(reason: str, detail: str) -> Fault:
        return Fault(reason, detail, path, line=line.number, excerpt=excerpt_of(line.head))

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
    question: dict[str, str], answers: list[dict[str, str]], line: Line, path: str, site: str, maximum_bytes: int
) -> Document | Fault:
    def fault(reason: str, detail: str) -> Fault:
        return Fault(reason, detail, path, line=line.number, excerpt=excerpt_of(line.head))

    parts = [question.get("Title", ""), _plain(question.get("Body", ""))]
    parts += [_plain(answer.get("Body", "")) for answer in answers]
    metadata = {
        "id": int(question["Id"]),
        "score": int(question.get("Score") or 0),
        "answer_scores": [int(answer.get("Score") or 0) for answer in answers],
        "tags": [tag for tag in re.split(r"[<>|]+", question.get("Tags", "")) if tag],
    }
    url = f"https://{site}/q/{question['Id']}" if "." in site else f"{path}#question={question['Id']}"
    return usable("\n\n".join(part for part in parts if part), url, metadata, fault, maximum_bytes)


def _plain(body: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    text: str = extract_plain_text(body, preserve_formatting=True, alt_texts=False)
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


READER = Reader(_accepts, read)
