from __future__ import annotations

import random
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest

from data_prep.sources import Document, Fault, reader_of
from data_prep.sources.ranges import FileRange


def row(**attributes: object) -> str:
    return "  <row " + " ".join(f"{name}={quoteattr(str(value))}" for name, value in attributes.items()) + " />"


def write(folder: Path, *rows: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "Posts.xml"
    path.write_text(
        "\ufeff" + "\n".join(['<?xml version="1.0" encoding="utf-8"?>', "<posts>", *rows, "</posts>"]) + "\n"
    )
    return path


def read(path: Path, maximum_bytes: int = 100_000) -> list[Document | Fault]:
    size = path.stat().st_size
    return list(reader_of("stackexchange").read(FileRange(str(path), 0, size, size), maximum_bytes))


def answer(number: int, question: int, score: object, body: str) -> str:
    return row(Id=number, PostTypeId=2, ParentId=question, Score=score, Body=f"<p>{body}</p>")


def test_answers_are_sorted_by_their_score_as_a_number(tmp_path: Path) -> None:
    question = row(
        Id=1,
        PostTypeId=1,
        Score=-3,
        Title="Why?",
        Body="<p>Is <b>a &lt; b</b>?</p><pre>x = 1\n  y</pre>",
        Tags="<a><c++>",
    )
    path = write(
        tmp_path / "example.stackexchange.com",
        question,
        answer(2, 1, 9, "nine"),  # as text, "9" is more than "10"
        answer(3, 1, -5, "minus five"),
        answer(4, 1, 10, "ten"),
        answer(5, 1, 9, "nine too"),
        answer(6, 1, -10, "minus ten"),
    )
    (document,) = read(path)
    assert isinstance(document, Document)
    assert document.text.split("\n\n") == [
        "Why?", "Is a < b?", "x = 1\n  y", "ten", "nine", "nine too", "minus five", "minus ten",
    ]  # fmt: skip
    assert document.url == "https://example.stackexchange.com/q/1"
    assert document.metadata == {"id": 1, "score": -3, "answer_scores": [10, 9, 9, -5, -10], "tags": ["a", "c++"]}


def test_answers_stand_anywhere_and_strangers_are_set_aside(tmp_path: Path) -> None:
    path = write(
        tmp_path / "site",
        answer(8, 7, 1, "before its question"),
        row(Id=1, PostTypeId=1, Score=0, Title="One", Body="<p>1</p>"),
        row(Id=7, PostTypeId=1, Score=0, Title="Seven", Body="<p>7</p>"),
        row(Id=3, PostTypeId=4, Score=0, Body="a tag's description"),
        '  <row Id="4" PostTypeId="1" Body="half a row',
        answer(9, 1, 1, "behind the other question"),
        answer(10, 99, 1, "of no question"),
    )
    *documents, half, stranger = read(path)
    assert [document.text for document in documents if isinstance(document, Document)] == [
        "One\n\n1\n\nbehind the other question",
        "Seven\n\n7\n\nbefore its question",
    ]
    assert isinstance(half, Fault) and (half.reason, half.line) == ("invalid_xml", 7)
    assert isinstance(stranger, Fault) and stranger.reason == "no_question" and "of no question" in stranger.excerpt


def test_a_question_that_grows_too_large_by_its_answers(tmp_path: Path) -> None:
    question = row(Id=1, PostTypeId=1, Score=0, Title="One", Body="<p>1</p>")
    path = write(tmp_path / "site", question, *(answer(number, 1, 1, "x" * 400) for number in range(2, 6)))
    (fault,) = read(path, maximum_bytes=1000)
    assert isinstance(fault, Fault) and fault.reason == "too_large"


@pytest.mark.parametrize("shard_bytes", [60, 300, 1000, 10**6])
def test_however_a_site_is_divided_its_questions_have_their_answers(tmp_path: Path, shard_bytes: int) -> None:
    source = random.Random(3)
    rows, answers = [], {number: [] for number in range(1, 40)}  # type: dict[int, list[str]]
    for number in range(1, 40):
        rows.append((source.random(), row(Id=number, PostTypeId=1, Score=0, Title=f"Q{number}", Body="<p>?</p>")))
    for number in range(100, 220):
        question = source.randrange(1, 48)  # some are not there
        rows.append((source.random(), answer(number, question, number, f"A{number}")))
        answers.setdefault(question, []).insert(0, f"A{number}")
    path = write(tmp_path / "site.com", *(text for _, text in sorted(rows)))
    size, reader = path.stat().st_size, reader_of("stackexchange")
    ranges = reader.divide(str(path), size, shard_bytes)
    assert len(ranges) == -(-size // shard_bytes)
    found = [item for piece in ranges for item in reader.read(piece, 100_000)]
    documents = {item.metadata["id"]: item.text.split("\n\n") for item in found if isinstance(item, Document)}
    assert documents == {number: [f"Q{number}", "?", *answers[number]] for number in range(1, 40)}
    lost = [item for item in found if isinstance(item, Fault)]
    assert {item.reason for item in lost} == {"no_question"}
    assert len(lost) == sum(len(texts) for number, texts in answers.items() if number >= 40)
    parts = [list(reader.read(piece, 100_000)) for piece in reversed(ranges)]  # each range is read as in its row
    assert [item for part in reversed(parts) for item in part] == found


def test_answers_of_a_bad_question_are_set_aside(tmp_path: Path) -> None:
    path = write(
        tmp_path / "site.com",
        '  <row Id="1" PostTypeId="1" Body="half a row',
        row(Id=2, PostTypeId=1, Score=0, Title="Two", Body="x" * 3000),
        answer(3, 1, 1, "to the half row"),
        answer(4, 2, 1, "to the large row"),
    )
    found = read(path, maximum_bytes=2000)
    assert [item.reason for item in found if isinstance(item, Fault)] == [
        "invalid_xml", "no_question", "too_large", "no_question",
    ]  # fmt: skip
