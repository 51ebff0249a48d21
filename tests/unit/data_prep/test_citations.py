"""Addresses inside of references, from wikitext as people write it, and their list from dumps in one or many parts."""

from __future__ import annotations

import bz2
import gzip
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest

from data_prep import citations
from data_prep.citations import (
    address_key,
    cited_addresses,
    is_cited,
    is_dump,
    list_citations,
    read_list,
    reason_against,
)


def page(text: str, title: str = "A", ns: int = 0, extra: str = "") -> str:
    revision = f"<revision><id>2</id>{extra}<text>{escape(text)}</text></revision>"
    return f"  <page><title>{title}</title><ns>{ns}</ns><id>1</id>{revision}</page>\n"


def dump(*pages: str) -> str:
    head = "<mediawiki xml:lang='en'>\n  <siteinfo><dbname>enwiki</dbname></siteinfo>\n"
    return f"{head}{''.join(pages)}</mediawiki>\n"


@pytest.mark.parametrize(
    ("wikitext", "found"),
    [
        ("<ref>{{cite web |url=http://a.org/x |title=T}}</ref>", ["http://a.org/x"]),
        ("<ref>{{Internetquelle|url=https://a.de/x?y=1&amp;z=2&region=3|titel=T}}</ref>",
         ["https://a.de/x?y=1&z=2&region=3"]),
        ("<ref name=\"n/m\" group='g'>[http://a.org/x#y Title, p. 3]</ref>", ["http://a.org/x#y"]),
        ("<REF >See http://a.org/x, and (http://b.org/y).</Ref >", ["http://a.org/x", "http://b.org/y"]),
        ("<ref>http://a.org/x_(y)</ref><ref>''http://b.org/z''.</ref>", ["http://a.org/x_(y)", "http://b.org/z"]),
        ("<ref>[//a.org/x T] // Журнал</ref>", ["https://a.org/x"]),
        ("<ref>{{cite|url={{x}}|archive-url=https://web.archive.org/web/1/http://a.org/|url2=http://a.org}}</ref>",
         ["https://web.archive.org/web/1/http://a.org/", "http://a.org"]),
        ("[http://a.org no reference] {{cite web|url=http://b.org}} <references /> http://c.org", []),
        ("<ref name=a /> [http://a.org between] <ref name=b/>http://b.org</ref>", []),
        ("<ref>http://a.org <ref>http://b.org</ref> http://c.org</ref> http://d.org", ["http://b.org"]),
        ("<ref>http://a.org", []),
        ("<!-- <ref>http://a.org</ref> --><nowiki><ref>http://b.org</ref></nowiki><ref>http://c.org</ref>",
         ["http://c.org"]),
        ("<references><ref name=x>http://a.org/l</ref></references>", ["http://a.org/l"]),
        ("<reference>http://a.org</reference> <ref>ftp://b.org mailto:c@d.org www.e.org</ref>", []),
    ],
)  # fmt: skip
def test_addresses_of_references_alone_are_found(wikitext: str, found: list[str]) -> None:
    assert list(cited_addresses(wikitext)) == found


def test_spellings_of_an_address_have_one_key() -> None:
    same = ["http://b.org/x", "HTTPS://WWW.B.org/x/", "https://b.org./x#y", "http://b.org:80/x", " http://b.org/x "]
    assert {address_key(url) for url in same} == {"b.org/x"}
    assert address_key("http://b.org/X?d=1") == "b.org/X?d=1"
    for url in ("", "b.org/x", "ftp://b.org", "/data/pages.jsonl#byte=0", "http://localhost/x", "http://[half"):
        assert address_key(url) == ""


def test_reasons_against_addresses() -> None:
    for url, reason in (
        ("https://web.archive.org/web/2010/http://a.org", "addresses: in archives"),
        ("https://de.wikipedia.org/wiki/A", "addresses: of wikis"),
        ("https://notarchive.org/x?y", None),
        ("http:///x", "addresses: not of the web"),
    ):
        assert reason_against(address_key(url)) == reason


PAGES = (
    page("<ref>http://a.org/1</ref> <ref>[https://www.a.org/1/ again]</ref> <ref>http://en.wikipedia.org/wiki/B</ref>"),
    page("<ref>http://talk.org</ref>", ns=1),
    page("<ref>http://style.org</ref>", extra="<model>css</model>"),
    page("<ref>http://redirect.org</ref>").replace("<revision>", "<redirect title='B'/><revision>"),
    "<page><title>broken</page>",
    page("<ref>{{cite|url=http://b.org/2?q=1&r=2}} {{cite|url=http://a.org/1|archiveurl=http://archive.is/x}}</ref>"),
    page("nothing"),
)
COUNTS = {
    "articles": 3,
    "addresses": 2,
    "addresses: cited before": 2,
    "addresses: in archives": 1,
    "addresses: of wikis": 1,
    "pages: pages of other namespaces": 1,
    "pages: pages that are not wikitext": 1,
    "pages: redirects": 1,
    "pages: invalid_xml": 1,
}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dump_becomes_a_list(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = dump(*PAGES).encode()
    streams = b"".join(map(bz2.compress, (dump(*PAGES[:1])[:-13].encode(), *(one.encode() for one in PAGES[1:]))))
    streams += bz2.compress(b"</mediawiki>\n")
    files = {"one.xml": text, "wiki.xml.bz2": streams, "one.xml.gz": gzip.compress(text)}
    for range_bytes in (16_000_000, 100):
        monkeypatch.setattr(citations, "_RANGE_BYTES", range_bytes)
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
            keys, counts = list_citations(tmp_path / name, tmp_path / "cited.txt", workers)
            assert (tmp_path / "cited.txt").read_text() == "http://a.org/1\nhttp://b.org/2?q=1&r=2\n", name
            assert counts == Counter(COUNTS), name
            assert np.array_equal(read_list(tmp_path / "cited.txt"), keys)
    assert is_cited(keys, "https://b.org/2?q=1&r=2") and is_cited(keys, "http://www.a.org/1/#top")
    assert not is_cited(keys, "http://b.org/2") and not is_cited(keys, "no address")
    assert is_dump(tmp_path / "wiki.xml.bz2") and not is_dump(tmp_path / "cited.txt")


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.xml").write_text(dump(page("<ref>A book.</ref>")))
    with pytest.raises(ValueError, match=r"none\.xml: none of its 1 articles cites an address inside of <ref>"):
        list_citations(tmp_path / "none.xml", tmp_path / "cited.txt", 1)
    assert not (tmp_path / "cited.txt").exists()
    (tmp_path / "list.txt").write_text("http://a.org\n\nb.org/x\n")
    with pytest.raises(ValueError, match=r"list\.txt:3: 'b\.org/x' is no web address, such as https://example\.com/a"):
        read_list(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"list\.txt: has no address; one per line"):
        read_list(tmp_path / "list.txt")
