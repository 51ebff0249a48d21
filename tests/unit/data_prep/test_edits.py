"""Ranges excluded from the loss: through redactions and cuts, and from a source's own file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.edits import edit, edit_marked, no_loss_of
from data_prep.sources import Document, Fault, FileRange, reader_of

TEXT = "Frage: wer? mail@x.org\nrauschen\nAntwort: är"


def marked(spans: list[tuple[str, int, int]], cuts: list[tuple[int, int]], *marks: tuple[int, int]) -> list[str]:
    text, moved = edit_marked(TEXT.encode(), spans, cuts, marks)
    assert text == edit(TEXT.encode(), spans, cuts), "marks change no text"
    return [text[start:stop].decode() for start, stop in moved]


def test_marks_follow_their_text() -> None:
    data = TEXT.encode()
    mail, noise, answer = data.index(b"mail"), data.index(b"rauschen"), data.index(b"Antwort")
    span, cut = ("EMAIL", mail, mail + 10), (noise, noise + 9)
    assert marked([], [], (0, 5), (answer, len(data))) == ["Frage", "Antwort: är"]
    assert marked([span], [cut], (0, noise)) == ["Frage: wer? PI:EMAIL\n"]
    assert marked([span], [cut], (7, 11), (answer, answer + 7)) == ["wer?", "Antwort"]
    assert marked([span], [cut], (noise, noise + 4)) == [], "nothing is left of it"
    assert marked([], [cut], (noise - 3, noise + 3)) == ["rg\n"]


def test_ranges_of_characters_become_ranges_of_bytes() -> None:
    metadata = json.dumps({"no_loss": [[0, 2], [3, 4]]})
    assert no_loss_of(metadata, b"ab cd") == [(0, 2), (3, 4)]
    assert no_loss_of(metadata, "雪é 👩".encode()) == [(0, 5), (6, 10)]
    assert no_loss_of("{}", b"x") == [] and no_loss_of('{"no_loss": null}', b"x") == []


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ([[0, 4], [4, 9]], None),
        (None, None),
        ("0:4", "must be a list of [start, stop], it is 0:4"),
        ([[0, True]], "must be a list of [start, stop], it is [[0, True]]"),
        ([[0, 10]], "[0, 10) must be half-open in characters, in order, without overlaps, and inside of [0, 9)"),
        ([[2, 2]], "[2, 2) must be half-open"),
        ([[0, 4], [3, 9]], "[3, 9) must be half-open in characters, in order, without overlaps, and inside of [4, 9)"),
    ],
)
def test_wrong_ranges_are_set_aside(tmp_path: Path, value: object, detail: str | None) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "nine lett", "no_loss": value}))
    size = path.stat().st_size
    (found,) = reader_of("jsonl").read(FileRange(str(path), 0, size, size), 1000)
    if detail is None:
        assert isinstance(found, Document)
    else:
        assert isinstance(found, Fault) and found.reason == "invalid_no_loss"
        assert found.detail.startswith(f"`no_loss` {detail}")
