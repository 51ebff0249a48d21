"""The main content of web pages: kinds of pages, languages, lines, names, and the figures on marked pages."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import zstandard

from data_prep.sources.html import extract_blocks, extract_with
from data_prep.sources.web_encodings import decode_page
from tests.unit.data_prep.sources.web_page_kinds import AROUND, KINDS, content_of, page_of

DATA = Path(__file__).parents[5] / "shared" / "data"
MARKED = DATA / "extraction" / "truth.jsonl"
SENTENCES = DATA / "gold_langid_sentences.jsonl.zst"

SENTENCE = "The pump has been moved to the other side of the garden, where the old well is."
OTHER = "It took two people a whole afternoon, because the pipe had to be laid in the ground as well."
ARTICLE = "".join(f"<p>{SENTENCE} {OTHER} This is paragraph {number}.</p>" for number in range(8))


def as_lines(page: str) -> list[str]:
    return [line for line in extract_blocks(page).split("\n") if line]


def shingles(text: str) -> Counter[tuple[str, ...]]:
    words = re.findall(r"\w+", text)
    return Counter(tuple(words[start : start + 4]) for start in range(max(1, len(words) - 3)))


def test_marked_pages() -> None:
    """By the collection's measure; a bound is a little below what was measured."""
    if not MARKED.exists():
        pytest.skip("the collection of marked pages is not on this machine")
    found: dict[str, list[tuple[float, float]]] = {"blocks": [], "resiliparse": []}
    for line in MARKED.read_text().splitlines():
        marked = json.loads(line)
        page = decode_page(gzip.decompress((MARKED.parent / marked["page"]).read_bytes()), None)
        assert page is not None
        truth = shingles(marked["text"])
        for extractor in ("blocks", "resiliparse"):
            text = shingles(extract_with(extractor)(page))
            both = (truth & text).total()
            found[extractor].append((both / text.total(), both / truth.total()))
    scores = {}
    for extractor, pages in found.items():
        precision, recall = (sum(values) / len(pages) for values in zip(*pages, strict=True))
        scores[extractor] = (2 * precision * recall / (precision + recall), precision, recall)
    score, precision, recall = scores["blocks"]
    assert score > 0.97 and precision > 0.96 and recall > 0.98, scores
    assert 0.90 < scores["resiliparse"][0] < 0.92, scores


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_content_is_lost_whatever_the_kind_of_page(kind: str) -> None:
    text = extract_blocks(page_of(kind))
    flat = "".join(text.split())
    place = 0
    for part in content_of(kind):
        found = flat.find("".join(part.split()), place)
        assert found >= 0, f"{part!r} is missing after {flat[:place][-60:]!r}"
        place = found + len("".join(part.split()))
    content = " ".join(content_of(kind))
    assert not [words for words in AROUND if words in text and words not in content]


def test_texts_of_many_languages() -> None:
    """Three templates without and with meaning in their tags; never worse than Resiliparse's extraction."""
    if not SENTENCES.exists():
        pytest.skip("the sentences of many languages are not on this machine")
    sentences: defaultdict[str, list[str]] = defaultdict(list)
    for line in zstandard.decompress(SENTENCES.read_bytes(), 1 << 24).splitlines():
        sentence = json.loads(line)
        sentences[sentence["lang"]].append(sentence["text"])
    assert len(sentences) >= 20 and {"ar", "fa", "hi", "ja", "ko", "ru", "th", "zh"} <= sentences.keys()
    theirs = extract_with("resiliparse")
    for language, texts in sentences.items():
        for page, content in _pages_in_a_language(texts):
            ours = _overlap(extract_blocks(page), content)
            assert ours >= max(0.97, _overlap(theirs(page), content)), (language, page[:60])


def _pages_in_a_language(texts: list[str]) -> list[tuple[str, str]]:
    links = [f'<a href="/{number}">{text[:14]}</a>' for number, text in enumerate(texts[40:52])]
    items = "".join(f"<li>{link}</li>" for link in links)
    related = "".join(f'<li><a href="/r">{text}</a></li>' for text in texts[52:57])
    pairs = [f"{texts[n]} {texts[n + 1]}" for n in range(0, 12, 2)]
    paragraphs = "".join(f"<p>{pair}</p>" for pair in pairs)
    short = "".join(f"<p>{text}</p>" for text in texts[12:24])
    return [
        (
            f"<header><nav><ul>{items}</ul></nav></header><main><article><h1>{texts[70]}</h1>{paragraphs}<aside><ul>"
            f"{related}</ul></aside></article></main><footer><p>{texts[60]}</p></footer>",
            "\n".join([texts[70], *pairs]),
        ),
        (
            f'<body dir="rtl"><div><ul>{items}</ul></div><div><div class="a">{short}</div><div class="b"><h3>'
            f"{texts[71][:10]}</h3><ul>{related}</ul></div></div><div>{''.join(links)}</div></body>",
            "\n".join(texts[12:24]),
        ),
        (
            f"<table><tr><td>{'<br>'.join(links)}</td><td>{'<br><br>'.join(pairs)}</td></tr></table>",
            "\n".join(pairs),
        ),
    ]


def _overlap(text: str, content: str) -> float:
    """Return F1 of 4-grams of characters, for languages without spaces too."""
    grams = []
    for one in (text, content):
        characters = "".join(one.split())
        grams.append(Counter(characters[start : start + 4] for start in range(len(characters) - 3)))
    return 2 * (grams[0] & grams[1]).total() / (grams[0].total() + grams[1].total())


@pytest.mark.parametrize(
    "sentence",
    [
        "ছোট নদীটি পাহাড় থেকে নেমে এসে গ্রামের পাশ দিয়ে সমুদ্রের দিকে বয়ে যায়।",
        "הנהר הקטן יורד מן ההר, עובר ליד הכפר, וזורם לאטו אל הים הגדול.",
        "小河从山上流下来，绕过村庄，慢慢地流向大海，夏天几乎没有水。",
        "小さな川は山から流れ下り、村のそばを通って、ゆっくりと海へ向かう。",
        "แม่น้ำสายเล็กไหลลงมาจากภูเขาผ่านข้างหมู่บ้านแล้วค่อยๆไหลลงสู่ทะเลกว้างใหญ่ที่อยู่ไกลออกไป",
    ],
)
def test_a_script_without_latin_punctuation_or_spaces(sentence: str) -> None:
    text = "".join(f"<p>{sentence}{sentence} {number}</p>" for number in range(5))
    menu = "".join(f"<li><a href='{number}'>{sentence[:9]}</a></li>" for number in range(9))
    page = f"<div><ul>{menu}</ul></div><div><div>{text}</div><div><ul>{menu}</ul></div></div>"
    assert as_lines(page) == [f"{sentence}{sentence} {number}" for number in range(5)]


LINES = f"""<main><h1>Pumps <small>and hoses</small></h1><p>One<br>two   lines.</p><p>{SENTENCE}</p>
<ul><li>first <b>item</b></li><li>second<ol start="3"><li>third</li><li><p>fourth</p><p>more of it</p></li></ol></li>
</ul>
<h3>Code</h3><pre>
if a &lt; b:
    run()

stop()
</pre><table><tr><th>speed</th><th>litres</th><th></th></tr><tr><td></td><td>1|2</td><td>x</td></tr></table>
<blockquote><p>Quoted.</p></blockquote><dl><dt>term</dt><dd>meaning</dd></dl></main>"""
PLAIN = f"""Pumps and hoses

One
two lines.

{SENTENCE}

- first item
- second
    3. third
    4. fourth

    more of it

Code

if a < b:
    run()

stop()

speed\tlitres
\t1|2\tx

Quoted.

term
meaning"""
MARKDOWN = f"""# Pumps and hoses

One
two lines.

{SENTENCE}

- first item
- second
    3. third
    4. fourth

        more of it

### Code

```
if a < b:
    run()

stop()
```

| speed | litres |  |
| --- | --- | --- |
|  | 1\\|2 | x |

> Quoted.

term
meaning"""


def test_lines_of_headings_lists_code_and_tables() -> None:
    assert extract_blocks(LINES) == PLAIN
    assert extract_blocks(LINES, markdown=True) == MARKDOWN


def test_code_with_fences_line_numbers_and_elements_for_lines() -> None:
    code = "<pre><div><span class='lineno'>1</span>a</div><div>  b</div>```</pre>"
    assert extract_blocks(code) == "a\n  b\n```"
    assert extract_blocks(code, markdown=True) == "````\na\n  b\n```\n````"


@pytest.mark.parametrize(
    "around",
    [
        '<div class="social-share"><p>Tell your friends about this text, please, wherever they are.</p></div>',
        '<div class="c-RelatedPosts"><h4>More</h4><p>Another text, which is about a pump elsewhere.</p></div>',
        '<div class="authorBox"><p>She has written about pumps for a long time, and likes gardens.</p></div>',
        '<div class="read-more"><p>Another text, which is about a well, is on the next page.</p></div>',
        '<div class="articleNewsletter"><p>Write to us, and we send you a letter each week, for free.</p></div>',
        '<section id="comments"><h2>Comments</h2><p>I do not agree with this, and never will, I say.</p></section>',
        '<figure><img src="a"><figcaption>A pump, photographed on a sunny day in May.</figcaption></figure>',
        '<p class="byline">By A. Writer, 3 May 2020, 10:11</p>',
        '<p><a href="/x">Read also: why the neighbour has no pump, and what he does about it in summer</a></p>',
        '<div><ul class="x"><li><a href="/1">One link</a></li><li><a href="/2">Another link</a></li></ul></div>',
        "<div hidden>Not to be seen, and nobody has ever seen this sentence.</div>",
        "<div style='display: none'>Not to be seen, and nobody has ever seen this sentence.</div>",
        "<script>if (a < b) { document.write('<p>no text, but a script</p>') }</script><!-- <p>no text</p> -->",
        "<button>Subscribe now to our letters, it is free</button><select><option>One</option></select>",
        "<template><p>A template, which is not shown, and has a sentence.</p></template>",
        "<noscript><p>Please switch on your scripts, otherwise nothing works here.</p></noscript>",
    ],
)  # fmt: skip
def test_what_is_in_a_text_and_no_part_of_it(around: str) -> None:
    page = f"<body><div class='a'>{ARTICLE.replace('</p>', '</p>' + around, 2)}{around}</div></body>"
    bare = page.replace(around, "")
    assert extract_blocks(page).replace("\n\n\n", "\n\n") == extract_blocks(bare)


def test_headings_go_with_what_is_below_them() -> None:
    links = "<div><ul><li><a href='/1'>pumps</a></li><li><a href='/2'>wells</a></li></ul></div>"
    headings = "<h2>A section</h2><h3>A part</h3><p>Text.</p><h2>Topics</h2>"
    page = f"<div>{ARTICLE}{headings}<h3>All of them</h3>{links}<h2>Signature without text</h2></div>"
    assert as_lines(page)[8:] == ["A section", "A part", "Text.", "Signature without text"]


def test_what_is_beside_the_container_of_most_sentences() -> None:
    code = "<div><pre>" + "".join(f"pump --empty {number}\n" for number in range(20)) + "</pre></div>"
    table = "<div><table>" + "<tr><td>power</td><td>400 W</td></tr>" * 20 + "</table></div>"
    text = f"<div>{ARTICLE * 2}</div>"
    for data in (code, table):
        assert extract_blocks(f"<body>{data}{text}</body>").startswith(("pump --empty 0\n", "power\t400 W\n"))
    beside = f"<div><p>{SENTENCE} {OTHER} {SENTENCE}</p></div>"
    assert len(as_lines(f"<body><main>{text}{beside}</main></body>")) == 17
    assert len(as_lines(f"<body><main>{text}</main>{beside}</body>")) == 16
    links = "<div><ul>" + "<li><a href='/x'>a river of some length</a></li>" * 60 + "</ul></div>"
    assert len(as_lines(f"<body><div>{ARTICLE}{links}</div></body>")) == 8
    assert len(as_lines(f"<body><div>{ARTICLE[: len(ARTICLE) // 8 * 2]}{links}</div></body>")) == 62  # a list of rivers
    linked = "<pre>" + "<a href='/t'>Pump</a> *<a href='/f'>new_pump</a>();\n" * 9 + "</pre>"
    assert "Pump *new_pump();" in extract_blocks(f"<body><div>{ARTICLE}{linked}</div></body>")


def test_what_looks_alike_and_is_a_part_of_the_text() -> None:
    for part in (
        "<h2><a href='#here'>A heading that is a link</a></h2>",
        "<div class='shareholders'><p>They sold what they had, and were paid for it.</p></div>",
        "<p>See <a href='/x'>the other page</a>, which says the same in other words.</p>",
        "<p class='hidden-xs'>Shown on large screens only, as it is long.</p>",
    ):
        page = f"<body><div class='a'>{ARTICLE}{part}{ARTICLE}</div></body>"
        words = " ".join(re.sub("<[^>]*>", "", part).split())
        assert words in extract_blocks(page), part


def test_names_count_only_if_enough_text_remains() -> None:
    """A wrapper of the whole text has such a name now and then."""
    for name in ("social", "comments", "sidebar", "widget", "promo", "footer", "modal", "caption", "meta"):
        assert len(as_lines(f"<body><div class='{name}'>{ARTICLE}</div></body>")) == 8, name
        two = f"<body><div class='{name}'>{ARTICLE}</div><p>{SENTENCE}</p></body>"
        assert len(as_lines(two)) >= 8, name
    thread = ARTICLE.replace("<p>", "<p class=comment>")  # a page of comments
    assert len(as_lines(f"<body><div>A short text</div>{thread}</body>")) == 9
    replies = f"<div class='comment'>{ARTICLE}</div>" + f"<div class='comment'><p>{OTHER}</p></div>" * 2
    assert len(as_lines(f"<body>{replies}</body>")) == 10
    bar = f"<div class='share'>{ARTICLE}</div>"  # too long for what it says that it is
    assert len(as_lines(f"<body><main>{bar}<div>{ARTICLE * 2}</div></main></body>")) == 24
    short = f"<p>{SENTENCE} {OTHER} {SENTENCE}</p>"
    assert len(as_lines(f"<body><article>{short}</article><div id='comments'>{ARTICLE}</div></body>")) == 1
    assert len(as_lines(f"<body><article>{short}</article><footer>{ARTICLE}</footer></body>")) == 1


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("", ""),
        ("<p>", ""),
        ("plain text", "plain text"),
        ("<nav><a href='/'>Home</a></nav>", ""),
        ("<div class='share'><a href='/'>Home</a></div>", "Home"),
        (f"<nav><p>{SENTENCE}</p></nav>", SENTENCE),  # a page that is all navigation has mistaken the tag
        ("<nav>a<nav>b</nav>c</nav><p>d</p>", "d"),
        ("<h1>Nothing yet</h1>", "Nothing yet"),
        ("<table><tr><td>1</td><td>2</td></tr></table>", "1\t2"),
        ("<frameset><frame src='a'></frameset>", ""),
        ("<div><a href='/1'>one</a></div><div><a href='/2'>two</a></div>", "one\ntwo"),
        ("<ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp>字</ruby>", "漢字"),
        ("a &lt;b&gt; &amp;amp; &amp;lt; c&nbsp;d", "a <b> &amp; &lt; c d"),
        ("<ol><li>a<li>b</ol>", "1. a\n2. b"),
        ("<p title='a > b'>x</p>", "x"),
        ("<p title='<b>a</b> <!--'>x</p><p>y</p>", "x\n\ny"),
        ("<plaintext><p>x", ""),
    ],
)
def test_small_pages(page: str, text: str) -> None:
    assert extract_blocks(page) == text


def test_damaged_pages_give_a_text() -> None:
    source = random.Random(7)
    pages = [page_of(kind) for kind in KINDS]
    tags = ("div", "p", "ul", "li", "table", "tr", "td", "pre", "a", "b", "br", "svg", "script", "blockquote", "select")
    for _ in range(300):
        page = source.choice(pages)
        cut = page[source.randrange(len(page)) :][: source.randrange(len(page))]
        soup = "".join(
            source.choice((f"<{tag}>", f"</{tag}>", f"<{tag} class='", "words, here. ", "<!--", "&#0;", "<"))
            for tag in source.choices(tags, k=60)
        )
        for damaged in (cut, soup, cut + soup):
            text = extract_blocks(damaged, markdown=source.random() < 0.5)
            assert "\0" not in text and "\n\n\n\n\n" not in text and text == text.strip("\n")
