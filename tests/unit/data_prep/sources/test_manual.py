"""Roff to text. Expected words were compared with what groff 1.22.4 prints for the same pages."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from data_prep.sources import Document, Fault, FileRange
from data_prep.sources.manual import READER
from data_prep.sources.roff import alias_target, named_character, page_to_text

PAGE = r""".\" a comment
.TH LS 1 "May 2024" "coreutils" "User Commands"
.SH NAME
ls \- list directory contents
.SH SYNOPSIS
.B ls
[\fI\,OPTION\/\fR]... [\fIFILE\fR]...
.SH DESCRIPTION
List information about the
.BR FILE s,
see
.IR sort (1).
.PP
A second
paragraph\(em\(lqquoted\(rq.
.TP
\fB\-a\fR, \fB\-\-all\fR
do not ignore entries
starting with .
.TP
.BI \-\-block\-size= SIZE
scale sizes
.IP \(bu 2
an item
.nf
  keep   these
  lines \e
.fi
.SS "Exit status:"
0 if OK
"""


def test_a_page_with_the_man_macros() -> None:
    assert page_to_text(PAGE) == (
        "LS(1)\n\nNAME\n\nls - list directory contents\n\nSYNOPSIS\n\nls [OPTION]... [FILE]...\n\nDESCRIPTION\n\n"
        "List information about the FILEs, see sort(1).\n\nA second paragraph—“quoted”.\n\n"
        "-a, --all\ndo not ignore entries starting with .\n\n--block-size=SIZE\nscale sizes\n\n• an item\n"
        "      keep   these\n      lines \\\n\nExit status:\n\n0 if OK\n"
    )


def test_a_page_with_the_mdoc_macros() -> None:
    page = r""".Dd May 2, 2024
.Dt SCP 1
.Os
.Sh NAME
.Nm scp
.Nd secure file copy
.Sh SYNOPSIS
.Nm scp
.Op Fl 346ABC
.Op Fl c Ar cipher
.Ar source ... target
.Sh DESCRIPTION
.Nm
copies files
.Pq see Xr sftp 1 ,
between hosts.
.Bl -tag -width Ds
.It Fl c Ar cipher
Selects the cipher.
.It Ev HOME
The
.Dq home
folder.
.El
"""
    assert page_to_text(page) == (
        "SCP(1)\n\nNAME\n\nscp — secure file copy\n\nSYNOPSIS\n\n"
        "scp [-346ABC] [-c cipher] source ... target\n\nDESCRIPTION\n\n"
        "scp copies files (see sftp(1)), between hosts.\n\n"
        "-c cipher\nSelects the cipher.\n\nHOME\nThe “home” folder.\n"
    )


@pytest.mark.parametrize(
    ("roff", "text"),
    [
        (r"a\fBb\f(CWc\fP\f[I]d\s-1e\s0\s+2f", "abcdef"),
        (r"don\*(Aqt \*(lqx\*(rq \(aqy\(aq", "don't “x” 'y'"),
        (r"Fran\(,cois \(:Ubung \[u00E9]t\['e] \[u0065_0301]", "François Übung été é"),
        (r"C:\e \\fB \&.profile a\ b 1\0km\|", r"C:\ \fB .profile a b 1 km"),
        (r"50\h'-1'\v'2'\w'x'% \(+- \[->] \(*a\(*W", "50% ± → αΩ"),
        ("word\\c\n.B er", "worder"),
        ('one \\" not seen', "one"),
        ('.de XX\n.B \\\\$1 and \\\\$2\n..\n.XX "a b" c', "a b and c"),
        (".ds nm the name\nthis is \\*(nm.", "this is the name."),
        (".if n nroff\n.if t troff\n.if !n no\n.ie t A\n.el B", "nroff B"),
        (".if t \\{\\\n.B hidden\n.if n \\{ x \\}\n.\\}\nshown", "shown"),
        (".ie n \\{\\\nyes\n.\\}\n.el \\{\\\nno\n.\\}", "yes"),
        (".ig\nnever\n..\nalways", "always"),
        ('.ig \\" with a comment\nnever\n..\nalways', "always"),
        (".unknown macro\ntext", "text"),
        (".TS\ntab(:);\nl l.\na:b\n_\nT{\nlong\n.B cell\nT}:d\n.TE", "a\tb\nlong cell\td"),
        (".UR https://example.org\nthe page\n.UE .", "the page ."),
    ],
)
def test_the_language(roff: str, text: str) -> None:
    assert page_to_text(roff).strip() == text


def test_japanese_lines_are_joined_without_a_space_and_korean_ones_with() -> None:
    assert page_to_text("ファイルの\n一覧\n").strip() == "ファイルの一覧"
    assert page_to_text("파일의\n목록\n").strip() == "파일의 목록"


def test_names_of_characters() -> None:
    assert [named_character(name) for name in ("em", "~n", "vs", "*p", "u1F600", "uD800", "nonsense")] == [
        "—", "ñ", "š", "π", "😀", "", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "page", [".de A\n.A\n..\n.A\nend", ".ds a \\*b\n.ds b \\*a\n\\*a end", ".if " * 5000 + "x\nend"]
)
def test_a_page_that_never_ends_ends(page: str) -> None:
    assert page_to_text(page).strip().endswith("end")


def read(path: Path) -> Document | Fault:
    size = path.stat().st_size
    (result,) = READER.read(FileRange(str(path), 0, size, size), 1_000_000)
    return result


def test_language_of_the_folder_and_encoding_of_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "man" / "pt_BR" / "man1"
    folder.mkdir(parents=True)
    (folder / "a.1.gz").write_bytes(
        gzip.compress("'\\\" -*- coding: ISO-8859-1 -*-\n.SH NOME\nação\n".encode("latin-1"))
    )
    document = read(folder / "a.1.gz")
    assert isinstance(document, Document)
    assert document.text == "NOME\n\nação\n" and document.metadata["folder_language"] == "pt_BR"


def test_a_page_that_only_points_to_another_is_no_document(tmp_path: Path) -> None:
    path = tmp_path / "a.1"
    path.write_text('.\\" comment\n.so man3/b.3\n')
    fault = read(path)
    assert isinstance(fault, Fault) and fault.reason == "alias" and "man3/b.3" in fault.detail
    assert alias_target(".so man3/b.3\n.SH NAME\n") is None


@pytest.mark.parametrize(
    ("name", "accepted"),
    [("ls.1", True), ("ls.1.gz", True), ("X.3pm.gz", True), ("openssl.1ssl", True), ("ls.txt", False)],
)
def test_which_files_are_pages(name: str, accepted: bool) -> None:
    assert READER.accepts(f"/usr/share/man/man1/{name}") == accepted
