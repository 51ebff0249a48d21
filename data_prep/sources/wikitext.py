"""Wikitext as plain text: the prose of an article, with its headings, lists, quoted code and formulas.

Templates, tables, references, files, categories, comments and the markup of links are removed. Templates that only
format a few words, such as `{{lang|fr|mot}}`, leave these words, see `wikitext_templates`. A section without text has
no heading. Formulas stay in LaTeX between dollar signs.

One scan with a stack finds what is nested, as MediaWiki's preprocessor does; what is never closed is text. The work is
linear in the length of the page: nesting deeper than `_DEEPEST` is dropped without being joined.

Source of the syntax: MediaWiki, "Preprocessor ABNF" and "Help:Formatting"; apostrophes as in `Parser::doQuotes`.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field

from data_prep.sources.wikitext_templates import rule_of

_TOKEN = re.compile(
    r"<!--"
    r"|\{\{([^{}\[\]<>]*)\}\}"
    r"|\[\[([^\[\]{}|<>\n]*)(?:\|([^\[\]{}|<>\n]*))?\]\]"
    r"|<(/?)([a-zA-Z][a-zA-Z0-9]*)((?:[\s/][^<>]*)?)>"
    r"|\{\{|\}\}|\[\[|\]\]|\{\||\|\}"
)
_TEMPLATE, _LINK, _NAMED_LINK, _TAG = 1, 2, 3, 6
"""Last group of a token that is whole."""
_DEEPEST = 40
"""Deepest nesting that is read; MediaWiki itself expands templates to this depth (`$wgMaxTemplateDepth`)."""

_DROPPED = "\0"
"""Mark where something was removed, so that only brackets and spaces around it are cleaned. It cannot be in XML."""
_KEPT = re.compile("\1(\\d+)\2")
"""Mark of text that is taken literally, such as code; put back at the end."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CONTENT_DROPPED = _names(
    "ref references gallery timeline imagemap score graph chart mapframe maplink templatedata templatestyles hiero "
    "inputbox categorytree indicator includeonly phonos rt rp section dynamicpagelist charinsert"
)
_LITERAL = _names("nowiki pre syntaxhighlight source")
_FORMULA = _names("math chem ce")
_BLOCK = _names(
    "address article aside blockquote center dd details div dl dt figure figcaption footer h1 h2 h3 h4 h5 h6 header hr "
    "li main nav ol p poem summary ul"
)
_INLINE_TAGS = _names(
    "abbr b bdi bdo big br caption cite code data del dfn em font i ins kbd mark noinclude onlyinclude q rb ruby s "
    "samp small span strike strong sub sup time tt u var wbr"
)
_TABLE_TAGS = _names("table tbody thead tfoot tr td th")
_CLOSING = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in _CONTENT_DROPPED | _LITERAL | _FORMULA}

_POWER = re.compile(r"([+\-−]?\d{1,4})</sup\s*>", re.IGNORECASE)
_RAISED = str.maketrans("0123456789+-−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻")

_EXTERNAL_LINK = re.compile(
    r"\[(?:(?:https?:|ftps?:|irc:|)//|mailto:|news:)[^\s\[\]\0]*(?:(?:[^\S\n]|\0)([^\[\]\n]*))?\]"
)
_VARIANTS = re.compile(r"-\{([^{}]*)\}-")
_VARIANT = re.compile(r"(?:^|[;\n])\s{0,4}([a-z]{2,3}(?:-[a-z]{2,4})?)\s{0,4}:")
_MAGIC_WORD = re.compile(r"__[A-Z\u00aa-\uffff](?:[A-Z\u00aa-\uffff]|_(?!_)){2,30}__")
_SEVERAL_DROPPED = re.compile(r"\0(?: ?\0)+")
_EMPTY_BRACKETS = re.compile(r" ?[(（\[][\s,;:،、，；/·•–—-]*\0[\0\s,;:،、，；/·•–—-]*[)）\]]")
_AFTER_OPENING = re.compile(r"(?<=[(（])[ ,;:،、，；]*\0[\0 ,;:،、，；]*")
_BEFORE_CLOSING = re.compile(r"(?:[,;:،、，；] ?| )?\0 ?(?=[)）])")
_SPACE_BEFORE_POINT = re.compile(r" ?\0(?=[.,;:)])")
_SPACES = re.compile(r"(?<=\S)[^\S\n]{2,}")
_ENTITY = re.compile(r"&(?:#\d{1,8}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});")
_LIST = re.compile(r"[*#:;]+")
_DEEPEST_LIST = 8
_UNCLOSED_TABLE = re.compile(r"(?:^[ \t:*#;]*\{\||<table).*?(?=^==|\Z)", re.MULTILINE | re.DOTALL)
_APOSTROPHES = re.compile(r"('{2,})")
_LINE_START = frozenset(" \t:*#;")


@dataclass(frozen=True)
class Names:
    """Names of a wiki that its markup depends on.

    Attributes:
        hidden: namespaces, in lower case, whose links show nothing: files and categories.
        languages: prefixes of links to the same article in other languages, which show nothing.
        variants: codes of writing systems in the order of preference, for `-{zh-hans:…;zh-hant:…}-`; empty: this is no
            markup, as on wikis in a single one.
    """

    hidden: frozenset[str]
    languages: frozenset[str] = frozenset()
    variants: tuple[str, ...] = ()


@dataclass(frozen=True)
class Article:
    """Plain text of a page.

    Attributes:
        list_share: share of its characters that are in items of lists.
        templates: names of all its templates, in lower case with spaces.
    """

    text: str
    list_share: float
    templates: frozenset[str] = field(default_factory=frozenset)


def render(wikitext: str, names: Names) -> Article:
    """Return the plain text of a page without its title."""
    page = _Page(wikitext.replace("\r\n", "\n"), names)
    text = _cleaned(page.scan(), names)
    lines, in_lists = _lines(text)
    text = "\n".join(lines)
    if "&" in text:
        text = _ENTITY.sub(lambda entity: _decoded(entity[0]), text)
    if page.kept:
        text = _KEPT.sub(lambda mark: page.kept[int(mark[1])], text)
    total = sum(map(len, lines))
    return Article(text.strip("\n"), in_lists / total if total else 0.0, frozenset(page.templates))


def _decoded(entity: str) -> str:
    """Decode an entity; a no-break space becomes a space, and what may not be in a text nothing."""
    character = html.unescape(entity)
    return " " if character == "\xa0" else "" if character < "\t" else character


# ---------------------------------------------------------------------------------------------------------------------
# what is nested: one scan with a stack


class _Page:
    """Scan of a page: text goes to `out`; a frame is an opening and its place in `out`, where it stays if it is never
    closed."""

    def __init__(self, text: str, names: Names) -> None:
        self.text, self.names = text, names
        self.kept: list[str] = []
        self.templates: set[str] = set()
        self.out: list[str] = []
        self.frames: list[tuple[str, int]] = []
        self.open = {"{{": 0, "[[": 0, "{|": 0, "<table": 0}
        self._unclosed: set[str] = set()  # tags that have no end in the rest of the page

    def scan(self) -> str:
        text, out, search = self.text, self.out, _TOKEN.search
        place = 0
        while (token := search(text, place)) is not None:
            start = token.start()
            if start > place:
                out.append(text[place:start])
            place = token.end()
            kind = token.lastindex
            if kind in (_LINK, _NAMED_LINK):
                out.append(self._link(token[2], token[3]))
            elif kind == _TEMPLATE:
                out.append(self._template(token[1]))
            elif kind == _TAG:
                place = self._tag(token)
            else:
                place = self._mark(token[0], start, place)
        out.append(text[place:])
        self._close_all()
        return "".join(out)

    def _mark(self, mark: str, start: int, place: int) -> int:
        """Process an opening or a closing, or the start of a comment; return where to go on."""
        if mark == "<!--":
            end = self.text.find("-->", place)
            place = len(self.text) if end < 0 else end + 3
            if self._begins_line(start) and self.text.startswith("\n", place):
                place += 1  # a comment alone on its line takes the line with it
        elif mark == "{{" or mark == "[[":
            self._push(mark)
        elif mark == "}}":
            self._close_template()
        elif mark == "]]":
            self._close_link()
        elif mark == "{|":
            if self._begins_line(start):
                self._push(mark)
            else:
                self.out.append("{")
                return start + 1
        elif self.open["{|"] and self.frames[-1][0] == "{|" and self._closes_table(start, place):
            self._drop("{|")
        else:
            self.out.append("|")
            return start + 1
        return place

    def _begins_line(self, start: int) -> bool:
        text = self.text
        while start and text[start - 1] in _LINE_START:
            start -= 1
        return not start or text[start - 1] in "\n>"

    def _closes_table(self, start: int, place: int) -> bool:
        """`|}` closes a table at the start of a line, unless it is the end of a template with an empty argument."""
        is_end_of_template = self.text.startswith("}", place) and not self.text.startswith("}}", place)
        return not is_end_of_template and self._begins_line(start)

    def _push(self, kind: str) -> None:
        self.frames.append((kind, len(self.out)))
        self.out.append(kind)
        self.open[kind] += 1

    def _pop(self) -> tuple[str, int]:
        kind, place = self.frames.pop()
        self.open[kind] -= 1
        return kind, place

    def _drop(self, kind: str) -> None:
        """Remove everything since the last opening of this kind."""
        while True:
            found, place = self._pop()
            if found == kind:
                break
        del self.out[place:]
        self.out.append(_DROPPED)

    def _close_template(self) -> None:
        if not self.open["{{"]:
            self.out.append("}}")
            return
        while self.frames[-1][0] != "{{":  # a link or a table that is not closed within the template
            self._pop()
        _, place = self._pop()
        name = content = self.out[place + 1].partition("|")[0] if place + 1 < len(self.out) else ""
        if len(self.frames) < _DEEPEST and (":" in name or rule_of(_template_name(name)) is not None):
            content = "".join(self.out[place + 1 :])
        del self.out[place:]
        self.out.append(self._template(content))

    def _close_link(self) -> None:
        if not self.frames or self.frames[-1][0] != "[[":
            self.out.append("]]")
            return
        _, place = self._pop()
        if len(self.frames) >= _DEEPEST:
            del self.out[place:]
            self.out.append(_DROPPED)
            return
        content = "".join(self.out[place + 1 :])
        del self.out[place:]
        target, bar, label = content.partition("|")
        self.out.append(f"[[{content}]]" if "\n" in target else self._link(target, label if bar else None))

    def _close_all(self) -> None:
        """At the end of the page: what is not closed is text, but a table goes up to the next heading."""
        place = next((place for kind, place in self.frames if kind in ("{|", "<table")), None)
        if place is not None:
            rest = "".join(self.out[place:])
            del self.out[place:]
            self.out.append(_UNCLOSED_TABLE.sub(_DROPPED, rest))

    # -- links, templates, tags

    def _link(self, target: str, label: str | None) -> str:
        if ":" in target:
            namespace = target.partition(":")[0].replace("_", " ").strip().lower()
            if namespace in self.names.hidden or namespace in self.names.languages:
                return _DROPPED
            if not namespace:
                target = target.strip()[1:]
        return target.strip() if label is None else label

    def _template(self, content: str) -> str:
        name, bar, arguments = content.partition("|")
        key = _template_name(name)
        self.templates.add(key)
        rule = rule_of(key)
        if rule is None:
            if ":" not in name:
                return _DROPPED
            function, _, first = content.partition(":")  # a parser function: its first argument follows a colon
            rule = rule_of(_template_name(function) + ":")
            if rule is None:
                return _DROPPED
            return rule(first.split("|")) or _DROPPED
        return rule(arguments.split("|") if bar else []) or _DROPPED

    def _tag(self, token: re.Match[str]) -> int:
        slash, name, rest = token[4], token[5].lower(), token[6]
        place = token.end()
        if name in _CLOSING:
            if slash or (name in _LITERAL and rest.endswith("/")):
                return place
            if rest.endswith("/"):
                self.out.append(_DROPPED)
                return place
            return self._with_content(name, rest, place)
        if name in _INLINE_TAGS:
            if name == "br":
                self.out.append("\n")
            elif name == "sup" and not slash and (power := _POWER.match(self.text, place)):
                self.out.append(power[1].translate(_RAISED))
                return power.end()
        elif name in _BLOCK:
            self.out.append("\n* " if name == "li" and not slash else "\n")
        elif name == "table":
            if not slash:
                self._push("<table")
            elif self.open["<table"]:
                self._drop("<table")
        elif name not in _TABLE_TAGS:
            self.out.append(token[0])  # MediaWiki shows tags that it does not know
        return place

    def _with_content(self, name: str, rest: str, place: int) -> int:
        """Process a tag whose content is no wikitext; return where to go on."""
        end = None if name in self._unclosed else _CLOSING[name].search(self.text, place)
        if end is None:
            self._unclosed.add(name)
            return place
        content = self.text[place : end.start()]
        if name in _CONTENT_DROPPED:
            self.out.append(_DROPPED)
        elif name in _FORMULA:
            formula = " ".join(content.split())
            self._keep(f"${formula}$" if name == "math" else formula)
        elif name == "nowiki":
            self._keep(_ENTITY.sub(lambda entity: _decoded(entity[0]), content))
        else:
            code = _ENTITY.sub(lambda entity: _decoded(entity[0]), content) if name == "pre" else content
            is_inline = "\n" not in code and ("inline" in rest or not self._begins_line(place))
            self.out.append("" if is_inline else "\n")
            self._keep(code.strip("\n"))
            self.out.append("" if is_inline else "\n")
        return end.end()

    def _keep(self, text: str) -> None:
        self.out.append(f"\1{len(self.kept)}\2")
        self.kept.append(text)


def _template_name(name: str) -> str:
    name = name.strip(" \n\t\0")
    return name.replace("_", " ").lower() if len(name) < 100 else ""


# ---------------------------------------------------------------------------------------------------------------------
# what is on a line


def _cleaned(text: str, names: Names) -> str:
    """Remove the markup that is not nested, and what removed parts leave: empty brackets, double spaces."""
    if names.variants and "-{" in text:
        for _ in range(2):  # one may be in another
            text = _VARIANTS.sub(lambda match: _variant(match[1], names.variants), text)
    text = _EXTERNAL_LINK.sub(lambda match: (match[1] or "").strip() or _DROPPED, text)
    if "__" in text:
        text = _MAGIC_WORD.sub("", text)
    if _DROPPED in text:
        text = _SEVERAL_DROPPED.sub(_DROPPED, text)
        text = _EMPTY_BRACKETS.sub(_DROPPED, text)
        text = _AFTER_OPENING.sub("", text)
        text = _BEFORE_CLOSING.sub("", text)
        text = _SPACE_BEFORE_POINT.sub(_DROPPED, text)
    return text


def _variant(content: str, variants: tuple[str, ...]) -> str:
    """Return what `-{…}-` shows to readers who prefer the first of `variants`."""
    flags, bar, body = content.partition("|")
    if bar and re.fullmatch(r"[A-Za-z;\- ]*", flags):
        if set(flags.upper()) & set("TH-") and not flags.islower():
            return ""
        content = body
    found = list(_VARIANT.finditer(content))
    if not found:
        return content
    ends = [*(match.start() for match in found[1:]), len(content)]
    texts = {match[1]: content[match.end() : end].strip(" ;\n") for match, end in zip(found, ends, strict=True)}
    return next((texts[code] for code in variants if code in texts), next(iter(texts.values())))


def _lines(text: str) -> tuple[list[str], int]:
    """Return the lines of a page, and the number of characters in items of lists."""
    lines: list[tuple[int, str]] = []  # level of a heading, or 0 for text
    numbers: dict[str, int] = {}
    in_lists = 0
    for line in text.split("\n"):
        line = line.replace(_DROPPED, "").rstrip() if _DROPPED in line else line.rstrip()
        if not line or line.isspace():
            lines.append((0, ""))
            numbers.clear()
            continue
        first = line[0]
        if first == "|":
            continue  # a row of a table whose start is in a template
        is_item = first in "*#:;"
        if is_item:
            line = _item(line, numbers)
            if not line:  # an indented table ends a paragraph, an empty bullet does not end a list
                lines += [(0, "")] if first in ":;" else []
                continue
        else:
            numbers.clear()
        if first == "=" and line[-1] == "=" and (heading := line.strip("=")).strip():
            level = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")), 6)
            heading = line[level:-level] if level * 2 < len(line) - len(heading) else heading
            lines.append((level, _without_apostrophes(heading).strip()))
            continue
        if first == "-" and line.startswith("----"):
            line = line.lstrip("-").lstrip()
        elif first == " ":
            line = line[1:]
        if "''" in line:
            line = _without_apostrophes(line)
        if "  " in line and first != " ":
            line = _SPACES.sub(" ", line)
        in_lists += len(line) if is_item and first in "*#" else 0
        lines.append((0, line))
    return _with_headings(lines), in_lists


def _item(line: str, numbers: dict[str, int]) -> str:
    """Return an item of a list: bullets as `- `, numbers as `1. `, others without a mark; empty without content."""
    marks = _LIST.match(line)[0]  # type: ignore[index]
    content, prefix = line[len(marks) :].strip(), marks[:_DEEPEST_LIST]
    for deeper in [known for known in numbers if not prefix.startswith(known)]:
        del numbers[deeper]
    if not content:
        return ""
    indent = "  " * (len(prefix) - 1)
    if marks[-1] == "*":
        return f"{indent}- {content}"
    if marks[-1] == "#":
        numbers[prefix] = numbers.get(prefix, 0) + 1
        return f"{indent}{numbers[prefix]}. {content}"
    return content


def _with_headings(lines: list[tuple[int, str]]) -> list[str]:
    """Put each heading between empty lines, leave out those without text, and single out empty lines."""
    found: list[str] = []  # from the end to the start
    has_text, below = False, 0
    for level, line in reversed(lines):
        if not level:
            has_text = has_text or bool(line)
            if line or (found and found[-1]):
                found.append(line)
            continue
        if has_text or below > level:
            if found and found[-1]:
                found.append("")
            found += [line, ""]
            has_text, below = False, level
    while found and not found[-1]:
        found.pop()
    return found[::-1]


def _without_apostrophes(line: str) -> str:
    """Remove the marks of bold and italic text, and keep apostrophes, as in `l'''homme''`."""
    if "''" not in line:
        return line
    parts = _APOSTROPHES.split(line)
    marks = [_divided(parts[place]) for place in range(1, len(parts), 2)]
    bold = sum(size in (3, 5) for _, size in marks)
    italic = sum(size in (2, 5) for _, size in marks)
    if bold % 2 and italic % 2:
        place = _wrong_bold(parts, [size for _, size in marks])
        if place is not None:
            marks[place] = (marks[place][0] + 1, 2)
    for place, (kept, _) in enumerate(marks):
        parts[2 * place + 1] = "'" * kept
    return "".join(parts)


def _divided(apostrophes: str) -> tuple[int, int]:
    """Return how many apostrophes of a run are text, and how many are its mark: 2, 3 or 5."""
    size = len(apostrophes)
    mark = size if size < 4 else 3 if size == 4 else 5
    return size - mark, mark


def _wrong_bold(parts: list[str], sizes: list[int]) -> int | None:
    """Return which mark of bold is an apostrophe and a mark of italic: one after a word of a single letter, else the
    first after a longer word, else the first after a space."""
    after_word = after_space = None
    for place, size in enumerate(sizes):
        if size != 3:
            continue
        before = parts[2 * place]
        if before[-1:] == " ":
            after_space = place if after_space is None else after_space
        elif before[-2:-1] == " ":
            return place
        else:
            after_word = place if after_word is None else after_word
    return after_word if after_word is not None else after_space
