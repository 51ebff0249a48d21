from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import quoteattr

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
