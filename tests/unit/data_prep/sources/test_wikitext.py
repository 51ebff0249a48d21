"""Wikitext as text: articles beside what a reader sees of them, and markup that is wrong, nested or meant literally."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from data_prep.sources.wikipedia_names import CATEGORY_ALIASES, FILE_ALIASES, LANGUAGES, VARIANTS
from data_prep.sources.wikitext import Names, render

FOLDER = Path(__file__).parent / "wiki_articles"
"""Articles written for these tests, in the markup that Wikipedias use: the wikitext, and what a reader sees of it,
without boxes, tables, notes and files."""
ARTICLES = {
    path.stem: (path.read_text(encoding="utf-8"), path.with_suffix(".txt").read_text(encoding="utf-8").rstrip("\n"))
    for path in sorted(FOLDER.glob("*.wiki"))
}
LOCAL = {  # the local names that are in a dump
    "ar": "ملف تصنيف", "bg": "Файл Категория", "ca": "Fitxer Categoria", "cs": "Soubor Kategorie", "da": "Fil Kategori",
    "de": "Datei Kategorie", "es": "Archivo Categoría", "fr": "Fichier Catégorie", "hr": "Datoteka Kategorija",
    "hu": "Fájl Kategória", "it": "File Categoria", "ja": "ファイル Category", "nl": "Bestand Categorie",
    "pl": "Plik Kategoria", "pt": "Ficheiro Categoria", "ro": "Fișier Categorie", "ru": "Файл Категория",
    "sl": "Slika Kategorija", "sr": "Датотека Категорија", "sv": "Fil Kategori", "uk": "Файл Категорія",
}  # fmt: skip


def names_of(language: str) -> Names:
    hidden = f"file image category {LOCAL.get(language, '')} {FILE_ALIASES.get(language, '')}"
    hidden += f" {CATEGORY_ALIASES.get(language, '')}"
    return Names(frozenset(hidden.lower().split()), LANGUAGES, VARIANTS.get(language, ()))


def text_of(wikitext: str, language: str = "en") -> str:
    return render(wikitext, names_of(language)).text


@pytest.mark.parametrize("language", ARTICLES)
def test_an_article_is_what_a_reader_sees(language: str) -> None:
    wikitext, text = ARTICLES[language]
    assert text_of(wikitext, language) == text


def test_all_languages_of_llama_are_judged() -> None:
    llama = "bg ca cs da de en es fr hr hu it nl pl pt ro ru sl sr sv uk"
    assert set(f"{llama} zh ja ar".split()) <= set(ARTICLES)


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("a {{unclosed b [[c]]", "a {{unclosed b c"),
        ("a [[unclosed b {{x}} c", "a [[unclosed b c"),
        ("a {{x|[[unclosed}} b", "a b"),
        ("a }} b ]] c |} d", "a }} b ]] c |} d"),
        ("{{a|{{b|{{c|[[d|{{e}}]]}}}}}}text", "text"),
        ("{{{param|default}}} text", "} text"),
        ("[[a\nb]]", "[[a\nb]]"),
        ("[[a|b\nc]]", "b\nc"),
        ("[[Image:x.jpg|thumb|a [[b|c]] d [http://e f] {{g}}]]h", "h"),
        ("[[:File:x.jpg]] and [[:fr:Mot|mot]] and [[fr:Mot]]", "File:x.jpg and mot and"),
        ("[[a#b|c]]s, [[d (e)]]s", "cs, d (e)s"),
        ("<ref>a</ref>b<ref name=x/>c<ref name='y'>d {{e}} [[f</ref>g", "bcg"),
        ("a <ref>never closed [[b|c]]", "a never closed c"),
        ("a<!-- b {{ [[ --> c", "a c"),
        ("a <!-- never closed", "a"),
        ("one\n<!-- alone -->\ntwo", "one\ntwo"),
        ("a < b > c <unknown>d</unknown> <b>e</b>", "a < b > c <unknown>d</unknown> e"),
        ("a<br />b<br>c", "a\nb\nc"),
        ("H<sub>2</sub>O, 10<sup>-6</sup>, 19<sup>th</sup>", "H2O, 10⁻⁶, 19th"),
        ("&lt;ref&gt; &amp;nbsp; &eacute;&#233;&#xe9; &nosuch; AT&T&copy;", "<ref> &nbsp; ééé &nosuch; AT&T©"),
        ("a&nbsp;b", "a b"),
        ("__TOC__ __NICHT_INDEXIEREN__x __init__", "x __init__"),
        ("{{formatnum:1234}} {{lc:ABC}} {{#if:x|y|z}} {{PAGENAME}}", "1234 ABC"),
        ("x {{nowrap|a {{lang|fr|b [[c|d]]}} e}} y", "x a b d e y"),
        ("{{convert|5|to|6|km|mi}}, {{convert|3|x|4|m}}, {{cvt|7|lb}}", "5 to 6 km, 3 × 4 m, 7 lb"),
        (
            "{{as of|2010|May}}, {{as of|2011|lc=y}} {{chem|H|2|O}} {{transl|ru|ISO|a}}",
            "As of May 2010, as of 2011 H2O a",
        ),
        ("{{frac|1|2}} {{frac|3}} {{frac|5|1|2}}", "1⁄2 1⁄3 5 1⁄2"),
        ("{{nihongo|Light|灯|hi}} {{zh|t=燈|s=灯|p=dēng}}", "Light (灯, hi) 灯; 燈; dēng"),
        ("[http://a.b c d] [//a.b e] [http://a.b] [mailto:x@y.z f] [0] http://a.b/c", "c d e f [0] http://a.b/c"),
        ("a ({{x}}) b ({{x}}; c) d (e, {{x}}) f ({{x}}, {{y}}) g()", "a b (c) d (e) f g()"),
        ("a ({{x}}; {{y}}; {{x}}; c {{y}} d)", "a (c d)"),
        ("a {{x}}, b {{y}}.", "a, b."),
    ],
)
def test_markup(wikitext: str, text: str) -> None:
    assert text_of(wikitext) == text


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''a''' ''b'' '''''c''''' d", "a b c d"),
        ("l'''homme'' et '''a'''", "l'homme et a"),
        ("rock 'n' roll, the 90's, a 'quote'", "rock 'n' roll, the 90's, a 'quote'"),
        ("''''a''''", "'a'"),
        ("''''''a", "'a"),
        ("'''Rock''''s sea", "Rock's sea"),
        ("it''s", "its"),
    ],
)
def test_apostrophes(wikitext: str, text: str) -> None:
    assert text_of(wikitext) == text


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("a\n{|\n|b\n{|\n|c\n|}\n|d\n|}\ne", "a\n\ne"),
        ("a\n:{| class=x\n|b {{y|\n|}} z\n|}\ne", "a\n\ne"),
        ("a\n{{x|\n{|\n|b\n|}}}\ne", "a\n\ne"),
        ("a\n{|\n| never closed\n\n== b ==\nc", "a\n\nb\n\nc"),
        ("a {| b |} c", "a {| b |} c"),
        ("{{table start}}\n|-\n| b || c\n{{table end}}\nd", "d"),
        ("a\n<table><tr><td>b<table><tr><td>c</td></tr></table></td></tr></table>\nd", "a\n\nd"),
        ("a\n{|\n|b\n{{x}}\n|}\n{|\n|c\n|}\nd", "a\n\nd"),
    ],
)
def test_tables(wikitext: str, text: str) -> None:
    assert text_of(wikitext) == text


def test_sections_without_text_have_no_heading() -> None:
    wikitext = "lead\n== A ==\n=== A1 ===\n{{x}}\n=== A2 ===\ntext\n== B ==\n=== B1 ===\n== C ==\n[[File:x.jpg]]\n"
    assert text_of(wikitext) == "lead\n\nA\n\nA2\n\ntext"
    assert text_of("== a = b ==\nc\n===d==\ne\n==\nf\n== ==\ng") == "a = b\n\nc\n\n=d\n\ne\n==\nf\n== ==\ng"


def test_lists() -> None:
    assert text_of("* a\n** b\n* {{x}}\n*\n# c\n# d\n\n# e\n:f\n;g") == "- a\n  - b\n1. c\n2. d\n\n1. e\nf\ng"
    article = render("lead of ten\n* " + "x" * 87, names_of("en"))
    assert article.list_share == pytest.approx(0.89, abs=0.01)


def test_literal_text_is_kept() -> None:
    assert text_of("<nowiki>[[a]] {{b}} ''c'' &lt;</nowiki>") == "[[a]] {{b}} ''c'' <"
    assert text_of("<pre>\n* a\n  b [[c]]\n</pre>") == "* a\n  b [[c]]"
    assert text_of("a <source lang=c inline>x = y[[0]];</source> b") == "a x = y[[0]]; b"
    assert text_of("a <math>x_{[[1]]}</math> b") == "a $x_{[[1]]}$ b"


def test_a_language_that_is_not_known_is_read_too() -> None:
    assert text_of("'''Dosiero''' [[lumo|luma]] {{io}} -{a}-", "eo") == "Dosiero luma -{a}-"


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("-{zh-hant:電腦; zh-cn:计算机}- -{a}- -{T|zh-hans:x;zh-hant:y}-b", "计算机 a b"),
        ("-{zh-hant:電腦;zh-tw:x}-", "電腦"),
        ("-{zh-hans|a}- -{H|zh-hans:a}-c", "a c"),
        ("-{a [[b|-{c}-]]}-", "a c"),
        ("x-{y", "x-{y"),
    ],
)
def test_writing_systems(wikitext: str, text: str) -> None:
    assert text_of(wikitext, "zh") == text


def test_names_of_templates_are_told() -> None:
    assert render("{{Disambiguation}} {{ Place_name\n|x={{Cite web}}}}", names_of("en")).templates == {
        "disambiguation", "place name", "cite web",
    }  # fmt: skip


def test_any_mixture_of_marks_ends_in_text() -> None:
    source = random.Random(5)
    marks = [
        "{{",
        "}}",
        "[[",
        "]]",
        "{|",
        "|}",
        "|",
        "<ref>",
        "</ref>",
        "<!--",
        "-->",
        "''",
        "==",
        "*",
        "a",
        "<table>",
        "</table>",
        "-{",
        "}-",
        "[http://a",
        "]",
        "<nowiki>",
        "</nowiki>",
        "&lt;",
        "(",
        ")",
        "lang",
        ":",
        "\n",
    ]
    for _ in range(3000):
        text = render("".join(source.choices(marks, k=source.randrange(1, 60))), names_of("zh")).text
        assert not set(text) & set("\0\1\2")
