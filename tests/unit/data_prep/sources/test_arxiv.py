"""LaTeX papers; among the cases, the mistakes of other readers: each of them has lost text in a published corpus."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from data_prep.sources import Document, Fault, reader_of
from data_prep.sources.latex import MacroError, body, expand_macros, main_file, whole_text
from data_prep.sources.ranges import FileRange


def without_comments(text: str) -> str:
    return whole_text({"a.tex": text}, "a.tex")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a% comment\nb", "ab"),  # no character before the sign is eaten
        ("word % comment\n  next", "word next"),
        ("50\\% of it % comment\nrest", "50\\% of it rest"),
        ("50\\%\\% and\\\\% comment\nrest", "50\\%\\% and\\\\rest"),  # a line break, and then a comment
        ("one\n% alone\ntwo", "one\ntwo"),
        ("one % c\n\ntwo", "one \n\ntwo"),  # the paragraph still ends
        ("one%", "one"),
        ("%only", ""),
        ("\\begin{verbatim}\n100% kept\n\\end{verbatim} % gone", "\\begin{verbatim}\n100% kept\n\\end{verbatim} "),
        ("\\verb|%s| stays % gone", "\\verb|%s| stays "),
        ("% \\begin{verbatim}\ntext % gone", "text "),
    ],
)
def test_comments(text: str, expected: str) -> None:
    assert without_comments(text) == expected


def test_inputs_stand_where_they_are_named_in_their_order() -> None:
    files = {
        "main.tex": "\\begin{document}\nA \\input{sections/two} B % \\input{never}\n\\include{one}\\input plain C",
        "one.tex": "ONE",
        "sections/two.tex": "TWO \\input{sections/three.tex}",
        "sections/three.tex": "THREE \\input{main}\\input{missing}",
        "plain.tex": "PLAIN",
        "never.tex": "NEVER",
    }
    assert main_file(files) == "main.tex"
    assert whole_text(files, "main.tex").split() == ["\\begin{document}", "A", "TWO", "THREE", "B", "ONEPLAIN", "C"]


def test_files_that_input_each_other_without_end_are_refused() -> None:
    doubled = {f"{i}.tex": f"\\input{{{i + 1}}}\\input{{{i + 1}}}" for i in range(30)} | {"30.tex": "end"}
    with pytest.raises(MacroError, match=r"\\input makes it 10 times as long as all its files"):
        whole_text(doubled, "0.tex")
    chain = {f"{i}.tex": f"\\input{{{i + 1}}}" for i in range(2000)}
    with pytest.raises(MacroError, match=r"\\input is nested more than 100 deep"):
        whole_text(chain, "0.tex")
    often = {"main.tex": "\\input{rule}text" * 9, "rule.tex": "--"}
    assert whole_text(often, "main.tex") == "--text" * 9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\\newcommand{\\R}{\\mathbb{R}}\n$x\\in\\R$, $\\Real$", "$x\\in\\mathbb{R}$, $\\Real$"),
        ("\\newcommand{\\vec}[1]{\\mathbf{#1}}\n\\vec{x}\\vec y", "\\mathbf{x}\\mathbf{y}"),
        ("\\newcommand\\pair[2]{(#1, #2)}\n\\pair{a}{b{c}} \\pair {d} {e}", "(a, b{c}) (d, e)"),
        ("\\newcommand{\\norm}[2][2]{\\|#2\\|_#1}\n\\norm{x} \\norm[1]{y}", "\\|x\\|_2 \\|y\\|_1"),
        ("\\def\\E#1{\\mathbb{E}[#1]}\n\\E{x_{1}}", "\\mathbb{E}[x_{1}]"),
        ("\\DeclareMathOperator*{\\argmax}{arg\\,max}\n\\argmax_x", "\\operatorname*{arg\\,max}_x"),
        ("\\newcommand{\\a}{\\b!}\\newcommand{\\b}{B}\n\\a", "B!"),  # one in the other, whatever their order
        ("\\newcommand{\\us}{Name\\xspace}\n\\us{} and \\us, \\us is", "Name and Name, Name is"),
        ("\\renewcommand{\\b}{x\\b}\n\\b", "\\b"),  # by itself: left alone
        ("line\\\\R \\newcommand{\\R}{no}", "line\\\\R "),
        ("\\newcommand{\\x}[1]{<#1>}\n\\x", "\\x"),  # no argument there
        ("\\newcommand{\\x}{never closed", "\\newcommand{\\x}{never closed"),
    ],
)
def test_macros(text: str, expected: str) -> None:
    assert expand_macros(text) == expected


@pytest.mark.parametrize(
    "definitions",
    [
        "\\newcommand{\\a}{\\b\\b}\\newcommand{\\b}{\\a}",
        "".join("\\newcommand{\\" + x + "}{" + ("\\" + y) * 9 + "}" for x, y in ("ab", "bc", "cd", "de", "ef", "fg"))
        + "\\newcommand{\\g}{xxxxxxxxxx}",
    ],
)
def test_macros_that_do_not_end_are_said(definitions: str) -> None:
    with pytest.raises(MacroError, match="its macros"):
        expand_macros(definitions + "\\a")


def test_the_body_is_from_the_first_section_to_the_references() -> None:
    text = "\\begin{document}\\title{T}\\section{One} text \\section{Two} more \\bibliography{refs} \\end{document}"
    assert body("\\section{before} " + text) == "\\section{One} text \\section{Two} more"
    assert body("\\begin{document} A letter. \\end{document} after") == "A letter."  # no section is no reason to drop
    assert body("Plain TeX. \\bye") == "Plain TeX. \\bye"


PAPER = (
    "\\documentclass{article}\\newcommand{\\us}{Name}\n\\begin{document}\\section{I} \\us{} caf\u00e9.\\end{document}"
)


def tar(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.replace("__", "."))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def read(path: Path, maximum_bytes: int = 1_000_000) -> list[Document | Fault]:
    size = path.stat().st_size
    return list(reader_of("arxiv").read(FileRange(str(path), 0, size, size), maximum_bytes))


def test_an_archive_of_papers_in_all_their_forms(tmp_path: Path) -> None:
    path = tmp_path / "arXiv_src_2601_001.tar"
    folder = tar(main__tex=PAPER.encode(), figure__png=b"\x89PNG", refs__bbl=b"\\bibitem")
    path.write_bytes(
        tar(
            **{
                "2601/2601.00001__gz": gzip.compress(folder),
                "2601/hep-th9901001__gz": gzip.compress(PAPER.encode("latin-1")),
                "2601/2601.00003__pdf": b"%PDF",
                "2601/2601.00004__gz": gzip.compress(tar(figure__png=b"\x89PNG")),
                "2601/2601.00005__gz": gzip.compress(PAPER.encode())[:50],
                "2601/2601.00006__gz": gzip.compress(b"\\def\\a{\\b}\\def\\b{\\a}\\a " + b"text " * 30),
                "2601/2601.00007__gz": gzip.compress(b"\\section{x}" + b"x" * 30_000),
            }
        )
    )
    first, second, *faults = read(path, 20_000)
    assert isinstance(first, Document) and isinstance(second, Document)
    assert first.text == second.text == "\\section{I} Name caf\u00e9."
    assert (first.url, second.url) == ("https://arxiv.org/abs/2601.00001", "https://arxiv.org/abs/hep-th9901001")
    assert [fault.reason for fault in faults if isinstance(fault, Fault)] == [
        "no_latex",
        "damaged_file",
        "endless_macros",
        "too_large",
    ]


def test_a_paper_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "2601.00001.tar.gz"
    path.write_bytes(gzip.compress(tar(main__tex=PAPER.encode())))
    (document,) = read(path)
    assert isinstance(document, Document) and document.text.endswith("Name caf\u00e9.")


def test_a_damaged_archive_gives_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar(a__tex=PAPER.encode(), b__tex=PAPER.encode() * 50)[:1500])
    document, fault = read(path)
    assert isinstance(document, Document) and isinstance(fault, Fault) and fault.reason == "damaged_file"
