"""PDF files written here with a known text: columns, running heads, divided words, in any order of their content."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from data_prep.sources import Document, Fault, FileRange, reader_of
from data_prep.sources.pdf_layout import Line, Page, text_of

pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed")

Placed = tuple[float, float, float, str]
"""Left, base line, size of the font, and text."""
WIDTH, HEIGHT, SIZE, PITCH = 600.0, 800.0, 10.0, 12.0
LETTER = 6.0
"""Width of a character of Courier at this size."""


def pdf(pages: Sequence[Sequence[Placed]], rotation: int = 0, encrypted: str = "") -> bytes:
    """Write a PDF in Courier, whose characters all have the same width."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects += [
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Courier /Encoding /WinAnsiEncoding >>",
    ]
    for number, placed in enumerate(pages):
        shown = []
        for left, base, size, text in placed:
            escaped = text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
            shown.append(f"BT /F1 {size} Tf {left} {base} Td ({escaped}) Tj ET")
        stream = "\n".join(shown)
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {WIDTH} {HEIGHT}] /Rotate {rotation} "
            f"/Contents {5 + 2 * number} 0 R /Resources << /Font << /F1 3 0 R >> >> >>",
            f"<< /Length {len(stream.encode('cp1252'))} >>\nstream\n{stream}\nendstream",
        ]
    content = b"%PDF-1.4\n"
    places = []
    for number, one in enumerate(objects, 1):
        places.append(len(content))
        content += f"{number} 0 obj\n{one}\nendobj\n".encode("cp1252")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    trailer = f"<< /Size {size} /Root 1 0 R {encrypted}>>"
    return (
        content
        + (
            f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n{trailer}\nstartxref\n{len(content)}\n%%EOF\n"
        ).encode()
    )


def read(path: Path, content: bytes, maximum_bytes: int = 100_000) -> Document | Fault:
    path.write_bytes(content)
    reader = reader_of("pdf")
    assert reader.accepts(str(path))
    (found,) = reader.read(FileRange(str(path), 0, len(content), len(content)), maximum_bytes)
    return found


def words(count: int, seed: int) -> str:
    source = random.Random(seed)
    return " ".join("".join(source.choices("abcdefghijklmnop", k=source.randrange(2, 9))) for _ in range(count)) + "."


def wrapped(text: str, characters: int) -> list[str]:
    """Wrap a text, and divide words where a line would end."""
    lines, rest = [], text
    while len(rest) > characters:
        cut = characters - 1
        if rest[cut].isalpha() and rest[cut - 1].isalpha():
            lines.append(rest[:cut] + "-")
            rest = rest[cut:]
        else:
            place = rest.rfind(" ", 0, characters + 1)
            lines.append(rest[:place])
            rest = rest[place + 1 :]
    return [*lines, rest]


PARAGRAPHS = [[words(count, 1000 * number + count).capitalize() for count in (60, 70, 50, 80)] for number in range(4)]
"""Paragraphs of each page."""


def column(texts: Sequence[str], left: float, top: float, characters: int) -> list[Placed]:
    placed: list[Placed] = []
    for text in texts:
        for line in wrapped(text, characters):
            placed.append((left, top, SIZE, line))
            top -= PITCH
        top -= PITCH
    return placed


def two_columns() -> list[list[Placed]]:
    """Pages with a title over two columns, a running head, a footnote's place left empty, and a number."""
    pages = []
    for number in range(4):
        page: list[Placed] = [
            (60, 770, 8, f"Towers {'of' if number % 2 else 'and'} the Sea"),
            (300, 30, 8, f"{number + 7}"),
        ]
        top = 730.0
        if number == 0:
            page.append((120, 735, 16, "On the Height of Towers"))
            top = 690.0
        page += column(PARAGRAPHS[number][:2], 50, top, 38)
        page += column(PARAGRAPHS[number][2:], 330, top, 38)
        pages.append(page)
    return pages


EXPECTED = "\n\n".join(["On the Height of Towers", *(text for page in PARAGRAPHS for text in page)])


@pytest.mark.parametrize("order", ["column by column", "row by row", "random"])
def test_two_columns_in_any_order(tmp_path: Path, order: str) -> None:
    pages = two_columns()
    for page in pages:
        if order == "row by row":
            page.sort(key=lambda placed: (-placed[1], placed[0]))
        elif order == "random":
            random.Random(7).shuffle(page)
    document = read(tmp_path / "a.pdf", pdf(pages))
    assert isinstance(document, Document)
    assert document.text == EXPECTED
    assert document.metadata == {"file": "a.pdf", "pages": 4, "running_heads": 8}


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_turned_page_is_read_as_it_is_shown(tmp_path: Path, rotation: int) -> None:
    upright = [[(50.0, 700.0 - 12 * n, 10.0, f"Line {n} of the page that is turned") for n in range(5)]]
    document = read(tmp_path / "a.pdf", pdf(upright, rotation))
    assert isinstance(document, Document)
    # the text itself is turned with its page: only at 0 degrees are its lines horizontal
    assert set(document.text.split()) == set(" ".join(placed[3] for placed in upright[0]).split())
    assert rotation or document.text == " ".join(placed[3] for placed in upright[0])


def test_bad_files_are_set_aside(tmp_path: Path) -> None:
    good = pdf([[(50, 700, 10, "Some text of a page that is long enough")]])
    assert isinstance(read(tmp_path / "a.pdf", good), Document)
    reasons = {
        "damaged_file": b"%PDF-1.4 and nothing else",
        "no_text_layer": pdf([[], []]),
        "too_large": pdf([column([words(3000, 5)], 50, 780, 80)]),
    }
    for reason, content in reasons.items():
        fault = read(tmp_path / "a.pdf", content, 10_000)
        assert isinstance(fault, Fault) and fault.reason == reason


def line(text: str, left: float = 50, base: float = 700, size: float = 10) -> Line:
    return Line(text, left, base, left + LETTER * len(text), base + size)


def page(*lines: Line) -> Page:
    return Page(lines, 0.0, HEIGHT)


def paragraph(*texts: str) -> str:
    return text_of([page(*(line(text, base=500 - 12 * n) for n, text in enumerate(texts)))])[0]


@pytest.mark.parametrize(
    ("above", "below", "text"),
    [
        ("the tower is an old build-", "ing near the sea", "the tower is an old building near the sea"),
        ("a well-known tower, a well-", "known man, is here", "a well-known tower, a well-known man, is here"),
        ("this is the way of Anglo-", "Saxon towers", "this is the way of Anglo-Saxon towers"),
        ("in the years until 1918-", "1919 it stood empty", "in the years until 1918-1919 it stood empty"),
        (
            "灯台は海岸に建つ建物である。昔から",
            "船を導く光である",
            "灯台は海岸に建つ建物である。昔から船を導く光である",
        ),
    ],
)
def test_divided_words(above: str, below: str, text: str) -> None:
    assert paragraph(above, below) == text


def test_paragraphs_by_indent_gap_and_size() -> None:
    lines = [
        line("Heading", base=600, size=16),
        line("first line of a paragraph that is long", base=570),
        line("second line of a paragraph that is long", base=558),
        line("indented line of another paragraph here", left=70, base=546),
        line("its second line as long as the others is", base=534),
        line("a line after a gap as long as the others", base=500),
    ]
    assert text_of([page(*lines)])[0].split("\n\n") == [
        "Heading",
        "first line of a paragraph that is long second line of a paragraph that is long",
        "indented line of another paragraph here its second line as long as the others is",
        "a line after a gap as long as the others",
    ]


def test_titles_of_chapters_are_running_heads_and_first_lines_are_not() -> None:
    pages = []
    for number in range(12):
        head = [line(f"Chapter {'ABCD'[number // 3]}", base=760), line(f"{number + 1}", left=500, base=760)]
        body = [line(f"{words(8, 20 * number + n)}", base=730 - 12 * n) for n in range(40)]
        pages.append(page(*head, *body))
    text, heads = text_of(pages)
    assert heads == 24 and "Chapter" not in text
    assert all(body.text.split()[0] in text for one in pages for body in one.lines[2:])


def test_paragraphs_go_on_over_columns_and_pages() -> None:
    one = page(line("A sentence that goes on with an-", base=400))
    two = page(line("other page of it. And another one.", base=400))
    assert text_of([one, two])[0] == "A sentence that goes on with another page of it. And another one."


def test_a_table_is_read_by_rows() -> None:
    cells = [
        line(text, left=50 + 150 * place, base=600 - 12 * row)
        for row in range(6)
        for place, text in enumerate((f"row {row}", f"{row * 7}", f"{row}.5"))
    ]
    text = text_of([page(*cells)])[0]
    assert [text.index(f"row {row}") < text.index(f"{row}.5") for row in range(6)] == [True] * 6
    assert "row 2 14 2.5" in text
