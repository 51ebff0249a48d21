"""Work grows linearly with the input: it is counted at one length and at four times that length."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from data_prep.sources import latex
from data_prep.sources.html import _depth, extract_blocks, extract_with, main_text
from data_prep.sources.wikitext import Names, render
from data_prep.tokenizer.byte_level import LONGEST_WORD, without_long_words
from tests.unit.data_prep.regex_steps import StepCounter, TooManyStepsError

MODULES = (
    "data_prep.signals.pii.addresses", "data_prep.signals.pii.keys", "data_prep.signals.pii.numbers",
    "data_prep.sources.html", "data_prep.sources.page_blocks", "data_prep.sources.page_names",
    "data_prep.sources.page_text", "data_prep.sources.main_content",
    "data_prep.sources.latex", "data_prep.sources.catalogue",
    "data_prep.sources.stackexchange", "data_prep.sources.warc", "data_prep.sources.wikitext",
    "data_prep.sources.wikitext_templates", "data_prep.sources.wikipedia", "data_prep.sources.licenses",
    "data_prep.sources.code_files", "data_prep.sources.code_languages", "data_prep.sources.gutenberg",
    "data_prep.sources.epub", "data_prep.sources.pdf", "data_prep.sources.pdf_layout",
    "data_prep.sources.arxiv", "data_prep.sources.web_encodings", "data_prep.sources.warc_records",
    "data_prep.tokenizer.byte_level", "data_prep.signals.perplexity",
)  # fmt: skip
UNITS = (
    " ", "a", "a ", "1", "12 34 ", "+2.2178851811178331e+05 ", "a@a.", "eyJa.", "\\", "\\[", "\\def\\a", "{", "%",
    "<div>", "\\verb|", ".", "coding:", "/LC_MESSAGES/", "{{", "[[", "\0", " \0", "\0, ", "(", "-{", "<a", "[http://a ",
)  # fmt: skip
WINDOWED = (
    "data_prep.signals.pii.keys._HEXADECIMAL", "data_prep.signals.pii.addresses._LOCAL_PART",
    "data_prep.signals.pii.addresses._IDENTIFIER", "data_prep.signals.pii.keys._WORD",
)  # fmt: skip
"""Asked of at most 256 bytes, from their start or to their end."""
PREFIXES = ("", "x", "\\def\\a", "\\input{", "\\newcommand", "+1", "charset", "\n", "-*-")
SHORT = 32


def patterns() -> list[tuple[str, re.Pattern[Any]]]:
    found = {}
    for name in MODULES:
        for variable, value in vars(importlib.import_module(name)).items():
            if isinstance(value, re.Pattern) and f"{name}.{variable}" not in WINDOWED:
                found[f"{name.rpartition('.')[2]}.{variable}"] = value
    return sorted(found.items())


def of_length(prefix: str, unit: str, characters: int, pattern: re.Pattern[Any]) -> Any:
    text = prefix + unit * (characters // len(unit)) + "\x00"
    return text if isinstance(pattern.pattern, str) else text.encode()


def grows_faster(pattern: re.Pattern[Any], prefix: str, unit: str) -> bool:
    """Whether four times as much takes more than six times the steps, at two lengths one after the other: what is
    bounded, such as by `{0,64}`, may grow faster up to its bound."""
    length = SHORT
    steps = StepCounter(pattern).search(of_length(prefix, unit, length, pattern))
    while length < 4000:
        length *= 4
        try:
            more = StepCounter(pattern, most=6 * steps + 2000).search(of_length(prefix, unit, length, pattern))
        except TooManyStepsError:
            steps *= 16
            if steps > 2_000_000:
                return True
            continue
        return more > 6 * steps + 2000
    return True


def test_the_counter_sees_what_backtracks() -> None:
    sys.setrecursionlimit(20_000)
    for bad, unit in [(r"[ \t]+$", " "), (r"a*a*b", "a"), (r"(?:\w+\s?)+$", "a")]:
        counter = StepCounter(re.compile(bad))
        text = unit * 12 if bad.startswith("(?:") else unit * 100
        assert counter.search(text + "\x00") > 25 * len(text)
    assert StepCounter(re.compile(r"(?<![ \t])[ \t]+$")).search(" " * 100 + "x") < 10 * 100


@pytest.mark.parametrize(("name", "pattern"), patterns(), ids=[name for name, _ in patterns()])
def test_no_pattern_backtracks_through_a_text(name: str, pattern: re.Pattern[Any]) -> None:
    sys.setrecursionlimit(20_000)
    bad = [(prefix, unit) for unit in UNITS for prefix in PREFIXES[:1] if grows_faster(pattern, prefix, unit)]
    bad += [(prefix, " ") for prefix in PREFIXES if grows_faster(pattern, prefix, " ")]
    assert bad == []


def calls(function: Callable[[str], object], text: str) -> int:
    count = 0

    def counted(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += 1

    def traced(frame: Any, event: str, argument: object) -> Any:
        counted(frame, event, argument)
        return traced

    sys.settrace(traced)
    try:
        function(text)
    finally:
        sys.settrace(None)
    return count


def latex_text(text: str) -> str:
    return latex.body(latex.expand_macros(latex.whole_text({"main.tex": text}, "main.tex")))


@pytest.mark.parametrize(
    "unit",
    [
        "\\def\\a{", "\\newcommand{\\a}{", "\\newcommand{\\a}[1][", "\\verb|x| ", "\\verb|%", "\\begin{verbatim}",
        "\\DeclareMathOperator{\\a}{", "\\input{ ", "{", "\\newcommand{\\b}[1]{x}\\b{",
    ],
)  # fmt: skip
def test_lines_of_latex_are_read_once(unit: str) -> None:
    few, many = (calls(latex_text, unit * count) for count in (50, 200))
    assert many <= 5 * few


@pytest.mark.parametrize(
    "unit",
    [
        "{{", "[[", "{{a|[[b|", "{{nowrap|", "{{nowrap|a}}", "\n{|\n|a", "<ref>", "<math>", "<table>", "<!--", "[[a",
        "\n# a", "\n#", "{{a}} (", "[http://a ", "-{zh:", "&a", "<a ", "}}", "]]", "\n=", "<nowiki>", "{{#if:", "\n|}",
        "''b'''c",
    ],
)  # fmt: skip
def test_wikitext_is_read_once(unit: str) -> None:
    names = Names(frozenset(("file",)), frozenset(("de",)), ("zh",))
    few, many = (calls(lambda text: render(text, names), unit * count) for count in (100, 400))
    assert many <= 5 * few + 500


@pytest.mark.parametrize(
    "unit",
    [
        "<div>", "<div class='share'>words, words and words, of which there are some more than sixty letters. ",
        "<ul><li>a", "<ol><li>a", "<table><tr><td>a", "<td>", "<td>a", "<table><tr>" + "<td>a</td>" * 9,
        "<blockquote>a",
        "<pre>a\n", "<p>a", "a<br>", "<b>a", "<h2>a</h2>", "<a href='x'>a", "<dl><dt>a<dd>b", "<!--a-->", "<", "<svg>",
        "<script>a</script>", "<p class='share a'>a</p>", "<div hidden>a", "<main>a", "<article><p>word, word.",
        "<li><h2>a</h2><ul><li><a href='x'>a</a></li></ul>",
    ],
)  # fmt: skip
@pytest.mark.parametrize("markdown", [False, True])
def test_blocks_of_a_page_are_read_once(unit: str, markdown: bool) -> None:
    few, many = (calls(lambda page: extract_blocks(page, markdown), unit * count) for count in (150, 600))
    assert many <= 5 * few + 500


def test_deep_pages_are_read_without_looking_for_their_main_content(monkeypatch: pytest.MonkeyPatch) -> None:
    import resiliparse.extract.html2text as library

    asked: list[bool] = []
    whole = library.extract_plain_text

    def noted(page: str, **settings: Any) -> str:
        asked.append(settings["main_content"])
        return str(whole(page, **settings))

    monkeypatch.setattr(library, "extract_plain_text", noted)
    extract = extract_with("resiliparse")
    for depth in (100, 3000):
        page = "<html><body>" + "<div>" * depth + "<p>Some words</p>" + "</div>" * depth + "</body></html>"
        assert _depth(page) == depth and "Some words" in (main_text(page.encode(), extract=extract) or "")
    many = ("<p>" + "x" * 2000 + "<p>y" * 3000).encode()  # and not deep
    assert "x" * 2000 in (main_text(many, extract=extract) or "")
    assert asked == [True, False, True]


def test_a_tokenizer_learns_from_pieces_of_long_words() -> None:
    for text in ("a" * 100_000, "." * 5000, "雪" * 3000, "words of a text, as they are. " * 100):
        pieces = list(without_long_words(text))
        assert "".join(pieces) == text
        longest = max(len(word) for piece in pieces for word in re.split(r"(?<=\s)|(?=\s)", piece))
        assert longest <= LONGEST_WORD
    assert list(without_long_words("words of a text, as they are. " * 100)) == ["words of a text, as they are. " * 100]


def test_work_of_kernels_is_linear() -> None:
    """Basic blocks that compiled code executes: four times the text takes four times as many, or eight where results
    that were too many are found a second time; all pairs of bytes would take sixteen times as many."""
    command = [sys.executable, "-m", "tests.unit.data_prep.counted_kernels"]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    counts: dict[str, dict[str, list[int]]] = json.loads(done.stdout.splitlines()[-1])
    grows = {
        (name, unit)
        for name, texts in counts.items()
        for unit, found in texts.items()
        if any(more > 10 * fewer + 2000 for fewer, more in pairwise(found))
    }
    planted = {(name, unit) for name, unit in grows if name == "all pairs, the fault"}
    assert len(planted) == len(counts["all pairs, the fault"]), "the count does not see a quadratic kernel"
    assert not grows - planted
    assert all(sum(found[-1] for found in texts.values()) > 0 for texts in counts.values()), "something is not counted"
