"""Raw files to documents: our readers beside the tools that people use, by processor time on one core.

Every contender runs in a process of its own, in turn. Ours read files, decompression and parsing included; peers that
take a text get it in memory, which favours them. MB are of wikitext, and of the files of other kinds as they are.

Without `--dump`, the dump is made from the corpus: its words with the markup of an encyclopedia (links, references,
boxes, tables), which is half of it, as in gensim's sample of the English Wikipedia.
"""

from __future__ import annotations

import argparse
import bz2
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from data_prep.sources import Document, Extractor, FileRange, reader_of
from data_prep.sources.html import extract_with
from foundation.progress import Progress
from tools.bench.data import CORPUS, CORPUS_HELP, load, no_corpus
from tools.bench.page import show

_STREAM_PAGES = 100
"""Pages in a stream of a multistream dump, as Wikipedia's have."""

Work = Callable[[], dict[str, Any]]


class Contender(NamedTuple):
    """A reader of one kind of raw text."""

    title: str
    peer: str | None
    """The contender that the ratio is to."""
    share: int
    """One in so many of the texts is read: slow peers get fewer."""
    prepare: Callable[[Path, int], tuple[Work, int]]
    """Called with the folder of raw files and the share; returns the work, and its bytes of raw text."""


def main(arguments: list[str]) -> int:
    """Make the raw files, time the contenders, and print medians and ratios."""
    parser = argparse.ArgumentParser(prog="altiplano bench sources", description=__doc__)
    parser.add_argument("--corpus", type=Path, default=CORPUS, help=CORPUS_HELP)
    parser.add_argument("--dump", type=Path, help="a dump of MediaWiki (.xml.bz2) to read instead of one that is made")
    parser.add_argument("--megabytes", type=float, default=8, help="megabytes of the corpus to make raw files from")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=sorted(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(time_one(CONTENDERS[given.one], given.folder)))
        return 0
    if fault := no_corpus(given.corpus):
        print(fault, file=sys.stderr)
        return 2
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), given)
        with Progress("bench sources", given.rounds * len(CONTENDERS), "processes") as progress:
            for _ in range(given.rounds):
                for name in CONTENDERS:
                    command = [sys.executable, "-m", "tools.bench", "sources", "--folder", folder, "--one", name]
                    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                    done = subprocess.run(command, capture_output=True, text=True, env=environment)
                    if done.returncode:
                        failures[name] = (done.stderr.strip().splitlines() or ["no message"])[-1]
                    else:
                        results[name].append(json.loads(done.stdout.splitlines()[-1]))
                    progress.advance()
    print_results(results, failures)
    return 1 if any(name.startswith("ours") for name in failures) else 0  # a peer that fails gets a row saying so


def print_results(results: dict[str, list[dict[str, Any]]], failures: dict[str, str]) -> None:
    """Print the medians, and how many times as fast as its peer each contender is."""
    speeds = {name: statistics.median(run["MB_per_second"] for run in runs) for name, runs in results.items() if runs}
    rows: list[tuple[object, ...]] = []
    for name, contender in CONTENDERS.items():
        if name in failures:
            rows.append((contender.title, "", "", "", f"failed: {failures[name][:100]}"))
            continue
        peer = contender.peer
        ratio = f"{speeds[name] / speeds[peer]:.1f}" if peer in speeds else ""
        run = results[name][0]
        told = ", ".join(f"{run[key]:,} {key}" for key in run if key not in ("MB", "MB_per_second"))
        rows.append((contender.title, f"{speeds[name]:.3g}", ratio, run["MB"], told))
    show("MB/s of one core", rows, ("what", "MB/s", "times the peer", "MB read", "result"))


def time_one(contender: Contender, folder: Path) -> dict[str, Any]:
    """Run one contender once; CPU seconds of this process, so that other load on the machine matters little."""
    work, size = contender.prepare(folder, contender.share)
    started = _processor_seconds()
    result = work()
    seconds = _processor_seconds() - started
    return {"MB": round(size / 1e6, 1), "MB_per_second": size / 1e6 / seconds, **result}


def _processor_seconds() -> float:
    """Processor seconds of this process and of programs that it has run."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def make_files(folder: Path, given: argparse.Namespace) -> None:
    """Write the raw files of all contenders."""
    texts = [text for text, _ in load(given.corpus, given.megabytes)]
    if given.dump is not None:
        (folder / "dump.xml.bz2").symlink_to(given.dump.resolve())
    else:
        (folder / "dump.xml.bz2").write_bytes(b"".join(_streams(texts)))

    _write_web_pages(folder / "pages.jsonl", texts)
    _write_questions(folder / "site" / "Posts.xml", texts)
    _write_book(folder / "book.epub", texts)
    _write_pages(folder / "pages.pdf", texts)
    with tarfile.open(folder / "code.tar", "w") as archive:
        library = Path(sysconfig.get_path("stdlib"))
        for path in sorted(library.rglob("*.py")):
            if "site-packages" not in path.parts:
                archive.add(path, f"library/{path.relative_to(library)}")


def _documents(kind: str, path: Path) -> dict[str, Any]:
    reader, size = reader_of(kind), path.stat().st_size
    found = [item for item in reader.read(FileRange(str(path), 0, size, size), 10**8) if isinstance(item, Document)]
    return {"documents": len(found), "bytes of text": sum(len(item.text.encode()) for item in found)}


# --- wikitext ---------------------------------------------------------------------------------------------------------


def _streams(texts: Sequence[str]) -> Iterator[bytes]:
    """Yield a multistream dump of the texts as articles."""
    yield bz2.compress(
        b'<mediawiki xml:lang="en">\n  <siteinfo>\n    <dbname>enwiki</dbname>\n'
        b"    <base>https://en.wikipedia.org/wiki/Main_Page</base>\n    <namespaces>\n"
        b'      <namespace key="6">File</namespace>\n      <namespace key="10">Template</namespace>\n'
        b'      <namespace key="14">Category</namespace>\n    </namespaces>\n  </siteinfo>\n'
    )
    pages = [
        f"  <page>\n    <title>Article {n}</title>\n    <ns>0</ns>\n    <id>{n}</id>\n    <revision>\n"
        f"      <id>{n}</id>\n      <text>{escape(as_wikitext(text, Random(n)))}</text>\n    </revision>\n  </page>\n"
        for n, text in enumerate(texts)
    ]
    for start in range(0, len(pages), _STREAM_PAGES):
        yield bz2.compress("".join(pages[start : start + _STREAM_PAGES]).encode())
    yield bz2.compress(b"</mediawiki>\n")


_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BOX = "{{Infobox thing\n| name = Thing\n| image = Thing.jpg\n| caption = A [[thing]]<ref>{{cite book|title=A}}</ref>\n"
_TABLE = '{| class="wikitable"\n! Year !! Name\n|-\n| 1900 || [[A|a]]\n|-\n| 1901 || {{flag|B}}\n|}\n'
_REFERENCE = (
    '<ref name="a{0}">{{{{cite web |url=https://a.example/{0}/page |title=A title of some words |first=Ann |last=Other '
    "|date=3 May 2020 |access-date=1 June 2021 |publisher=[[A publisher]]}}}}</ref>"
)


def as_wikitext(text: str, source: Random) -> str:
    """Add markup to a text: about as much of it as there is text."""
    parts = [_BOX, *(f"| field{n} = {{{{convert|{n}|km|mi}}}} or [[value {n}|v]]\n" for n in range(12)), "}}\n"]
    for number, line in enumerate(_NOT_XML.sub("", text).split("\n")):
        if number % 12 == 5:
            parts.append(f"\n== Section {number} ==\n[[File:A{number}.jpg|thumb|right|A [[picture]] of ''it''.]]\n")
        if number % 40 == 20:
            parts.append(_TABLE)
        words = line.split(" ")
        for place, word in enumerate(words):
            lot = source.random()
            if lot < 0.06:
                words[place] = f"[[{word}]]" if lot < 0.03 else f"[[{word} (thing)|{word}]]"
            elif lot < 0.072:
                words[place] = word + _REFERENCE.format(place)
            elif lot < 0.08:
                words[place] = f"''{word}''" if lot < 0.077 else f"{{{{lang|fr|{word}}}}}"
        parts.append(" ".join(words) + "\n")
    return "".join([*parts, "{{Reflist}}\n{{Navbox things}}\n[[Category:Things]]\n[[Category:Articles]]\n"])


def _pages(folder: Path, share: int) -> list[str]:
    """Return the wikitext of the articles, one in `share` of them."""
    root = ElementTree.fromstring(bz2.decompress((folder / "dump.xml.bz2").read_bytes()))
    space = root.tag[: root.tag.find("}") + 1]
    pages = [page for page in root.iter(f"{space}page") if page.find(f"{space}redirect") is None]
    return [page.findtext(f"{space}revision/{space}text") or "" for page in pages[::share]]


def _size(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def _dump_ours(folder: Path, share: int) -> tuple[Work, int]:
    reader_of("wikipedia")
    return lambda: _documents("wikipedia", folder / "dump.xml.bz2"), _size(_pages(folder, share))


def _wikitext_ours(folder: Path, share: int) -> tuple[Work, int]:
    from data_prep.sources.wikitext import Names, render

    pages, names = _pages(folder, share), Names(frozenset(("file", "image", "category")))
    return lambda: {"bytes of text": sum(len(render(page, names).text.encode()) for page in pages)}, _size(pages)


def _mwparserfromhell(folder: Path, share: int) -> tuple[Work, int]:
    import mwparserfromhell

    pages = _pages(folder, share)
    return lambda: {
        "bytes of text": sum(len(str(mwparserfromhell.parse(page).strip_code()).encode()) for page in pages)
    }, _size(pages)


def _dump_wikiextractor(folder: Path, share: int) -> tuple[Work, int]:
    def work() -> dict[str, Any]:
        command = ["-m", "wikiextractor.WikiExtractor", "--no-templates", "--json", "--processes", "1"]
        output = folder / "extracted"
        path = str((folder / "dump.xml.bz2").resolve())
        subprocess.run([sys.executable, *command, "-o", str(output), path], check=True, capture_output=True)
        found = [json.loads(line)["text"] for part in sorted(output.rglob("wiki_*")) for line in part.open()]
        return {"documents": sum(map(bool, found)), "bytes of text": _size(found)}

    return work, _size(_pages(folder, share))


def _wikitext_wikiextractor(folder: Path, share: int) -> tuple[Work, int]:
    from wikiextractor.extract import Extractor

    pages = _pages(folder, share)

    def work() -> dict[str, Any]:
        size = 0
        for page in pages:
            lines = Extractor(0, "", "", "Title", [page]).clean_text(page, expand_templates=False)
            size += sum(len(line.encode()) for line in lines)
        return {"bytes of text": size}

    return work, _size(pages)


# --- source code ------------------------------------------------------------------------------------------------------


def _code_ours(folder: Path, share: int) -> tuple[Work, int]:
    path = folder / "code.tar"
    reader = reader_of("repository", {"licenses": [], "paths": [str(folder)]})
    piece = FileRange(str(path), 0, path.stat().st_size, path.stat().st_size)

    def work() -> dict[str, Any]:
        found = [item for item in reader.read(piece, 10**8) if isinstance(item, Document)]
        return {"documents": len(found), "bytes of text": _size([item.text for item in found])}

    return work, path.stat().st_size


# --- web pages --------------------------------------------------------------------------------------------------------


def _write_web_pages(path: Path, texts: Sequence[str]) -> None:
    """Write pages, one in each line of a JSON Lines file: a text among navigation, related pages and a footer."""
    link = '<li class="menu-item"><a href="/{0}" title="page {0}"><span>Page number {0}</span></a></li>'
    menu = "".join(link.format(number) for number in range(60))
    with open(path, "w", encoding="utf-8") as file:
        for text in texts:
            lines = "".join(f"<p>{escape(line)} <b>x</b></p>\n" for line in _NOT_XML.sub("", text).split("\n") if line)
            page = (
                f"<html><head><script>{'var a = 1;' * 500}</script></head><body><nav><ul>{menu}</ul></nav>"
                f'<main><article><h1>Title</h1>{lines}</article><aside class="related"><ul>{menu}</ul></aside></main>'
                f"<footer><ul>{menu}</ul><p>All rights are reserved by those who wrote this.</p></footer></body></html>"
            )
            file.write(json.dumps(page) + "\n")


def _main_text(extractor: Extractor) -> Callable[[Path, int], tuple[Work, int]]:
    def prepare(folder: Path, share: int) -> tuple[Work, int]:
        extract = extract_with(extractor)
        pages = [json.loads(line) for line in (folder / "pages.jsonl").read_text("utf-8").splitlines()[::share]]
        return lambda: {"pages": len(pages), "bytes of text": _size([extract(page) for page in pages])}, _size(pages)

    return prepare


# --- Stack Exchange, EPUB, PDF ----------------------------------------------------------------------------------------


def _write_questions(path: Path, texts: Sequence[str]) -> None:
    """Write a site: each text is a question, its paragraphs are HTML, and the next one answers it."""
    rows = ['<?xml version="1.0" encoding="utf-8"?>', "<posts>"]
    for number, text in enumerate(texts):
        kind = f'PostTypeId="2" ParentId="{number}"' if number % 2 else 'PostTypeId="1" Title="Title"'
        paragraphs = "".join(f"<p>{escape(line)} <b>x</b></p>" for line in _NOT_XML.sub("", text).split("\n") if line)
        rows.append(f'  <row Id="{number + 1}" {kind} Score="{number % 7}" Body={quoteattr(paragraphs)} />')
    path.parent.mkdir()
    path.write_text("\n".join([*rows, "</posts>", ""]), encoding="utf-8")


def _write_book(path: Path, texts: Sequence[str]) -> None:
    """Write an EPUB: each text is a chapter."""
    items = "".join(f'<item id="c{n}" href="{n}.xhtml" media-type="application/xhtml+xml"/>' for n in range(len(texts)))
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(texts)))
    package = (
        f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{spine}</spine></package>'
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("META-INF/container.xml", '<container><rootfile full-path="book.opf"/></container>')
        book.writestr("book.opf", package)
        for number, text in enumerate(texts):
            lines = "".join(f"<p>{escape(line)}</p>" for line in _NOT_XML.sub("", text).split("\n") if line)
            book.writestr(f"{number}.xhtml", f"<html><body><h1>Chapter {number}</h1>{lines}</body></html>")


def _write_pages(path: Path, texts: Sequence[str]) -> None:
    """Write a PDF with two columns a page."""
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    lines = [
        line for text in texts for line in textwrap.wrap(_NOT_XML.sub("", text.encode("ascii", "ignore").decode()), 48)
    ]
    with PdfPages(path) as pages:
        for start in range(0, min(len(lines), 60 * 120), 120):
            figure = Figure(figsize=(8.3, 11.7))
            for side in range(2):
                shown = "\n".join(lines[start + 60 * side : start + 60 * (side + 1)])
                figure.text(0.07 + 0.45 * side, 0.95, shown, fontsize=8, va="top", parse_math=False)
            pages.savefig(figure)


def _ours(kind: str, name: str) -> Callable[[Path, int], tuple[Work, int]]:
    def prepare(folder: Path, share: int) -> tuple[Work, int]:
        path = folder / name
        return lambda: _documents(kind, path), path.stat().st_size

    return prepare


def _soup_questions(folder: Path, share: int) -> tuple[Work, int]:
    from bs4 import BeautifulSoup

    path = folder / "site" / "Posts.xml"

    def work() -> dict[str, Any]:
        bodies = (row.get("Body", "") for _, row in ElementTree.iterparse(path) if row.tag == "row")
        return {"bytes of text": sum(len(BeautifulSoup(body, "html.parser").get_text().encode()) for body in bodies)}

    return work, path.stat().st_size


def _soup_book(folder: Path, share: int) -> tuple[Work, int]:
    from bs4 import BeautifulSoup

    path = folder / "book.epub"

    def work() -> dict[str, Any]:
        with zipfile.ZipFile(path) as book:
            chapters = [book.read(name) for name in book.namelist() if name.endswith(".xhtml")]
        return {"bytes of text": sum(len(BeautifulSoup(page, "html.parser").get_text().encode()) for page in chapters)}

    return work, path.stat().st_size


def _pypdf(folder: Path, share: int) -> tuple[Work, int]:
    import pypdf

    path = folder / "pages.pdf"
    pages = len(pypdf.PdfReader(path).pages)

    def work() -> dict[str, Any]:
        texts = [page.extract_text() for page in list(pypdf.PdfReader(path).pages)[::share]]
        return {"pages": len(texts), "bytes of text": _size(texts)}

    return work, path.stat().st_size * len(range(0, pages, share)) // pages


CONTENDERS = {
    "ours, dump": Contender("Wikipedia: a dump (bzip2) to documents", "wikiextractor, dump", 1, _dump_ours),
    "ours, wikitext": Contender("its wikitext alone, in memory", "mwparserfromhell", 1, _wikitext_ours),
    "wikiextractor, dump": Contender("wikiextractor, without templates", None, 1, _dump_wikiextractor),
    "wikiextractor, wikitext": Contender("its `Extractor.clean_text`, in memory", None, 4, _wikitext_wikiextractor),
    "mwparserfromhell": Contender("mwparserfromhell, `strip_code`", None, 4, _mwparserfromhell),
    "ours, web pages": Contender("web pages: main text, in memory", "trafilatura", 1, _main_text("blocks")),
    "resiliparse": Contender("Resiliparse's main content", "trafilatura", 1, _main_text("resiliparse")),
    "trafilatura": Contender("trafilatura, `extract`", None, 4, _main_text("trafilatura")),
    "ours, questions": Contender(
        "Stack Exchange: a site to documents", "BeautifulSoup, questions", 1, _ours("stackexchange", "site/Posts.xml")
    ),
    "BeautifulSoup, questions": Contender("its posts, BeautifulSoup's `get_text`", None, 1, _soup_questions),
    "ours, EPUB": Contender("EPUB: a book to a document", "BeautifulSoup, EPUB", 1, _ours("epub", "book.epub")),
    "BeautifulSoup, EPUB": Contender("its chapters, BeautifulSoup's `get_text`", None, 1, _soup_book),
    "ours, PDF": Contender("PDF: two columns to a document", "pypdf", 1, _ours("pdf", "pages.pdf")),
    "pypdf": Contender("pypdf, `extract_text`", None, 1, _pypdf),
    "ours, code": Contender("code: Python's library in an archive, to documents", None, 1, _code_ours),
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
