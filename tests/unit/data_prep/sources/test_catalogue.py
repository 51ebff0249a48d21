"""Catalogues are written here byte by byte, as the GNU gettext manual describes the format of MO files."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from data_prep.sources import Document, reader_of
from tests.unit.data_prep.sources.test_reading import only_fault, only_text, read_file

HEADER = b"Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=(n != 1);\n"
MESSAGES = [
    (b"", HEADER),
    (b"%d file\0%d files", b"%d Datei\0%d Dateien"),
    (b"Cannot open", "Öffnen nicht möglich.\nIst die Datei da?\n".encode()),
    (b"menu\4Open", "Öffnen".encode()),
    (b"untranslated", b""),
]


def catalogue(messages: list[tuple[bytes, bytes]], order: str = "<") -> bytes:
    """An MO file: header, table of originals, table of translations, then all strings with a NUL after each."""
    start = 28 + 16 * len(messages)
    tables, strings = [b"", b""], b""
    for column in (0, 1):
        for pair in messages:
            tables[column] += struct.pack(f"{order}2I", len(pair[column]), start + len(strings))
            strings += pair[column] + b"\0"
    header = struct.pack(f"{order}7I", 0x950412DE, 0, len(messages), 28, 28 + 8 * len(messages), 0, start)
    return header + b"".join(tables) + strings


@pytest.mark.parametrize("order", ["<", ">"])
def test_translations_are_paragraphs_in_the_order_of_the_file(tmp_path: Path, order: str) -> None:
    path = tmp_path / "share/locale/de/LC_MESSAGES/tool.mo"
    path.parent.mkdir(parents=True)
    path.write_bytes(catalogue(MESSAGES, order))
    (document,) = read_file("catalogue", path)
    assert isinstance(document, Document)
    assert document.text == "%d Datei\n\n%d Dateien\n\nÖffnen nicht möglich.\nIst die Datei da?\n\nÖffnen"
    assert document.metadata == {"file": "tool.mo", "catalogue_language": "de"}


def test_a_catalogue_in_another_place_has_no_language(tmp_path: Path) -> None:
    (tmp_path / "tool.mo").write_bytes(catalogue(MESSAGES))
    (document,) = read_file("catalogue", tmp_path / "tool.mo")
    assert isinstance(document, Document) and document.metadata["catalogue_language"] is None


def test_the_character_set_of_the_header_is_used(tmp_path: Path) -> None:
    header = b"Content-Type: text/plain; charset=ISO-8859-2\n"
    (tmp_path / "a.mo").write_bytes(catalogue([(b"", header), (b"yellow", "żółty".encode("iso-8859-2"))]))
    assert only_text("catalogue", tmp_path / "a.mo") == "żółty"


GOOD = catalogue(MESSAGES)


@pytest.mark.parametrize(
    ("content", "reason", "detail"),
    [
        (b"", "empty", "no bytes"),
        (b"\xde\x12\x04\x96" + GOOD[4:], "damaged_file", "Bad magic number"),
        (GOOD[:4] + struct.pack("<I", 7 << 16) + GOOD[8:], "damaged_file", "Bad version number 7"),
        (GOOD[:-40], "damaged_file", "File is corrupt"),
        (GOOD[:70], "damaged_file", "ends within its header or a table"),
        (GOOD[:3], "damaged_file", "ends within its header or a table"),
        (GOOD[:16] + struct.pack("<I", 1 << 30) + GOOD[20:], "damaged_file", "ends within its header or a table"),
        (GOOD[:32] + struct.pack("<I", len(GOOD)) + GOOD[36:], "damaged_file", "File is corrupt"),
        (GOOD.replace(b"=UTF-8", b"=UTF-9"), "undecodable", "unknown encoding: UTF-9"),
        (GOOD.replace(b"=UTF-8", b"=ascii"), "undecodable", "in a message, byte 0xc3 at offset 0 is not ascii"),
        (GOOD.replace("Ö".encode(), b"\xd6x"), "invalid_utf8", "in a message, byte 0xd6 at offset 0 is not utf-8"),
        (GOOD.replace(b"charset=", b"charset "), "damaged_file", "lacks `charset=`"),
        (GOOD.replace(b"(n != 1)", b"(n != n!"), "damaged_file", "cannot be parsed"),
        (catalogue([(b"", HEADER), (b"a", b"one\0two")]), "binary", "a NUL byte in the message 'one"),
        (catalogue([(b"", HEADER), (b"a", b"\0")]), "binary", "a NUL byte"),
        (catalogue([(b"", HEADER)]), "empty", "no text"),
    ],
)
def test_a_damaged_catalogue_is_set_aside(tmp_path: Path, content: bytes, reason: str, detail: str) -> None:
    path = tmp_path / "a.mo"
    path.write_bytes(content)
    fault = only_fault("catalogue", path)
    assert (fault.reason, fault.line) == (reason, None) and detail in fault.detail, fault


def test_only_mo_files_of_a_folder_are_read() -> None:
    accepts = reader_of("catalogue").accepts
    assert accepts("/usr/share/locale/de/LC_MESSAGES/tool.mo") and not accepts("/usr/share/locale/locale.alias")
