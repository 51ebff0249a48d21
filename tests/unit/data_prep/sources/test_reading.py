from __future__ import annotations

import re
from pathlib import Path

import pytest

from data_prep.sources import KINDS, Document, Fault, FileRange, reader_of


def read_file(kind: str, path: Path, maximum_bytes: int = 1_000_000) -> list[Document | Fault]:
    size = path.stat().st_size
    return list(reader_of(kind).read(FileRange(str(path), 0, size, size), maximum_bytes))


def only_text(kind: str, path: Path) -> str:
    (document,) = read_file(kind, path)
    assert isinstance(document, Document), document
    return document.text


def only_fault(kind: str, path: Path, maximum_bytes: int = 1_000_000) -> Fault:
    (fault,) = read_file(kind, path, maximum_bytes)
    assert isinstance(fault, Fault), fault
    return fault


def test_an_unknown_kind_names_the_known() -> None:
    with pytest.raises(ValueError, match="kind 'txt' is unknown; did you mean 'text'\\? known are jsonl, parquet"):
        reader_of("txt")


@pytest.mark.parametrize("kind", ["text", "python", "docstrings"])
def test_faults_of_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.py"
    for content, reason in [
        (b"", "empty"),
        (b"\0\1\2", "binary"),
        (b"# caf\xe9\n", "invalid_utf8"),
        (b"# " + b"x" * 2000, "too_large"),
    ]:
        path.write_bytes(content)
        assert only_fault(kind, path, 1000).reason == reason


def test_an_undecodable_file_names_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\nthr\xe9e\n")
    fault = only_fault("text", path)
    assert (fault.path, fault.line) == (str(path), 3) and "byte 0xe9 at offset 11 is not utf-8" in fault.detail


def test_text_loses_its_byte_order_mark_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf one\r\n\ttwo \n")
    assert only_text("text", path) == " one\r\n\ttwo \n"


@pytest.mark.parametrize(
    ("name", "is_text"),
    [
        ("README", True), ("README.md", True), ("NEWS.gz", True), ("copyright", True), ("METADATA", True),
        ("a.rst", True),
        ("LICENSE-APACHE", True), ("changelog.Debian.gz", True), ("a.html", False), ("RECORD", False), ("a.png", False),
        ("license.py", False), ("a.so", False), ("top_level.txt", True),
    ],
)  # fmt: skip
def test_which_files_of_a_folder_are_text(name: str, is_text: bool) -> None:
    assert reader_of("text").accepts(f"/folder/{name}") == is_text


def test_python_is_decoded_as_python_does(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_bytes("# -*- coding: latin-1 -*-\nname = 'café'\n".encode("latin-1"))
    assert only_text("python", path).endswith("name = 'café'\n")
    path.write_bytes(b"# coding: no-such-thing\n")
    assert "unknown encoding" in only_fault("python", path).detail


def test_docstrings_stand_below_what_they_describe(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        '"""About the module."""\n'
        "import os\n"
        "def f(a, *, b=1):\n"
        '    """About f.\n\n        An example.\n    """\n'
        "if os.name:\n"
        "    class C:\n"
        '        """About C."""\n'
        "        async def g(self, x):\n"
        '            """About g: \\d."""\n'
        "def silent(): pass\n"
    )
    assert only_text("docstrings", path) == (
        "About the module.\n\nf(a, b)\n\nAbout f.\n\nAn example.\n\nclass C\n\nAbout C.\n\nC.g(x)\n\nAbout g: \\d.\n"
    )


def test_a_module_that_does_not_parse_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("a = 1\nprint 'x'\n")
    fault = only_fault("docstrings", path)
    assert (fault.reason, fault.line) == ("syntax_error", 2)


def test_every_kind_has_a_reader() -> None:
    assert all(reader_of(kind).read for kind in KINDS)


def test_the_documentation_describes_every_kind_in_the_order_of_the_table() -> None:
    page = (Path(__file__).parents[4] / "docs" / "data_at_scale.md").read_text(encoding="utf-8")
    table = page[page.index("| kind |") : page.index("`altiplano data freeze`")]
    first_cells = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith(("| `", "| [`")))
    assert re.findall(r"`(\w+)`", first_cells) == list(KINDS)
